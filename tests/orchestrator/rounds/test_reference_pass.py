"""Whether the reference scores a round's pairs follows from what the loss's form declares."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from orchestrator.commands.verify.command import verify
from orchestrator.config.forms import FORMS, reads_reference
from orchestrator.ledger.ledger import Ledger
from orchestrator.reports.lineage import follow
from orchestrator.sources.registry import SOURCES
from tests.support.stand_ins import StandIns, make_project, make_reward_model, run_job

OVERRIDES = {"robust": ["loss.smoothing=0.1"]}


def run(folder: Path, form: str) -> tuple[StandIns, Ledger]:
    workers = StandIns()
    changes: dict[str, Any] = {"pairs": {"rule": "best_rest"}} if FORMS[form].rows == "group" else {}
    if FORMS[form].reads_scores:
        make_reward_model(folder / "reward")
        changes = {"reward": {"models": [{"model": "reward"}]}, "pairs": {"rule": "best_worst"}, "loss": {"nll": 0}}
    run_job(make_project(folder, rounds=1, **changes), workers, f"loss.form={form}", *OVERRIDES.get(form, []))
    return workers, Ledger(folder / "run/ledger")


@pytest.mark.parametrize("form", FORMS)
def test_a_pass_is_made_where_the_loss_reads_a_reference_and_nowhere_else(tmp_path: Path, form: str) -> None:
    workers, ledger = run(tmp_path, form)
    read = FORMS[form].reads_reference
    assert workers.calls["reference"] == read
    assert ("rounds/01/reference" in ledger.state.commits) == read
    assert ("reference" in ledger.state.commits["rounds/01/train"].facts["executed"]) == read
    report = verify(tmp_path / "run")
    assert report.followed and not report.findings


@pytest.mark.parametrize(("form", "missed"), [("ipo", True), ("simpo", False), ("unheard of", True)])
def test_a_checkpoint_is_followed_to_its_reference_pass_where_it_has_one(
    tmp_path: Path, form: str, missed: bool
) -> None:
    _, ledger = run(tmp_path, "orpo")  # whose records have none
    state = ledger.state
    assert follow(tmp_path / "run", state, 1, SOURCES) == []
    state.configs[-1]["job"]["loss"]["form"] = form
    found = follow(tmp_path / "run", state, 1, SOURCES)
    assert any("comes from rounds/01/reference, which is not committed" in line for line in found) == missed


def test_the_report_tells_what_the_form_reads(tmp_path: Path) -> None:
    run(tmp_path, "simpo")
    report = (tmp_path / "run/report.md").read_text()
    assert "| loss | simpo |" in report and "| target margin | 0.5 |" in report and "| penalty |" not in report


def test_earlier_versions_knew_one_form_alone() -> None:
    assert reads_reference({"dpo": 1}, 1) and reads_reference({"dpo": [0, 1]}, 2)
    assert not reads_reference({"dpo": [0, 1]}, 1)
