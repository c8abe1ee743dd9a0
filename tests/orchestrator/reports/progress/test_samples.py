"""A sample with its verdict."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.ledger.ledger import Ledger
from orchestrator.reports.progress.samples import Graded
from tests.support.stand_ins import StandIns, make_project, run_job


def test_each_shard_of_verdicts_shows_one_with_its_own_verdict(tmp_path: Path) -> None:
    run_job(make_project(tmp_path), StandIns())
    state = Ledger(tmp_path / "run/ledger").state
    seen = set()
    for index in (0, 1):
        graded = Graded.of(state, "rounds/01/verdicts", index)
        assert graded is not None
        sample = graded.one(tmp_path / "run")
        assert sample is not None and sample.extracted is not None
        assert sample.text.endswith(f"Final answer: {sample.extracted}") and sample.step == "rounds/01/verdicts"
        assert (sample.verdict == "correct") == (not sample.extracted.endswith("0"))
        seen.add(sample.prompt_id)
    assert len(seen) == 2


@pytest.mark.parametrize(("step", "index"), [("rounds/01/samples", 0), ("rounds/01/verdicts", 7), ("verdicts", 0)])
def test_what_is_no_shard_of_verdicts_has_none(tmp_path: Path, step: str, index: int) -> None:
    assert Graded.of(Ledger(tmp_path / "ledger").state, step, index) is None
