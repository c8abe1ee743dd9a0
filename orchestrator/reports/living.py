"""Reading a run that somebody drives meanwhile. What a reader knows of the ledger may be old when it comes to a file:
that was discarded since, has got its final name, or its step was done again. So the ledger is read once more before a
file is called missing or damaged."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from orchestrator.errors import BadInput, Damaged
from orchestrator.ledger.ledger import Ledger
from orchestrator.reports.status import open_run

T = TypeVar("T")

LOOKS = 5
"""How often a thing is looked at that is not as it should be, while the ledger goes on."""


def looked_at_again(look: Callable[[], list[str]], refresh: Callable[[], bool]) -> list[str]:
    """What `look` finds to be wrong, by a ledger that is not older than the look: as long as there are findings and
    `refresh` has found new records, it looks again; and once more in any case, since a file gets its final name without
    a record."""
    found, still = look(), 0
    for _ in range(LOOKS):
        if not found or still == 1:
            break
        still = 0 if refresh() else 1
        found = look()
    return found


def gone(run_dir: Path) -> BadInput | None:
    """What is to be said of a run that was moved or removed since its ledger was read; None where it is there."""
    there = (run_dir / "ledger").is_dir()
    return None if there else BadInput(f"{run_dir}: was moved or removed while it was looked at")


def settled(run_dir: Path, act: Callable[[Ledger], T]) -> T:
    """What `act` returns for the run's ledger; done anew with a new reading where it found damage meanwhile. It must
    leave nothing behind where it fails.

    Raises:
        BadInput: there is no run in this folder, or no longer.
        Damaged: so it is by a ledger that is not older than the damage.
    """
    ledger, still = open_run(run_dir), 0
    for _ in range(LOOKS):
        try:
            return act(ledger)
        except Damaged as error:
            if (moved := gone(run_dir)) is not None:
                raise moved from error
            known, ledger = len(ledger.records), open_run(run_dir)
            still = 0 if len(ledger.records) > known else still + 1
            if still == 2:
                raise
    return act(ledger)
