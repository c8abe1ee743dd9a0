"""Reading a run that somebody drives meanwhile. What a reader knows of the ledger may be old when it comes to a file:
that was discarded since, has got its final name, or its step was done again. So the ledger is read once more before a
file is called missing or damaged."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from orchestrator.errors import Damaged
from orchestrator.ledger import Ledger
from orchestrator.status import open_run

T = TypeVar("T")

LOOKS = 5
"""How often a thing is looked at that is not as it should be, while the ledger goes on."""


def looked_at_again(look: Callable[[], list[str]], refresh: Callable[[], bool]) -> list[str]:
    """What `look` finds to be wrong, by a ledger that is not older than the look: as long as there are findings and
    `refresh` has found new records, it looks again; and once more in any case, since a file gets its final name without
    a record."""
    found = look()
    for number in range(1, LOOKS):
        if not found:
            break
        went_on = refresh()
        if number > 1 and not went_on:
            break
        found = look()
    return found


def settled(run_dir: Path, act: Callable[[Ledger], T]) -> T:
    """What `act` returns for the run's ledger; done anew with a new reading where it found damage meanwhile. It must
    leave nothing behind where it fails.

    Raises:
        BadInput: there is no run in this folder.
        Damaged: so it is by a ledger that is not older than the damage.
    """
    ledger = open_run(run_dir)
    for number in range(1, LOOKS):
        try:
            return act(ledger)
        except Damaged:
            known = len(ledger.records)
            ledger = open_run(run_dir)
            if number > 1 and len(ledger.records) == known:
                raise
    return act(ledger)
