"""What the sweeps over a run's operations share: which points, on all cores, and what must hold after each."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from orchestrator.errors import BadInput
from orchestrator.ledger.ledger import Ledger
from orchestrator.reports.status import status

STRIDE = 47  # a prime, so that a sample meets every kind of operation
SOME_OR_ALL = pytest.mark.parametrize(
    "stride", [STRIDE, pytest.param(1, marks=pytest.mark.faults)], ids=["sample", "every-point"]
)


def of_sources(strides: Mapping[str, tuple[int | None, int]]) -> pytest.MarkDecorator:
    """Sweep over the jobs of several sources: by source, the stride of a sample, if any, and that of `make faults`."""
    cases = []
    for source, (some, every) in strides.items():
        if some is not None:
            cases.append(pytest.param(source, some, id=f"{source}-sample"))
        cases.append(pytest.param(source, every, marks=pytest.mark.faults, id=f"{source}-every-{every}"))
    return pytest.mark.parametrize(("source", "stride"), cases)


def spread(operations: Sequence[str], stride: int, first: int = 1) -> list[int]:
    """The numbers, from `first` on, of one operation out of each `stride`: of the kind that was taken least until then,
    so that a sample of few points is of many kinds. What is done, and the form of the path, make a kind."""
    named = [operation.partition(" ") for operation in operations]
    kinds = [(what, re.sub(r"[^./]+", "x", path)) for what, _, path in named]
    taken: Counter[tuple[str, str]] = Counter()
    points = []
    for start in range(first, len(operations) + 1, stride):
        near = range(start, min(start + stride, len(operations) + 1))
        points.append(min(near, key=lambda number: taken[kinds[number - 1]]))
        taken[kinds[points[-1] - 1]] += 1
    return points


def sweep(points: Iterable[int], check: Callable[[int], int]) -> list[int]:
    """Call `check` for every point, on all free cores; what it returned. All points that fail are named."""

    def guarded(point: int) -> int | str:
        try:
            return check(point)
        except Exception as error:  # of hundreds of points each should be seen
            return f"point {point}: {type(error).__name__}: {error}"

    beside = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))  # processes of pytest that share the cores
    with ThreadPoolExecutor(max(1, (os.cpu_count() or 1) // beside)) as pool:
        results = list(pool.map(guarded, points))
    failures = [result for result in results if isinstance(result, str)]
    assert not failures, "\n".join(failures)
    return [result for result in results if isinstance(result, int)]


def state_of(run: Path) -> str:
    """What `status` calls a run; "none" where there is no record yet."""
    try:
        return str(status(run)["state"])
    except BadInput as no_run:
        assert any(said in str(no_run) for said in ("no ledger", "no such run", "no record yet"))
        return "none"


def require_stopped(run: Path) -> None:
    """`status` works, and calls a run dead that ended without a word."""
    records = Ledger(run / "ledger").records if (run / "ledger").is_dir() else []
    expected = "interrupted" if records else "none"
    if records and records[-1].kind == "end":
        expected = records[-1].data["state"]
        assert expected in ("finished", "failed")  # the latter where it waits for people's verdicts
    assert state_of(run) == expected
