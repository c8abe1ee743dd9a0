"""A run that was rolled back is archived: what is done once more has the names of what was set aside, and wherever the
store dies, what it tells of can be fetched."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from orchestrator.archive.disk import DiskStore
from orchestrator.archive.marker import read_marker
from orchestrator.commands.rollback import roll_back
from orchestrator.commands.verify.command import verify
from orchestrator.driver.drive import identity
from orchestrator.driver.resume import resumed
from orchestrator.ledger.ledger import Ledger
from tests.orchestrator.archive.test_receiving import bring
from tests.orchestrator.archive.test_sending import Dying, send
from tests.orchestrator.test_resume import go
from tests.support.stand_ins import StandIns, make_project, run_job


@pytest.mark.parametrize("back", [[1], [1, 2], [2, 1]], ids=str)
def test_wherever_the_store_dies_what_it_tells_of_can_be_fetched(tmp_path: Path, back: Sequence[int]) -> None:
    run_job(make_project(tmp_path), StandIns(), "rounds=3", "promotion.rule=always")
    run, old = tmp_path / "run", tmp_path / "old"
    assert send(run, old, keep=False).problem is None
    for at, to in enumerate(back, 1):
        roll_back(run, to, identity())
        go(resumed(run, [], lambda _: None), StandIns(gain=0.2 - 0.05 * at))

    def sent(name: str, left: int) -> Dying:
        shutil.copytree(old, tmp_path / name)
        store = Dying(tmp_path / name, left)
        send(run, "x", keep=False, opened=lambda _: store)
        return store

    whole = sent("whole", 10**9)
    told = set()
    for left in range(0, len(whole.order), 9):
        store = sent(f"archive-{left}", left)
        told.add(require_fetched(store, tmp_path / f"fetched-{left}"))
        store.left = 10**9
        assert send(run, "x", keep=False, opened=lambda _, at=store: at).problem is None
        assert require_fetched(store, tmp_path / f"again-{left}") == len(Ledger(run / "ledger").records)
    assert len(told) >= 2, "before and after the rollback"


def require_fetched(store: DiskStore, target: Path) -> int:
    """How many records an archive tells of, which can be fetched and verify."""
    bring(store, target)
    assert verify(target).findings == []
    marker = read_marker(store)
    assert marker is not None
    return marker.records
