"""Tasks of lm-evaluation-harness in a run, by vLLM: the base model's and the candidate's answers and figures are those
of the harness's own backend on the same weights."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.commands.verify.command import verify
from orchestrator.ledger.ledger import Ledger
from orchestrator.records.harness import SAMPLES
from orchestrator.reports.report import report_text
from orchestrator.sources.registry import SOURCES
from tests.support.harness_tasks import (
    CHOICE,
    DEMO,
    TASKS,
    WORDS,
    assert_alike,
    by_transformers,
    make_tasks,
    needs_harness,
    responses,
    told_responses,
)
from tests.support.real import all_gone, finish, log_of, start

pytestmark = [pytest.mark.real, needs_harness]

CONTEXT = 128
SMALL = ("rounds=1", "data.prompts_per_round=24", "data.gate.limit=16", "data.test.limit=8", "generate.engines=2")


@pytest.fixture(scope="module", autouse=True)
def nothing_left() -> Iterator[None]:
    yield
    all_gone()


def test_each_model_s_answers_are_those_of_transformers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
        monkeypatch.setenv(name, "1")
    tasks, run = make_tasks(tmp_path / "tasks"), tmp_path / "run"
    asked = f"evaluate.harness={{tasks: [{', '.join(TASKS)}], include_path: {tasks}}}"
    small = (*SMALL, asked, "generate.shard_prompts=8", "tracking.enabled=false", "promotion.rule=always")
    assert finish(start(run, *small), run) == 0, log_of(run)
    assert verify(run).findings == []
    monkeypatch.chdir(tasks)
    commits = Ledger(run / "ledger").state.commits
    for folder, model in (("baseline", DEMO / "base"), ("rounds/01", run / "rounds/01/checkpoint")):
        theirs = by_transformers(tasks, model, CONTEXT)
        assert_alike(told_responses(run / folder / "harness" / SAMPLES), responses(theirs["samples"]), nats=5e-3)
        told = commits[f"{folder}/harness"].facts["tasks"]
        for task, metric, key in ((CHOICE, "acc", "acc,none"), (WORDS, "exact_match,answer", "exact_match,answer")):
            assert told[task]["figures"][metric]["value"] == pytest.approx(theirs["results"][task][key])
    assert told_responses(run / "baseline/harness" / SAMPLES) != told_responses(run / "rounds/01/harness" / SAMPLES)
    assert "## Tasks of lm-evaluation-harness" in report_text(run, SOURCES)
