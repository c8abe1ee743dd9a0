"""`ratchet rollback`, cut off at any of its operations: the run is sound, the same command, or a resume, goes on, and
nothing that was committed is lost."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from orchestrator.commands.verify.command import verify
from orchestrator.ledger.ledger import Ledger
from tests.faults.children import ALL_THAT_FOLLOW, Case, Fault, note, small_project
from tests.faults.commands import Command, command
from tests.faults.conftest import Shelf
from tests.faults.sweeps import spread, state_of, sweep
from tests.orchestrator.test_loop import history

FAULTS = {
    "kill": ("SIGKILL", 1),
    "SIGTERM": ("SIGTERM", 1),
    "full": ("full", 1),
    "full for good": ("full", ALL_THAT_FOLLOW),
}


SOME_OR_ALL = pytest.mark.parametrize(
    "stride", [7, pytest.param(1, marks=pytest.mark.faults)], ids=["sample", "every-point"]
)


@pytest.fixture(scope="session")
def finished(shelf: Shelf) -> Case:
    """A run of three rounds."""
    case = Case(small_project(shelf.folder(), rounds=3), shelf.folder())
    assert case.drive() == 0, case.output
    return case


def rolling_back(finished: Case, folder: Path) -> Command:
    """The command, on a copy of the run."""
    made = command(folder / "in", "rollback", "FOLDER/run", "--to-round", "1")
    shutil.copytree(finished.run, made.folder / "run")
    return made


def left(run: Path) -> tuple[Any, ...]:
    """What a rollback comes to. The numbers of records are no part of it, nor what is only a view."""
    found = (str(path.relative_to(run)) for path in (run / "rounds").rglob("*"))
    names = {re.sub(r"set-aside-\d+", "set-aside", name) for name in found}
    state = Ledger(run / "ledger").state
    aside = [(rollback.round, rollback.rounds) for rollback in state.rollbacks]
    return names, aside, state.promotions, (run / "CURRENT").read_text(), state_of(run), history(run)


def committed(run: Path) -> dict[str, Any]:
    """What the run has, by name."""
    return {artifact.path: artifact.files for artifact in Ledger(run / "ledger").state.artifacts()}


@pytest.fixture(scope="session")
def calm(finished: Case, shelf: Shelf) -> Command:
    """The command without a fault; to be compared with."""
    made = rolling_back(finished, shelf.folder() / "calm")
    assert made.run() == 0, made.output
    return made


def test_a_file_system_without_hard_links_is_told_as_that(finished: Case, space: Path) -> None:
    """As FAT and exFAT are, which a run was copied to."""
    case = rolling_back(finished, space / "linkless")
    assert case.run(Fault("EPERM", 1, ALL_THAT_FOLLOW)) == 1, case.output
    assert "this file system makes no hard links" in case.output and "and go on with the copy" in case.output
    assert case.run() == 0 and verify(case.folder / "run").findings == []


@SOME_OR_ALL
@pytest.mark.parametrize("kind", FAULTS)
def test_disturbed_at_any_operation_the_same_command_goes_on(
    finished: Case, calm: Command, space: Path, kind: str, stride: int
) -> None:
    what, times = FAULTS[kind]
    outcome, files = left(calm.folder / "run"), sorted(finished.run.rglob("rounds/*/*/*.parquet"))

    def disturbed(point: int) -> int:
        case = rolling_back(finished, space / f"{kind}-{point}")
        run = case.folder / "run"
        code = case.run(Fault(what, point, times))  # type: ignore[arg-type]
        assert code in {"SIGKILL": (-9, 0), "SIGTERM": (130, 0), "full": (0, 1)}[what], f"{code}\n{case.output}"
        assert "Traceback" not in case.output, case.output
        assert verify(run).findings == [], verify(run).findings
        assert len(list(run.rglob("rounds/*/*/*.parquet"))) == len(files), "nothing is lost"
        assert case.run() == 0, case.output
        assert left(run) == outcome and verify(run).findings == []
        shutil.rmtree(space / f"{kind}-{point}")
        return 1 if code else 0

    ended = sweep(spread(calm.operations, stride, 1 + stride // 2), disturbed)
    note(f"rollback {kind}", {"points": len(ended), "of": len(calm.operations), "ended the command": sum(ended)})


@SOME_OR_ALL
def test_killed_at_any_operation_a_resume_goes_on(finished: Case, calm: Command, space: Path, stride: int) -> None:
    before = committed(finished.run)

    def killed(point: int) -> int:
        case = rolling_back(finished, space / f"resume-{point}")
        run = case.folder / "run"
        code = case.run(Fault("SIGKILL", point))
        went_back = bool(Ledger(run / "ledger").state.rollbacks)
        driver = Case(finished.job, case.folder)
        assert driver.drive() == 0, driver.output
        assert committed(run) == before and state_of(run) == "finished"
        assert bool(list((run / "rounds").glob(".*-set-aside-*"))) == went_back
        assert verify(run).findings == []
        shutil.rmtree(space / f"resume-{point}")
        return 1 if code else 0

    sweep(spread(calm.operations, 2 * stride, 1 + stride // 2), killed)


@SOME_OR_ALL
def test_gc_cut_off_as_it_removes_what_was_set_aside_damages_nothing(calm: Command, space: Path, stride: int) -> None:
    def cleaning(name: str) -> Command:
        made = command(space / name / "in", "gc", "FOLDER/run")
        shutil.copytree(calm.folder / "run", made.folder / "run")
        return made

    whole = cleaning("gc")
    assert whole.run() == 0, whole.output
    outcome = left(whole.folder / "run")

    def killed(point: int) -> int:
        case = cleaning(f"gc-{point}")
        run = case.folder / "run"
        code = case.run(Fault("SIGKILL", point))
        assert verify(run).findings == []
        assert case.run() == 0 and "Traceback" not in case.output, case.output
        assert left(run) == outcome and verify(run).findings == []
        shutil.rmtree(space / f"gc-{point}")
        return 1 if code else 0

    stride = stride if stride == 1 else 5 * stride  # it has many more
    ended = sweep(spread(whole.operations, stride, 1 + stride // 2), killed)
    note("gc after a rollback", {"points": len(ended), "of": len(whole.operations), "ended the command": sum(ended)})
