"""Drivers that are killed, or told to end, before each of their operations on the run folder."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from orchestrator.errors import BadInput
from orchestrator.ledger import Ledger
from orchestrator.status import status
from tests.faults.children import Case, Fault, Undisturbed, note

STRIDE = 17  # a prime, so that a sample meets every kind of operation
SOME_OR_ALL = pytest.mark.parametrize(
    "stride", [STRIDE, pytest.param(1, marks=pytest.mark.faults)], ids=["sample", "every-point"]
)


def sweep(points: Iterable[int], check: Callable[[int], int]) -> list[int]:
    """Call `check` for every point, on all cores; what it returned. All points that fail are named."""

    def guarded(point: int) -> int | str:
        try:
            return check(point)
        except Exception as error:  # of hundreds of points each should be seen
            return f"operation {point}: {type(error).__name__}: {error}"

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        results = list(pool.map(guarded, points))
    failures = [result for result in results if isinstance(result, str)]
    assert not failures, "\n".join(failures)
    return [result for result in results if isinstance(result, int)]


def state_of(run: Path) -> str:
    """What `status` calls a run; "none" where there is no record yet."""
    try:
        return str(status(run)["state"])
    except BadInput as no_run:
        assert "no ledger" in str(no_run) or "no such run" in str(no_run)
        return "none"


def require_stopped(run: Path) -> None:
    """`status` works, and calls a run dead that ended without a word."""
    kinds = [record.kind for record in Ledger(run / "ledger").records] if (run / "ledger").is_dir() else []
    expected = "none" if not kinds else "finished" if kinds[-1] == "end" else "interrupted"
    assert state_of(run) == expected


@SOME_OR_ALL
def test_killed_at_any_operation_a_run_ends_as_if_undisturbed(calm: Undisturbed, space: Path, stride: int) -> None:
    def killed(point: int) -> int:
        case = Case(calm.job, space / f"kill-{point}")
        code = case.drive(Fault("kill", point))
        assert code == -9 or (code == 0 and case.operations < point), f"exit code {code}\n{case.output}"
        require_stopped(case.run)
        assert case.drive() == 0, case.output
        calm.require_same(case.run)
        assert state_of(case.run) == "finished"
        repeated = case.pieces - calm.pieces
        case.remove()
        return repeated

    points = range(1, calm.operations + 1, stride)
    repeated = sweep(points, killed)
    note("kill", {"points": len(repeated), "repeated": sorted(repeated), "pieces": calm.pieces})
    assert max(repeated) <= 4  # an evaluation is one piece for the ledger: two shards and their verdicts


@SOME_OR_ALL
def test_killed_again_during_the_resume(calm: Undisturbed, space: Path, stride: int) -> None:
    draw = random.Random(0)
    seconds = {point: draw.randint(1, calm.operations) for point in range(5, calm.operations, 5 * stride)}

    def killed_twice(point: int) -> int:
        case = Case(calm.job, space / f"twice-{point}")
        case.drive(Fault("kill", point))
        case.drive(Fault("kill", seconds[point]))
        require_stopped(case.run)
        assert case.drive() == 0, case.output
        calm.require_same(case.run)
        repeated = case.pieces - calm.pieces
        case.remove()
        return repeated

    repeated = sweep(seconds, killed_twice)
    note("kill twice", {"points": len(repeated), "repeated": sorted(repeated), "pieces": calm.pieces})


@SOME_OR_ALL
@pytest.mark.parametrize("signal", ["SIGTERM", "SIGINT"])
def test_interrupted_at_any_operation_a_run_says_so(calm: Undisturbed, space: Path, signal: str, stride: int) -> None:
    def interrupted(point: int) -> int:
        case = Case(calm.job, space / f"{signal}-{point}")
        code = case.drive(Fault(signal, point))  # type: ignore[arg-type]
        assert code == 130 or (code == 0 and case.operations < point), f"exit code {code}\n{case.output}"
        assert "Traceback" not in case.output, case.output
        require_said(case.run)
        assert case.drive() == 0, case.output
        calm.require_same(case.run)
        repeated = case.pieces - calm.pieces
        case.remove()
        return repeated

    points = range(3 if signal == "SIGTERM" else 11, calm.operations + 1, 2 * stride)
    repeated = sweep(points, interrupted)
    note(signal, {"points": len(repeated), "repeated": sorted(repeated), "pieces": calm.pieces})


def require_said(run: Path) -> None:
    """Once there is a claim, the ledger says that the driver was interrupted, unless it had finished before."""
    records = Ledger(run / "ledger").records if (run / "ledger").is_dir() else []
    ends = [record.data["state"] for record in records if record.kind == "end"]
    assert ends in ([], ["interrupted"], ["finished"])
    assert ends or not records, "no word of the interruption"
