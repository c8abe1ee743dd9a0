"""A run folder that is moved away in the middle, a file handle that went stale, a process that may open no more files.

Every operation is a point of these faults. The run says so in one message and keeps its state.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import orchestrator
from tests.faults.children import ALL_THAT_FOLLOW, Fault, Undisturbed, note
from tests.faults.sweeps import SOME_OR_ALL, spread, sweep
from tests.faults.test_full_disk import require_one_message, require_resumable

MAKE_ALL_ABOVE = {
    "orchestrator/archive/receiver.py": 1,  # where a run is fetched to
    "orchestrator/commands/compare/command.py": 1,  # a comparison's folder
    "orchestrator/commands/compare/told.py": 1,
    "orchestrator/commands/doctor/command.py": 1,  # the folder of runs
    "orchestrator/commands/export/command.py": 1,
    "orchestrator/commands/grade/file.py": 1,
    "orchestrator/driver/private_folder.py": 1,  # a cache of the user's
    "orchestrator/files/user_state.py": 1,
    "orchestrator/ledger/ledger.py": 2,  # until a driver has claimed a run
}
"""How often a source file makes a folder with all that it stands in."""


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
    points = {*range(20, len(calm.operations) - 20, 2 * stride), *made_again(calm.operations)}
    note("moved", {"points": len(sweep(sorted(points), moved))})


def made_again(operations: list[str]) -> list[int]:
    """Where a folder is made that is there already, the last operation of each kind: one that makes what it stands in,
    too, would make a run's folder anew that has just gone."""
    made, last = set[str](), dict[str, int]()
    for number, operation in enumerate(operations, 1):
        event, target = operation.split(" ", 1)
        if event == "os.mkdir" and target in made:
            last[re.sub(r"[0-9]+", "", target)] = number
        elif event == "os.mkdir":
            made.add(target)
    return sorted(last.values())


def test_workers_make_no_folder_above_their_own() -> None:
    """Nor does a driver: a run's folder that was moved in the middle of it would stand there again, with what was
    written last. Who may make the folders above is named: what begins a run or something beside it."""
    root = Path(orchestrator.__file__).parents[1]
    sources = [file for package in ("orchestrator", "workers") for file in (root / package).rglob("*.py")]
    found = {
        str(f.relative_to(root)): len(re.findall(r"parents=True|makedirs\(|copytree\(", f.read_text())) for f in sources
    }
    assert {name: count for name, count in found.items() if count} == MAKE_ALL_ABOVE
