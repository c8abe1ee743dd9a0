"""A restart reads no problem that it has no use for, and believes no other user, and no file that was touched."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from orchestrator.config.load import JobFile, load_job
from orchestrator.driver import known_problems as module
from orchestrator.driver.drive import identity
from orchestrator.driver.kept import Problems
from orchestrator.driver.known_problems import INPUTS_CACHE, KnownProblems
from orchestrator.errors import BadInput
from orchestrator.inputs.fields import PROBLEM_READING
from orchestrator.inputs.problem_set import ProblemSet
from orchestrator.ledger.run import Run
from tests.support.stand_ins import StandIns, make_project, run_job


@pytest.fixture(autouse=True)
def few_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MIN_PROBLEMS", 1)


@pytest.fixture
def job(tmp_path: Path) -> Path:
    """A job whose problems were read, once the times of their files had settled, by a driver that remembers them."""
    made = make_project(tmp_path)
    time.sleep(0.05)
    run = Run(tmp_path / "run")
    first = known_problems(run, load_job(made))
    first.read()
    run.claim(identity())
    first.remember()
    return made


def known_problems(run: Run, file: JobFile, reading: int = PROBLEM_READING) -> KnownProblems:
    return KnownProblems(run, file, file.job.data, reading)


def known(job: Path) -> Problems:
    return known_problems(Run(job.parent / "run"), load_job(job)).read()


def is_read(problems: Problems) -> bool:
    rows = problems["train"]
    assert isinstance(rows, ProblemSet)
    return rows._spool is not None


def edit(file: Path, old: str, new: str) -> None:
    """Change a file, and not its size nor the time that is said to be its last."""
    times = file.stat()
    file.write_text(file.read_text().replace(old, new))
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert file.stat().st_size == times.st_size
    time.sleep(0.05)


def test_a_restart_reads_them_only_when_they_are_asked_for(job: Path) -> None:
    problems = known(job)
    assert not is_read(problems) and len(problems["train"]) == 20
    (job.parent / "run" / INPUTS_CACHE).unlink()
    assert is_read(anew := known(job))
    assert list(problems["train"]) == list(anew["train"]) and is_read(problems)


def test_all_that_a_finished_run_asks_is_remembered(tmp_path: Path) -> None:
    job = make_project(tmp_path)
    time.sleep(0.05)
    run_job(job, StandIns())
    said = json.loads((job.parent / "run" / INPUTS_CACHE).read_bytes().partition(b"\n")[2])
    problems = known(job)
    run_job(job, StandIns())
    again = json.loads((job.parent / "run" / INPUTS_CACHE).read_bytes().partition(b"\n")[2])
    assert said == again and not is_read(problems)
    # Of all of a set when the run began, and of what each step has made prompts of: two rounds, and the baseline.
    assert {split: len(known["digests"]) for split, known in said["sets"].items()} == {"train": 3, "gate": 2, "test": 2}


def test_a_touched_file_is_read_again(job: Path) -> None:
    edit(job.parent / "train.jsonl", '"answer": "3"', '"answer": "4"')
    assert is_read(known(job))
    edit(job.parent / "train.jsonl", '"train 3?"', '"gate 3?" ')
    with pytest.raises(BadInput, match="has the same text as"):
        known(job)


def test_one_that_changes_while_it_is_not_read_is_refused(job: Path) -> None:
    problems = known(job)
    edit(job.parent / "train.jsonl", '"answer": "3"', '"answer": "4"')
    with pytest.raises(BadInput, match=r"data\.train: .*train\.jsonl has changed since this driver was started"):
        list(problems["train"])


@pytest.mark.parametrize("changed", ["data.template='{question} '", "data.allow_overlap=true", "data.train.limit=9"])
def test_another_reading_is_another_set(job: Path, changed: str) -> None:
    run = Run(job.parent / "run")
    assert is_read(known_problems(run, load_job(job, [changed])).read())
    assert is_read(known_problems(run, load_job(job), reading=1).read())


def test_few_are_read_at_each_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MIN_PROBLEMS", 53)  # one more than there are
    run_job(make_project(tmp_path), StandIns())
    assert not (tmp_path / "run" / INPUTS_CACHE).exists()


def test_a_strangers_word_is_not_taken(job: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not is_read(known(job))
    monkeypatch.setenv("RATCHET_STATE_HOME", str(job.parent / "state"))
    assert is_read(known(job))
