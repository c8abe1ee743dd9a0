"""report.md while a run goes on."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.errors import Displaced
from orchestrator.ledger.ledger import Ledger
from orchestrator.reports.growing_report import GrowingReport
from orchestrator.sources.registry import SOURCES
from tests.support.sample_run import SampleRun


def until(seen: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not seen():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_it_is_there_from_the_first_step_on_and_grows(tmp_path: Path) -> None:
    run = SampleRun(tmp_path / "run")
    run.claim()
    run.configure()
    report, file = GrowingReport(run.root, SOURCES), run.root / "report.md"
    report.start(run.ledger)
    run.baseline()
    report.poke()
    until(file.exists)
    run.evaluate(1, num_correct=60)
    report.finish(run.ledger)
    assert "60.0" in file.read_text()


def test_without_a_step_there_is_none(tmp_path: Path) -> None:
    run = SampleRun(tmp_path / "run")
    run.claim()
    report = GrowingReport(run.root, SOURCES)
    report.finish(run.ledger)
    assert not (run.root / "report.md").exists()


def test_where_another_run_stands_nothing_is_written(tmp_path: Path) -> None:
    run = SampleRun(tmp_path / "run")
    run.claim()
    run.configure()
    run.baseline()
    os.rename(run.root, tmp_path / "moved")
    other = SampleRun(run.root)
    other.claim()
    with pytest.raises(Displaced):
        GrowingReport(run.root, SOURCES).finish(run.ledger)
    assert not (run.root / "report.md").exists() and Ledger(tmp_path / "moved/ledger").state.commits
