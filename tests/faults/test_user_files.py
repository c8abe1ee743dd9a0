"""Files that users may change while a run is down: preference data, and people's verdicts on steps."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.children import Case, Fault, Kind, Undisturbed, finish, note, running, undisturbed, wait_until_stopped
from tests.faults.jobs import KINDS, stages_project, verdicts_of
from tests.faults.sweeps import of_sources, sweep
from tests.orchestrator.test_loop import history

DATASET = pytest.mark.parametrize("source", ["dataset"])
PEOPLE = pytest.mark.parametrize("source", ["steps, people"])


def edit(file: Path) -> None:
    """One more character in the middle; JSON as before."""
    first, *rest = file.read_text().splitlines(keepends=True)
    file.write_text("".join([first.replace("?", "!", 1), *rest]))


def lengthen(file: Path) -> None:
    row = json.loads(file.read_text().splitlines()[0])
    file.write_text(file.read_text() + json.dumps(row | {"prompt": "another?"}) + "\n")


def swap(file: Path) -> None:
    other = file.with_name("easy.jsonl")
    mine, its = file.read_bytes(), other.read_bytes()
    file.write_bytes(its)
    other.write_bytes(mine)


def make_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


def own_project(calm: Undisturbed, folder: Path) -> Path:
    """The job with files of its own; returns the job file."""
    return shutil.copytree(calm.job.parent, folder, ignore=shutil.ignore_patterns("undisturbed")) / calm.job.name


CHANGES: list[Callable[[Path], None]] = [edit, lengthen, swap, Path.unlink, make_folder]


@DATASET
@pytest.mark.parametrize("change", CHANGES, ids=lambda c: c.__name__)
def test_preference_data_that_change_are_noticed_and_nothing_is_built_on_them(
    calm: Undisturbed, half: Path, case: Case, source: str, change: Callable[[Path], None]
) -> None:
    project = case.folder / "project"
    mine = Case(own_project(calm, project), case.folder, case.workers)
    change(project / "hard.jsonl")
    code = mine.drive()
    other = change in (edit, lengthen, swap)
    said = "baseline/preferences was committed from other inputs" if other else str(project / "hard.jsonl")
    assert code in (1, 2) and said in mine.output and "Traceback" not in mine.output, mine.output
    assert history(case.run) == history(half)
    for name in ("hard.jsonl", "easy.jsonl"):
        if (project / name).is_dir():
            (project / name).rmdir()
        shutil.copy(calm.job.with_name(name), project / name)
    assert mine.drive() == 0, mine.output
    calm.require_same(case.run)


@DATASET
def test_preference_data_that_change_while_they_are_read_are_noticed_at_the_next_start(
    calm: Undisturbed, space: Path, source: str
) -> None:
    """The driver is stopped at its first operation: it has read the rows, and has no copy yet."""
    job = own_project(calm, space / "project")
    case, file = Case(job, space / "while-read", calm.kind.workers), job.with_name("hard.jsonl")
    with running(case, Fault("SIGSTOP", 1)) as driver:
        assert wait_until_stopped(driver)
        before = file.read_bytes()
        edit(file)
        assert driver.pid
        os.kill(driver.pid, signal.SIGCONT)
        assert finish(driver) == 0, case.output
    calm.require_same(case.run)
    assert case.drive() == 1
    assert "baseline/preferences was committed from other inputs" in case.output, case.output
    file.write_bytes(before)
    assert case.drive() == 0, case.output
    calm.require_same(case.run)


def edited_project(folder: Path) -> Path:
    job = stages_project(folder)
    edit(job.with_name("hard.jsonl"))
    return job


@of_sources({"dataset": (17, 1)})
def test_preference_data_that_change_before_they_are_committed_leave_nothing_behind(
    calm: Undisturbed, space: Path, source: str, stride: int
) -> None:
    """Killed before the run has its own copy, and edited: the run is one of the edited data."""
    edited = undisturbed(space / f"edited-{stride}", Kind(edited_project, KINDS[source].workers))
    named = calm.operations.index("os.rename baseline/preferences")
    commit = max(n for n, done in enumerate(calm.operations[:named], 1) if done.startswith("os.link ledger/"))

    def killed(point: int) -> int:
        folder = space / f"before-{point}"
        job = own_project(calm, folder / "project")
        case = Case(job, folder / "case", calm.kind.workers)
        assert case.drive(Fault("SIGKILL", point)) == -9
        edit(job.with_name("hard.jsonl"))
        assert case.drive() == 0, case.output
        edited.require_same(case.run)
        shutil.rmtree(folder)
        return 0

    note("edited before the commit", {"points": len(sweep(range(2, commit + 1, stride), killed))})


@PEOPLE
@pytest.mark.parametrize("change", [edit, Path.unlink], ids=lambda c: c.__name__)
def test_verdicts_that_were_read_are_the_runs_own(
    calm: Undisturbed, case: Case, source: str, change: Callable[[Path], None]
) -> None:
    """Read and committed, people's file may go, or turn into nonsense."""
    for number in (1, 2):
        file = verdicts_of(case.run, number)
        file.write_text("?" + file.read_text())
        change(file)
    assert case.drive() == 0, case.output
    calm.require_same(case.run)


@PEOPLE
def test_another_rounds_verdicts_are_refused_by_line(calm: Undisturbed, space: Path, source: str) -> None:
    case = calm.case(space / "swapped")
    located = next(n for n, done in enumerate(calm.operations, 1) if done.startswith("os.mkdir rounds/02/.located"))
    assert case.drive(Fault("SIGKILL", located)) == -9
    first, second = (verdicts_of(case.run, number) for number in (1, 2))
    right = second.read_bytes()
    shutil.copy(first, second)
    before = history(case.run)
    assert case.drive() == 2
    assert f"BadInput: {second}:1: id " in case.output and "is none of the questions" in case.output, case.output
    assert history(case.run) == before
    second.write_bytes(right)
    assert case.drive() == 0, case.output
    calm.require_same(case.run)


@PEOPLE
def test_verdicts_that_are_gone_before_they_were_read_are_asked_for_again(
    calm: Undisturbed, space: Path, source: str
) -> None:
    case = calm.case(space / "gone")
    located = next(n for n, done in enumerate(calm.operations, 1) if done.startswith("os.mkdir rounds/01/.located"))
    assert case.drive(Fault("SIGKILL", located)) == -9
    verdicts_of(case.run, 1).unlink()
    assert case.drive() == 0, case.output  # the people of the stand-in come whenever they are called
    calm.require_same(case.run)
