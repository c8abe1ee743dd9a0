"""progress.json: whole at every moment, of the driver that claimed the run, and read as a stranger's."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from orchestrator.config.load import load_job
from orchestrator.driver.same_job import check_same_job
from orchestrator.errors import Damaged, RatchetError
from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.run import Run
from orchestrator.reports.progress.file import ProgressFile
from orchestrator.reports.progress.model import MAX_PROGRESS, Progress, read_progress
from tests.orchestrator.reports.progress.test_lines import NOW
from tests.support.stand_ins import StandIns, make_project, run_job


def read(run: Path) -> Progress | None:
    return read_progress(run, Ledger(run / "ledger").state)


def test_a_run_says_in_the_end_what_it_has_come_to(tmp_path: Path) -> None:
    run_job(make_project(tmp_path), StandIns())
    found = read(tmp_path / "run")
    assert found is not None and found.state == "finished" and found.epoch == 1 and found.left is None
    assert [(line.number, line.kept) for line in found.finished] == [(0, False), (1, False), (2, False)]


def test_while_it_works_its_phases_are_there_as_is_the_report(tmp_path: Path) -> None:
    seen: list[Progress] = []
    reports: list[bool] = []

    def look(name: str) -> None:
        if name == "train":
            deadline = 400
            while (found := read(tmp_path / "run")) is None or not found.phases or found.round != 1:
                deadline -= 1
                assert deadline, "progress.json never came"
                os.sched_yield()
                __import__("time").sleep(0.02)
            seen.append(found)
            reports.append((tmp_path / "run/report.md").exists())
            raise RatchetError("no memory")

    with pytest.raises(RatchetError):
        run_job(make_project(tmp_path), StandIns(on_call=look))
    assert seen[0].state == "running" and seen[0].round == 1 and reports == [True]
    last = read(tmp_path / "run")
    assert last is not None and (last.state, last.reason) == ("failed", "RatchetError: no memory")
    failed = {phase.what for phase in last.phases if phase.state == "failed"}
    assert failed == {"rounds/01/train"}
    assert "failed: RatchetError: no memory" in (tmp_path / "run/report.md").read_text()


def test_nothing_is_written_before_the_claim_nor_for_another_driver(tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    view = ProgressFile(run)
    view.look(NOW)
    assert not (tmp_path / "run").exists()
    run.claim({"host": "h", "pid": 1})
    view.look(NOW)  # of epoch 0
    view.close(NOW.model_copy(update={"epoch": 1}))  # nobody has said how it ended
    assert not (tmp_path / "run/progress.json").exists()
    view.look(NOW.model_copy(update={"epoch": 1}))
    assert read(tmp_path / "run") == NOW.model_copy(update={"epoch": 1})


def test_a_run_that_came_no_further_than_this_file_is_no_strange_folder(tmp_path: Path) -> None:
    job = load_job(make_project(tmp_path)).job
    run = Run(tmp_path / "run")
    run.claim({"host": "h", "pid": 1})
    (tmp_path / "run/progress.json").write_bytes(NOW.as_file())
    check_same_job(Run(tmp_path / "run"), job)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("version", 2),
        ("name", "n" * 3000),
        ("rounds", -1),
        ("seconds", float("nan")),
        ("left", "soon"),
        ("state", "gone"),
        ("phases", [{"what": 1}]),
        ("phases", [{"what": "x", "counts": {"a": "b"}}]),
        ("phases", [{"what": "x"}] * 1000),
        ("finished", [{"number": 1, "test": 7}]),
        ("sample", []),
    ],
)
def test_what_is_not_as_it_should_be_is_nothing(tmp_path: Path, key: str, value: Any) -> None:
    run = Run(tmp_path / "run")
    run.claim({"host": "h", "pid": 1})
    file = tmp_path / "run/progress.json"
    good = json.loads(NOW.as_file())
    file.write_text(json.dumps(good | {"of a later version": [1]}))
    assert read(tmp_path / "run") == NOW
    file.write_text(json.dumps(good | {key: value}))
    assert read(tmp_path / "run") is None
    file.write_bytes(NOW.as_file() + b" " * MAX_PROGRESS)
    assert read(tmp_path / "run") is None


def test_a_run_that_leads_out_is_not_read(tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    run.claim({"host": "h", "pid": 1})
    (tmp_path / "run/rounds").symlink_to("/")
    with pytest.raises(Damaged, match="leads out"):
        read(tmp_path / "run")
