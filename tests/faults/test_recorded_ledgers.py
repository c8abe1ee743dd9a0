"""Ledgers that earlier versions wrote: they are read as they were, by every later one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from orchestrator.ledger.ledger import Ledger
from tests.faults.ledgers.record import HERE, folded, status_of

RECORDED = sorted(path.parent for path in HERE.glob("*/*/expected.json"))


@pytest.mark.parametrize("folder", RECORDED, ids=lambda path: str(path.relative_to(HERE)))
def test_a_recorded_ledger_says_what_it_said(folder: Path) -> None:
    expected = json.loads((folder / "expected.json").read_text())
    assert json.loads(json.dumps(folded(Ledger(folder / "ledger").state))) == expected["folded"]
    found, then = status_of(folder), expected["status"]
    assert {key: found[key] for key in then if key != "rounds"} == {k: then[k] for k in then if k != "rounds"}
    for row, was in zip(found["rounds"], then["rounds"], strict=True):
        # The time of what was taken over from another run is not the run's own, and told no more.
        own = {phase: took for phase, took in was["seconds"].items() if phase not in row["taken_over"]}
        assert {key: row[key] for key in was} == was | {"seconds": own}


def test_every_kind_of_record_is_recorded() -> None:
    kinds = {record.kind for folder in RECORDED for record in Ledger(folder / "ledger").records}
    assert kinds == {"claim", "config", "offer", "shard", "commit", "promotion", "discard", "end"}
