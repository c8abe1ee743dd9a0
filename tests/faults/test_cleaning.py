"""`ratchet gc`, cut off before each of its operations: the run is what it was, and the same command goes on."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from orchestrator.commands.fork.command import fork
from orchestrator.commands.gc import clean, waste
from orchestrator.commands.verify.command import verify
from orchestrator.driver.drive import drive, identity
from orchestrator.driver.resume import resumed
from orchestrator.driver.signals import signals
from orchestrator.ledger.ledger import Ledger
from orchestrator.rounds.round import GateStopped
from orchestrator.rounds.spare import spare_checkpoints
from tests.faults.children import (
    ALL_THAT_FOLLOW,
    Case,
    Fault,
    Workers,
    finish,
    note,
    running,
    small_project,
    wait_until_stopped,
)
from tests.faults.commands import Command, command
from tests.faults.conftest import Shelf
from tests.faults.sweeps import SOME_OR_ALL, STRIDE, state_of, sweep
from tests.orchestrator.test_loop import history
from tests.support.sample_run import DEAD_PID
from tests.support.stand_ins import StandIns

LAST_WORDS = ("finished", "failed", None)
"""How the last driver ended; None for one that was killed."""


class Cleaner(Workers):
    """`ratchet gc` in a child."""

    def drive(self) -> None:
        with signals():
            clean(self.case.run, identity())


TEXT = hashlib.sha256(b"text").hexdigest()


def litter(run: Path, last: str | None) -> None:
    """Every kind of waste, in a run whose last driver ended like this, and something that only lacks its name."""
    ledger = Ledger(run / "ledger")
    for artifact in ledger.state.artifacts():
        if artifact.path == "rounds/02/evaluation":
            (run / artifact.path).rename(run / artifact.hidden)
    ledger.claim({"host": "elsewhere", "pid": DEAD_PID, "process_start": 1.0, "version": "0"})
    config = ledger.state.configs[-1]
    ledger.append("config", config | {"job": config["job"] | {"keep": {"checkpoints": 1, "training_states": 1}}})
    for step in ("rounds/01/pairs", "rounds/05/pairs"):  # done here; never to be done, where the run is over
        hidden = f"{step.rpartition('/')[0]}/.pairs-offered"
        artifact = {"path": step, "hidden": hidden, "files": {"x": {"size": 4, "sha256": TEXT}}}
        offer: dict[str, Any] = {"step": step, "index": None, "fingerprint": "f", "recipe": 1, "facts": {}}
        ledger.append("offer", offer | {"artifacts": [artifact], "discarded": []})
        (run / hidden).mkdir(parents=True)
        (run / hidden / "x").write_text("text")
    if last:
        ledger.append("end", {"state": last, "reason": "as it is"})
    for name in (
        "rounds/01/candidates/000001/x",  # discarded, by a driver that was killed then
        "rounds/02/.pairs-e1/00000.parquet",
        "rounds/02/samples/.00001.parquet-e1",
        "rounds/02/.stray-0123abcd-pairs/x",
        "rounds/02/.train-state-of-1/000004/x",
        f"ledger/.00000077.json.{'a' * 32}",
        f".driver.json.{'b' * 32}",
    ):
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_text("text")


def names(run: Path) -> set[str]:
    """Everything in the run but its records."""
    found = {str(path.relative_to(run)) for path in run.rglob("*")}
    return {name for name in found if not name.startswith("ledger/0")}


def left(run: Path) -> tuple[Any, ...]:
    """What a cleaning comes to. How often it was claimed is no part of it."""
    return names(run), state_of(run), Ledger(run / "ledger").state.discarded, history(run)


@pytest.fixture(scope="session", params=LAST_WORDS, ids=str)
def last(request: pytest.FixtureRequest) -> str | None:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture(scope="session")
def finished(shelf: Shelf) -> Case:
    """A run of three rounds."""
    case = Case(small_project(shelf.folder(), rounds=3), shelf.folder())
    assert case.drive() == 0, case.output
    return case


@pytest.fixture(scope="session")
def littered(finished: Case, shelf: Shelf, last: str | None) -> Path:
    """The same, with waste in it; to be copied."""
    run = shelf.folder() / "littered"
    shutil.copytree(finished.run, run)
    litter(run, last)
    return run


@pytest.fixture(scope="session")
def cleaned(littered: Path, finished: Case, shelf: Shelf) -> Case:
    """The same, cleaned without a fault; to be compared with."""
    case = copy(littered, finished, shelf.folder() / "cleaned")
    before, spare = state_of(case.run), spare_checkpoints(Ledger(case.run / "ledger").state, 1)
    assert case.drive() == 0, case.output
    assert state_of(case.run) == before and waste(case.run) == []
    assert spare and not any((case.run / path).exists() for path in spare)
    assert verify(case.run).findings == []
    return case


def copy(littered: Path, finished: Case, folder: Path) -> Case:
    case = Case(finished.job, folder, Cleaner)
    shutil.copytree(littered, case.run)
    return case


@SOME_OR_ALL
@pytest.mark.parametrize("kind", ["SIGKILL", "SIGTERM", "SIGINT", "full", "full for good"])
def test_cut_off_at_any_operation_the_run_is_what_it_was(
    cleaned: Case, littered: Path, finished: Case, space: Path, kind: str, stride: int, last: str | None
) -> None:
    fault, _, for_good = kind.partition(" ")
    before = state_of(littered)

    def cut_off(point: int) -> int:
        case = copy(littered, finished, space / f"{kind}-{point}")
        code = case.drive(Fault(fault, point, ALL_THAT_FOLLOW if for_good else 1))  # type: ignore[arg-type]
        assert code in {"SIGKILL": (-9,), "full": (0, 1)}.get(fault, (130, 0)), f"exit code {code}\n{case.output}"
        assert "Traceback" not in case.output, case.output
        if code == 1:
            assert "What is committed is kept, and the run is what it was. Make some room" in case.output
        assert state_of(case.run) == before
        assert case.drive() == 0, case.output
        assert left(case.run) == left(cleaned.run)
        case.remove()
        return 1 if code else 0

    stride = min(stride, 13 if last == "finished" else STRIDE)
    points = range(1 + stride // 2, len(cleaned.operations) + 1, stride)
    ended = sweep(points, cut_off)
    note("gc", {"fault": kind, "last": last, "points": len(ended), "ended it": sum(ended)})


@pytest.mark.parametrize("last", ["finished"], indirect=True)
def test_a_full_disk_is_freed_of_what_needs_no_record(
    cleaned: Case, littered: Path, finished: Case, space: Path
) -> None:
    case = copy(littered, finished, space / "full")
    assert case.drive(Fault("full", 1, ALL_THAT_FOLLOW)) == 1
    more = names(case.run) - names(cleaned.run)
    assert {name for name in more if "/checkpoint" not in name} == {n for n in more if "/.evaluation-e1" in n}
    assert len(Ledger(case.run / "ledger").records) == len(Ledger(littered / "ledger").records)


@SOME_OR_ALL
@pytest.mark.parametrize("last", ["finished"], indirect=True)
def test_stopped_at_any_operation_it_leaves_a_driver_alone(
    cleaned: Case, littered: Path, finished: Case, space: Path, stride: int
) -> None:
    def overtaken(point: int) -> int:
        gc = copy(littered, finished, space / f"stop-{point}")
        driver = Case(finished.job, gc.folder, overrides=("rounds=4", "keep.checkpoints=1"))
        with running(gc, Fault("SIGSTOP", point)) as process:
            if not wait_until_stopped(process):
                return 0
            assert driver.drive() == 0, driver.output
            before = history(gc.run)
            assert process.pid
            os.kill(process.pid, signal.SIGCONT)
            assert finish(process) in (0, 1), gc.output
        assert "Traceback" not in gc.output, gc.output
        assert history(gc.run) == before and verify(gc.run).findings == []
        assert state_of(gc.run) == "finished"
        assert gc.drive() == 0 and waste(gc.run) == [], gc.output
        gc.remove()
        return 1

    stride = min(stride, 29)
    note("gc overtaken", {"points": sum(sweep(range(5, len(cleaned.operations) + 1, stride), overtaken))})


@SOME_OR_ALL
@pytest.mark.parametrize("last", ["finished"], indirect=True)
def test_a_driver_that_starts_at_the_same_time_copes(littered: Path, finished: Case, space: Path, stride: int) -> None:
    """It is stopped at one of its first operations, and `gc` runs meanwhile."""

    def started(point: int) -> int:
        gc = copy(littered, finished, space / f"start-{point}")
        driver = Case(finished.job, gc.folder, overrides=("rounds=3", "keep.checkpoints=1"))
        with running(driver, Fault("SIGSTOP", point)) as process:
            if not wait_until_stopped(process):
                return 0
            code = gc.drive()
            assert code == 0 or (code == 2 and "is driving this run" in gc.output), gc.output
            assert process.pid
            os.kill(process.pid, signal.SIGCONT)
            assert finish(process) == 0, driver.output
        assert "Traceback" not in driver.output, driver.output
        assert state_of(gc.run) == "finished" and verify(gc.run).findings == []
        assert gc.drive() == 0 and waste(gc.run) == [], gc.output
        gc.remove()
        return 1

    # The third is between a probe's temporary file and its link: `gc` takes the file for one left behind.
    points = range(1, 40) if stride == 1 else (3, 14, 25)
    note("gc beside a start", {"points": sum(sweep(points, started))})


@SOME_OR_ALL
def test_cut_off_in_the_offers_of_a_fork_that_the_gate_has_stopped(shelf: Shelf, space: Path, stride: int) -> None:
    stride = min(stride, 3)  # few operations are within a folder
    parent = Case(small_project(shelf.folder(), train={}), shelf.folder())
    assert parent.drive() == 0, parent.output
    stopped = space / "stopped"
    fork(parent.run, stopped, ["promotion.rule=better"])
    with signals() as received, pytest.raises(GateStopped):
        drive(resumed(stopped), print, received, lambda _job, _logs: StandIns(gain=0.1, steps=2, peak=1))
    assert list(stopped.rglob(".checkpoint-offered"))

    def cleaning(name: str) -> Command:
        made = command(space / name / "in", "gc", "FOLDER/run")
        shutil.copytree(stopped, made.folder / "run")
        return made

    whole = cleaning("gc")
    assert whole.run() == 0 and not list(whole.folder.rglob("*-offered")), whole.output

    def killed(point: int) -> int:
        case = cleaning(f"gc-{point}")
        code, run = case.run(Fault("SIGKILL", point)), case.folder / "run"
        assert verify(run).findings == []
        assert case.run() == 0 and verify(run).findings == [] and names(run) == names(whole.folder / "run")
        shutil.rmtree(space / f"gc-{point}")
        return 1 if code else 0

    sweep(range(1 + stride // 2, len(whole.operations) + 1, stride), killed)
