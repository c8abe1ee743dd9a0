"""What a worker prints goes into the run's folder: all of it, its last words too, and through no link."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from orchestrator.driver.drive import identity
from orchestrator.ledger.run import Run
from orchestrator.reports.worker_logs import Line, Wanted, tell
from workers.logs import logged, step_of

PROJECT = Path(__file__).parents[2]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    made = Run(tmp_path / "irpo")
    made.root.mkdir()
    made.claim(identity())
    return made.root


def worker(log: Path, code: str) -> str:
    """What a process that keeps its words in `log` says elsewhere."""
    begin = f"import os, subprocess, sys\nfrom workers.logs import at_work, keep\nkeep({str(log)!r})\n"
    done = subprocess.run(
        [sys.executable, "-c", begin + code], cwd=PROJECT, capture_output=True, text=True, check=False
    )
    return done.stdout + done.stderr


def lines(run: Path) -> list[Line]:
    found: list[Line] = []
    tell(run, Wanted(), found.append)
    return found


def test_all_that_a_worker_and_its_children_print_is_kept_with_what_it_was_at(run: Path) -> None:
    code = f"""
print("loads", flush=True)
with at_work({str(run / "rounds/01/samples/.00003.parquet-e1-a7")!r}, 3):
    os.write(2, b"at work\\n")
    subprocess.run(["echo", "a child"])
try:
    with at_work({str(run / "rounds/01/.train-e1-a9")!r}):
        raise ValueError("no good")
except ValueError:
    pass
sys.stdout.write("last words")
sys.stdout.flush()
os.abort()
"""
    said = worker(run / "logs/e1/engine-0.log", code)
    assert said == f"ratchet: goes on in {run / 'logs/e1/engine-0.log'}\n"
    shard = "rounds/01/samples shard 3"
    found = [
        (line.shown().removeprefix("e1/engine-0  ").removesuffix(line.text).removesuffix(": "), line.text)
        for line in lines(run)
    ]
    assert [(about, text) for about, text in found if text in ("loads", "at work", "a child", "last words")] == [
        ("", "loads"), (shard, "at work"), (shard, "a child"), ("", "last words"),
    ]  # fmt: skip
    assert [about for about, text in found if text.startswith("fails") and text.endswith("ValueError: no good")] == [
        "rounds/01/train"
    ]


def test_several_processes_write_to_one_file_one_after_the_other(run: Path) -> None:
    for text in ("first", "second"):
        worker(run / "logs/e1/rank-0.log", f"print({text!r})")
    assert [line.text for line in lines(run) if not line.text.startswith("starts")] == ["first", "second"]


@pytest.mark.parametrize("what", ["link", "pipe", "folder", "no run", "link to a folder"])
def test_where_a_file_cannot_be_kept_all_stays_as_it_is(run: Path, tmp_path: Path, what: str) -> None:
    log, outside = run / "logs/e1/engine-0.log", tmp_path / "outside"
    outside.mkdir()
    if what not in ("no run", "link to a folder"):
        log.parent.mkdir(parents=True)
    if what == "link":
        log.symlink_to(outside / "file")
    elif what == "pipe":
        os.mkfifo(log)
    elif what == "folder":
        log.mkdir()
    elif what == "no run":
        run.rename(tmp_path / "moved")
    else:
        (run / "logs").symlink_to(outside / "gone/further")
    assert "hello\n" in worker(log, "print('hello')\nwith at_work('/x'): pass")
    assert not list(outside.iterdir()) and run.exists() == (what != "no run")


@pytest.mark.parametrize(
    ("path", "file", "step"),
    [
        ("rounds/01/samples/.00003.parquet-e2-a7", True, "rounds/01/samples"),
        ("rounds/01/verdicts/.00003.parquet-e2-a7.4-e0", True, "rounds/01/verdicts"),
        ("rounds/01/.evaluation-e1-a9.work/samples-4.parquet", True, "rounds/01/evaluation"),
        ("rounds/01/.train-e1-a9.2-e0", False, "rounds/01/train"),
        ("rounds/01/.reference-e1-a9/00000.parquet", True, "rounds/01/reference"),
        ("baseline/evaluation/gate.parquet", True, "baseline/evaluation"),
        ("../elsewhere", False, "../elsewhere"),
    ],
)
def test_the_step_is_told_by_where_its_output_goes(path: str, file: bool, step: str) -> None:
    assert step_of(path, file) == step


class Actor:
    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments


def test_without_a_file_a_class_is_as_it_was() -> None:
    assert logged(Actor, None) is Actor and logged(Actor, "x").__name__ == "Actor"
