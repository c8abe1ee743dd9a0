"""What graders differ about, in the report of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from orchestrator.ledger.ledger import Ledger
from orchestrator.reports.disputes import disputes
from tests.support.stand_ins import StandInGraders, StandIns, make_project, run_job


class Auditing(StandInGraders):
    """Two graders, one of which takes the answers of sample 1 for right."""

    def _verdict(self, sample: dict[str, Any], gold: str) -> dict[str, Any]:
        verdict = super()._verdict(sample, gold)
        lenient = "correct" if sample["sample_index"] == 1 else verdict["verdict"]
        return verdict | {"opinions": [("strict|er", verdict["verdict"]), ("lenient", lenient)]}

    def drain(self) -> Any:
        for shard, facts in super().drain():
            yield shard, facts | {"disputed": 1}


class Workers(StandIns):
    def graders(self, settings: Any) -> Auditing:
        return Auditing(self)


def test_the_report_lists_where_graders_differ(tmp_path: Path) -> None:
    run_job(make_project(tmp_path, skill=0.3, rounds=1), Workers())
    found = disputes(tmp_path / "run", Ledger(tmp_path / "run/ledger").state, 1)
    assert found.asked == 32
    assert found.splits == {"lenient, not strict|er": found.disputed}
    assert 0 < found.disputed <= 8, "of one sample a prompt"
    report = (tmp_path / "run/report.md").read_text()
    assert f"Round 1, {found.disputed} of 32 answers: correct {found.disputed} by lenient, not strict\\|er." in report
    first = found.examples[0]
    assert f"| {first['gold']} | {first['extracted']} | wrong | strict\\|er: wrong, lenient: correct |" in report


def test_a_run_that_was_not_audited_has_no_such_section(tmp_path: Path) -> None:
    run_job(make_project(tmp_path, rounds=1), StandIns())
    assert disputes(tmp_path / "run", Ledger(tmp_path / "run/ledger").state, 1).asked == 0
    assert "Where graders differ" not in (tmp_path / "run/report.md").read_text()
