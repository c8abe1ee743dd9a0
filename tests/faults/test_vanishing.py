"""A run folder that is moved away in the middle, a file handle that went stale, a process that may open no more files.

Every operation is a point of these faults. The run says so in one message and keeps its state.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.children import ALL_THAT_FOLLOW, Fault, Undisturbed, note
from tests.faults.sweeps import SOME_OR_ALL, spread, sweep
from tests.faults.test_full_disk import require_one_message, require_resumable


@SOME_OR_ALL
@pytest.mark.parametrize("kind", ["EMFILE", "ESTALE"])
@pytest.mark.parametrize(
    "times", [1, pytest.param(ALL_THAT_FOLLOW, marks=pytest.mark.faults)], ids=["once", "for-good"]
)
def test_operations_that_fail(calm: Undisturbed, space: Path, kind: str, times: int, stride: int) -> None:
    def failing(point: int) -> int:
        case = calm.case(space / f"{kind}-{times}-{point}")
        code = case.drive(Fault(kind, point, times))  # type: ignore[arg-type]
        if code:  # what only tidies up, or shows that the driver lives, may fail
            require_one_message(case, code)
        require_resumable(calm, case)
        return 1 if code else 0

    ended = sweep(spread(calm.operations, 5 * stride, 5), failing)
    note(kind, {"points": len(ended), "ended the run": sum(ended), "for good": times > 1})


@SOME_OR_ALL
def test_a_folder_that_is_moved_at_any_operation(calm: Undisturbed, space: Path, stride: int) -> None:
    def moved(point: int) -> int:
        case = calm.case(space / f"moved-{point}")
        code = case.drive(Fault("moved", point))
        away = case.run.with_name("run-moved")
        require_one_message(case, code)
        assert not case.run.exists(), sorted(case.run.rglob("*"))
        away.rename(case.run)
        require_resumable(calm, case)
        return 1

    # The first operations make the folder.
    note("moved", {"points": len(sweep(range(20, len(calm.operations) - 20, 2 * stride), moved))})
