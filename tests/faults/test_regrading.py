"""Drivers that go on with what another version of the graders has begun, and are killed before each operation."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import pytest

from orchestrator.commands.verify.command import verify
from orchestrator.ledger.ledger import Ledger
from orchestrator.records.rows import GRADERS_VERSION
from tests.faults.children import Case, Fault, Undisturbed, Workers, finish, running, tree, wait_for, wait_until_stopped
from tests.faults.conftest import Shelf
from tests.faults.jobs import KINDS, SAMPLE
from tests.faults.sweeps import SOME_OR_ALL, require_stopped, spread, sweep
from tests.orchestrator.test_loop import history
from tests.support.version_stand_ins import First, Second

HALF = ("grade", 4)
"""Of round 1's two shards of verdicts the second one: gate and test have one each."""


class FirstWorkers(Workers, First):
    pass


class SecondWorkers(Workers, Second):
    pass


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A job, and a run of it whose base model and half of whose verdicts the first version has graded."""
    folder = tmp_path_factory.mktemp("begun")
    case = Case(KINDS[SAMPLE].make(folder), folder / "first", FirstWorkers, wait_at=HALF)
    with running(case) as driver:
        wait_for(case.waiting, driver)
        driver.kill()
        finish(driver)
    state = Ledger(case.run / "ledger").state
    assert len(state.shards["rounds/01/verdicts"]) == 1 and "rounds/01/verdicts" not in state.commits
    return case.job, case.run


def copied(begun: tuple[Path, Path], folder: Path) -> Case:
    job, run = begun
    case = Case(job, folder, SecondWorkers)
    shutil.copytree(run, case.run)
    return case


@pytest.fixture(scope="module")
def calm(begun: tuple[Path, Path], shelf: Shelf) -> Undisturbed:
    """What the second version makes of it without a fault."""
    case = copied(begun, shelf.folder() / "undisturbed")
    assert case.drive() == 0, case.output
    assert verify(case.run).findings == []
    state = Ledger(case.run / "ledger").state
    assert state.shards["rounds/01/verdicts"][0].facts["graders_version"] == GRADERS_VERSION
    assert "rounds/01/regraded" in state.commits
    kind = KINDS[SAMPLE]
    return Undisturbed(case.job, kind, case.run, history(case.run), tree(case.run), case.operations, case.pieces)


@SOME_OR_ALL
def test_killed_at_any_operation_nothing_is_mixed_and_nothing_is_lost(
    calm: Undisturbed, begun: tuple[Path, Path], space: Path, stride: int
) -> None:
    # From the claim to the discarded shard and its new verdicts, and where answers are graded again for the gate.
    last = max(i for i, operation in enumerate(calm.operations) if "regraded" in operation)

    def killed(point: int) -> int:
        case = copied(begun, space / f"kill-{point}")
        assert case.drive(Fault("SIGKILL", point)) == -9, case.output
        require_stopped(case.run)
        assert case.drive() == 0, case.output
        calm.require_same(case.run)
        assert verify(case.run).findings == []
        case.remove()
        return point

    assert sweep(spread(calm.operations[: last + 2], stride, stride // 2 + 1), killed)


def test_a_driver_that_is_overtaken_while_it_discards_takes_nothing_away(
    calm: Undisturbed, begun: tuple[Path, Path], space: Path
) -> None:
    """It stops between the record and the file, and goes on when its successor has graded the shard again."""
    case = copied(begun, space / "overtaken")
    removal = calm.operations.index("os.remove rounds/01/verdicts/00000.parquet") + 1
    with running(case, Fault("SIGSTOP", removal)) as slow:
        assert wait_until_stopped(slow)
        assert case.drive() == 0, case.output
        assert slow.pid is not None
        os.kill(slow.pid, signal.SIGCONT)
        assert finish(slow) == 1  # displaced
    calm.require_same(case.run, hidden=False)
    assert verify(case.run).findings == []
