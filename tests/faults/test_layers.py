"""Runs that are part of a container's image, whose file system (overlayfs) renames none of their folders: what has to
be renamed is copied. Cut off at any operation of that, nothing is lost, and the same command, or a resume, goes on."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from orchestrator.commands.verify.command import verify
from orchestrator.ledger.ledger import Ledger
from tests.faults.children import Case, Fault, Undisturbed, note, small_project
from tests.faults.commands import Command, typed
from tests.faults.conftest import Shelf
from tests.faults.sweeps import spread, state_of, sweep
from tests.faults.test_rollback import committed, left
from tests.orchestrator.test_cli import ratchet
from tests.orchestrator.test_loop import history
from tests.support.layers import layered, of_an_image, refuse_renames

SOME_OR_ALL = pytest.mark.parametrize(
    "stride", [23, pytest.param(1, marks=pytest.mark.faults)], ids=["sample", "every-point"]
)


def in_a_container(arguments: Sequence[Any], folder: Path) -> None:
    refuse_renames()
    typed(arguments, folder)


@pytest.fixture(scope="session")
def finished(shelf: Shelf) -> Case:
    """A run of three rounds."""
    case = Case(small_project(shelf.folder(), rounds=3), shelf.folder())
    assert case.drive() == 0, case.output
    return case


def command(run: Path, folder: Path, *arguments: Any) -> Command:
    """A command, for a copy of a run in an image."""
    made = Command(folder / "in", partial(in_a_container, arguments))
    shutil.copytree(run, made.folder / "run")
    of_an_image(made.folder / "run")
    return made


ROLLBACK = ("rollback", "FOLDER/run", "--to-round", "1")


@pytest.fixture(scope="session")
def calm_rollback(finished: Case, shelf: Shelf) -> Command:
    """The command without a fault; to be compared with."""
    made = command(finished.run, shelf.folder() / "calm", *ROLLBACK)
    assert made.run() == 0, made.output
    elsewhere = Command(shelf.folder() / "in", partial(typed, ROLLBACK))  # where folders can be renamed
    shutil.copytree(finished.run, elsewhere.folder / "run")
    assert elsewhere.run() == 0 and left(made.folder / "run") == left(elsewhere.folder / "run")
    return made


@SOME_OR_ALL
@pytest.mark.parametrize("kind", ["SIGKILL", "SIGTERM", "full"])
def test_a_rollback_disturbed_at_any_operation_goes_on(
    finished: Case, calm_rollback: Command, space: Path, kind: str, stride: int
) -> None:
    outcome, files = left(calm_rollback.folder / "run"), sorted(finished.run.rglob("rounds/*/*/*.parquet"))

    def disturbed(point: int) -> int:
        case = command(finished.run, space / f"{kind}-{point}", *ROLLBACK)
        run = case.folder / "run"
        code = case.run(Fault(kind, point))  # type: ignore[arg-type]
        assert code in {"SIGKILL": (-9, 0), "SIGTERM": (130, 0), "full": (0, 1)}[kind], f"{code}\n{case.output}"
        assert "Traceback" not in case.output, case.output
        assert verify(run).findings == [], verify(run).findings
        assert len(list(run.rglob("rounds/*/*/*.parquet"))) >= len(files), "nothing is lost"
        assert case.run() == 0, case.output
        assert left(run) == outcome and verify(run).findings == []
        shutil.rmtree(space / f"{kind}-{point}")
        return 1 if code else 0

    ended = sweep(spread(calm_rollback.operations, stride, 1 + stride // 2), disturbed)
    note(f"layers {kind}", {"points": len(ended), "of": len(calm_rollback.operations), "ended": sum(ended)})


@SOME_OR_ALL
def test_a_resume_goes_on_after_a_rollback_killed_at_any_operation(
    finished: Case, calm_rollback: Command, space: Path, stride: int
) -> None:
    before = committed(finished.run)

    def killed(point: int) -> int:
        case = command(finished.run, space / f"resume-{point}", *ROLLBACK)
        run = case.folder / "run"
        code = case.run(Fault("SIGKILL", point))
        went_back = bool(Ledger(run / "ledger").state.rollbacks)
        driver = Case(finished.job, case.folder, prepare=refuse_renames)
        assert driver.drive() == 0, driver.output
        assert committed(run) == before and state_of(run) == "finished"
        assert bool(list((run / "rounds").glob(".*-set-aside-*"))) == went_back
        assert verify(run).findings == [] and not list((run / "rounds").glob(".*-e0"))
        shutil.rmtree(space / f"resume-{point}")
        return 1 if code else 0

    sweep(spread(calm_rollback.operations, 3 * stride, 1 + stride // 2), killed)


@SOME_OR_ALL
def test_what_was_set_aside_can_be_removed_also_after_a_kill(
    finished: Case, calm_rollback: Command, space: Path, stride: int
) -> None:
    def cleaning(name: str) -> Command:
        return command(calm_rollback.folder / "run", space / name, "gc", "FOLDER/run")

    whole = cleaning("gc")
    assert whole.run() == 0, whole.output
    outcome = left(whole.folder / "run")

    def killed(point: int) -> int:
        case = cleaning(f"gc-{point}")
        case.run(Fault("SIGKILL", point))
        assert case.run() == 0 and "Traceback" not in case.output, case.output
        assert left(case.folder / "run") == outcome and verify(case.folder / "run").findings == []
        shutil.rmtree(space / f"gc-{point}")
        return 0

    sweep(spread(whole.operations, stride if stride == 1 else 9 * stride, 1 + stride // 2), killed)


@pytest.mark.parametrize("stride", [449, pytest.param(5, marks=pytest.mark.faults)], ids=["sample", "every-5"])
def test_a_run_killed_at_any_operation_goes_on_from_an_image_also_when_killed_again(
    calm: Undisturbed, space: Path, stride: int
) -> None:
    draw = random.Random(0)
    points = spread(calm.operations, stride, stride // 2 + 1)
    points += [
        number
        for number, what in enumerate(calm.operations, 1)
        if what.startswith("os.rename") and (number % 7 == 0 or stride == 5)
    ]
    seconds = {point: draw.randint(1, 60) for point in points}

    def killed(point: int) -> int:
        case = calm.case(space / f"image-{point}", prepare=refuse_renames)
        case.drive(Fault("SIGKILL", point))
        of_an_image(case.run)
        case.drive(Fault("SIGKILL", seconds[point]))
        assert case.drive() == 0, case.output
        calm.require_same(case.run)
        case.remove()
        return 0

    sweep(seconds, killed)


def test_a_run_in_a_lower_layer_is_rolled_back_resumed_and_cleaned(
    finished: Case, space: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the file system itself."""
    image = space / "image"
    shutil.copytree(finished.run, image / "run")
    with layered(image, space / "mounted") as top:
        run = top / "run"
        with pytest.raises(OSError, match="cross-device"):
            os.rename(run / "rounds/02", run / "rounds/x")
        assert ratchet("rollback", run, "--to-round", "1") == 0, capsys.readouterr().err
        assert not (run / "rounds/02").exists() and verify(run).findings == []
        driver = Case(finished.job, top)
        assert driver.drive() == 0, driver.output
        assert committed(run) == committed(finished.run) and verify(run).findings == []
        assert ratchet("gc", run) == 0, capsys.readouterr().err
        assert [path for path in (run / "rounds").iterdir() if path.name.startswith(".")] == []
        assert verify(run).findings == []


def test_a_run_that_was_killed_goes_on_in_a_lower_layer(calm: Undisturbed, half: Path, space: Path) -> None:
    """By the file system itself: the states of the training that was cut off come along."""
    image = space / "image"
    shutil.copytree(half, image / "run")
    states = list(image.glob("run/rounds/02/.train-state-of-*"))
    assert states
    with layered(image, space / "mounted") as top:
        case = calm.case(top)
        assert case.drive() == 0, case.output
        calm.require_same(case.run)
        assert history(case.run) == calm.history
