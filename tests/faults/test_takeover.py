"""Two drivers of one run at once: one stopped somewhere, another that takes over, and then the first again."""

from __future__ import annotations

import os
import random
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from orchestrator.commands.verify.command import verify
from orchestrator.driver.drive import identity, sign_of_life
from orchestrator.errors import Displaced
from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.record_files import record_numbers
from orchestrator.ledger.run import Run
from tests.faults.children import Case, Fault, Undisturbed, finish, note, running, wait_for, wait_until_stopped
from tests.faults.sweeps import SOME_OR_ALL, spread, state_of, sweep
from tests.support.stand_ins import StandIns, make_project, run_job


def go_on(process: BaseProcess) -> int:
    assert process.pid
    os.kill(process.pid, signal.SIGCONT)
    return finish(process)


@pytest.mark.parametrize("phase", [("tokenize", 2), ("generate", 3), ("grade", 4), ("train", 1), ("train", 2)], ids=str)
def test_a_driver_that_was_overtaken_stops_and_names_its_successor(
    calm: Undisturbed, space: Path, phase: tuple[str, int]
) -> None:
    folder = space / f"overtaken-{phase[0]}-{phase[1]}"
    first, second = calm.case(folder, wait_at=phase), calm.case(folder)
    with running(first) as older:
        wait_for(first.waiting, older)
        assert older.pid
        os.kill(older.pid, signal.SIGSTOP)
        first.go_on.touch()
        with running(second) as newer:
            assert finish(newer) == 0, second.output
        calm.require_same(first.run)
        before = Ledger(first.run / "ledger").records
        assert go_on(older) == 1
    assert f"another driver took this run over (process {newer.pid} " in first.output
    assert "Traceback" not in first.output, first.output
    assert Ledger(first.run / "ledger").records == before
    calm.require_same(first.run, hidden=False)
    assert state_of(first.run) == "finished"


@pytest.mark.parametrize("phase", [("generate", 2), ("generate", 3), ("train", 1), ("train", 2)], ids=str)
def test_a_driver_whose_folder_was_moved_leaves_another_run_in_its_place_alone(
    calm: Undisturbed, space: Path, phase: tuple[str, int]
) -> None:
    """The other run has fewer records than the older driver has read, as many, or more, and the same epoch."""
    folder = space / f"in-its-place-{phase[0]}-{phase[1]}"
    first, second = calm.case(folder, wait_at=("train", 1)), calm.case(folder, wait_at=phase)
    with running(first) as older:
        wait_for(first.waiting, older)
        first.run.rename(folder / "moved")
        first.waiting.unlink()
        with running(second) as newer:
            wait_for(second.waiting, newer)
            assert newer.pid
            os.kill(newer.pid, signal.SIGSTOP)
            before = Ledger(second.run / "ledger").records
            first.go_on.touch()
            assert finish(older) == 1
            assert "is no longer the run that this driver has claimed" in first.output
            assert "Traceback" not in first.output, first.output
            assert Ledger(second.run / "ledger").records == before
            assert go_on(newer) == 0, second.output
    calm.require_same(second.run, hidden=False)
    assert verify(second.run).findings == []
    moved = calm.case(folder / "again")
    moved.folder.mkdir()
    (folder / "moved").rename(moved.run)
    assert moved.drive() == 0, moved.output
    calm.require_same(moved.run)


def test_a_driver_leaves_an_older_copy_of_its_run_in_its_place_alone(calm: Undisturbed, space: Path) -> None:
    """Whose records would have a hole behind them."""
    folder = space / "copy-in-its-place"
    case = calm.case(folder, wait_at=("train", 1))
    with running(case) as driver:
        wait_for(case.waiting, driver)
        ledger = case.run / "ledger"
        shutil.copytree(case.run, folder / "copy", symlinks=True)
        for number in record_numbers(ledger)[-3:]:
            (folder / "copy" / "ledger" / f"{number:08d}.json").unlink()
        before = record_numbers(folder / "copy" / "ledger")
        case.run.rename(folder / "moved")
        (folder / "copy").rename(case.run)
        case.go_on.touch()
        assert finish(driver) == 1
    assert "is no longer the run that this driver has claimed" in case.output
    assert "Traceback" not in case.output, case.output
    assert record_numbers(ledger) == before
    assert case.drive() == 0, case.output
    calm.require_same(case.run, hidden=False)


def test_a_driver_whose_folder_was_moved_begins_nothing_in_what_stands_in_its_place(tmp_path: Path) -> None:
    run_job(make_project(tmp_path, rounds=1), StandIns())
    (root := tmp_path / "run").rename(other := tmp_path / "other")
    driver = Run(root)
    driver.claim(identity())
    root.rename(tmp_path / "moved")
    other.rename(root)
    for name in ("CURRENT", "job.yaml", "driver.json"):
        (root / name).write_text(f"the other run's {name}")
    before = {path: path.is_file() and path.read_bytes() for path in root.rglob("*")}
    for begin in (
        lambda: driver.hidden("rounds/01/pairs"),
        lambda: driver.step("rounds/09/pairs", {}, lambda _: {}),
        lambda: driver.write("CURRENT", b"mine"),
    ):
        with pytest.raises(Displaced, match="no longer the run that this driver has claimed"):
            begin()
    with sign_of_life(driver):
        pass  # which waits for the first
    assert {path: path.is_file() and path.read_bytes() for path in root.rglob("*")} == before


@SOME_OR_ALL
def test_stopped_at_any_operation_a_driver_can_be_overtaken(calm: Undisturbed, space: Path, stride: int) -> None:
    def overtaken(point: int) -> int:
        case = calm.case(space / f"stop-{point}")
        with running(case, Fault("SIGSTOP", point)) as older:
            if not wait_until_stopped(older):
                assert finish(older) == 0 and len(case.operations) < point
                return 0
            assert case.drive() == 0, case.output
            calm.require_same(case.run, hidden=False)
            before = Ledger(case.run / "ledger").records
            code = go_on(older)
        # One that was stopped before its claim simply takes over in its turn, and so finds all done.
        epochs = [record.data["pid"] for record in before if record.kind == "claim"]
        assert code == (1 if older.pid in epochs and before_the_end(before, older) else 0), case.output
        calm.require_same(case.run, hidden=False)
        assert case.drive() == 0, case.output
        calm.require_same(case.run)
        case.remove()
        return 1

    pointers = [n for n, done in enumerate(calm.operations, 1) if done == "os.rename CURRENT"]
    points = sorted({*spread(calm.operations, 2 * stride, 4), *pointers})
    note("overtaken", {"points": sum(sweep(points, overtaken))})


def before_the_end(records: list, process: BaseProcess) -> bool:
    """Whether a driver had not yet said that it finished when it was stopped."""
    epoch = next(r.epoch for r in records if r.kind == "claim" and r.data["pid"] == process.pid)
    return not any(r.kind == "end" and r.epoch == epoch for r in records)


@SOME_OR_ALL
def test_taking_over_while_the_other_one_goes_on(calm: Undisturbed, space: Path, stride: int) -> None:
    """The newer driver is itself stopped in its first operations, between which the older one goes on and ends."""
    draw = random.Random(1)
    renames = [n for n, done in enumerate(calm.operations, 1) if done.startswith("os.rename rounds")]
    points = [renames[at - 1] for at in spread([calm.operations[n - 1] for n in renames], max(1, stride // 6))]
    starts = {point: draw.randint(1, 14) for point in points}

    def crossed(point: int) -> int:
        case = calm.case(space / f"cross-{point}")
        with running(case, Fault("SIGSTOP", point)) as older, running_when(older, case, starts[point]) as newer:
            if newer is None:
                return 0
            stopped = wait_until_stopped(newer)
            assert go_on(older) in (0, 1), case.output
            if stopped:
                assert go_on(newer) == 0, case.output
        assert "Traceback" not in case.output, case.output
        assert case.drive() == 0, case.output
        calm.require_same(case.run)
        case.remove()
        return 1

    note("crossed", {"points": sum(sweep(points, crossed))})


@contextmanager
def running_when(older: BaseProcess, case: Case, point: int) -> Iterator[BaseProcess | None]:
    """A second driver that stops at its own operation `point`, once the first one has stopped."""
    if not wait_until_stopped(older):
        yield None
        return
    with running(case, Fault("SIGSTOP", point)) as newer:
        yield newer
