"""What the sweeps over a run's operations share: which points, on all cores, and what must hold after each."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from orchestrator.errors import BadInput
from orchestrator.ledger import Ledger
from orchestrator.status import status

STRIDE = 31  # a prime, so that a sample meets every kind of operation
SOME_OR_ALL = pytest.mark.parametrize(
    "stride", [STRIDE, pytest.param(1, marks=pytest.mark.faults)], ids=["sample", "every-point"]
)


def sweep(points: Iterable[int], check: Callable[[int], int]) -> list[int]:
    """Call `check` for every point, on all cores; what it returned. All points that fail are named."""

    def guarded(point: int) -> int | str:
        try:
            return check(point)
        except Exception as error:  # of hundreds of points each should be seen
            return f"point {point}: {type(error).__name__}: {error}"

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
