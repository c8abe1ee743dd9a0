"""Rollbacks: a person's word that an earlier round's checkpoint, or the base model, is the reference again.

A record `rollback` names the round that the run goes back to, and the rounds that it sets aside. Nothing is taken out
of the ledger: what those rounds have committed is no longer part of the fold, so that the loop does them once more, and
their folders are kept under hidden names until `ratchet gc`. A folder's name follows from the round and the record.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.files.durable import sync
from orchestrator.files.inside import remove_rest

if TYPE_CHECKING:
    from orchestrator.ledger.ledger import Artifact, State
    from orchestrator.ledger.record_files import Record
    from orchestrator.ledger.run import Run

_STEP = re.compile(r"rounds/(\d{1,6})(?:/|$)")
CURRENT = "CURRENT"


@dataclass(frozen=True)
class Rollback:
    """One of a run, as it was folded in."""

    record: int
    """Its number."""
    round: int
    """That the run went back to; 0 is the base model."""
    before: str
    """The reference until then, as records name it."""
    rounds: tuple[int, ...]
    """Those that were set aside."""
    reason: str
    artifacts: tuple[Artifact, ...]
    """What these rounds had committed and not discarded, by the names that it has now."""

    def line(self) -> str:
        """For people."""
        to = f"round {self.round}" if self.round else "the base model"
        aside = ", ".join(map(str, self.rounds)) or "none"
        return (
            f"rolled back to {to} by a person, setting aside rounds {aside}{f': {self.reason}' if self.reason else ''}"
        )

    def folder(self, number: int) -> str:
        """Where a round that was set aside is kept."""
        return f"rounds/.{number:02d}-set-aside-{self.record}"

    def folders(self) -> Iterator[str]:
        """Of all of them."""
        return map(self.folder, self.rounds)


def round_of(path: str) -> int:
    """The round of a step or of a path; 0 for what belongs to none."""
    found = _STEP.match(path)
    return int(found[1]) if found else 0


def is_aside(record: Record, state: State) -> bool:
    """Whether what a record says was set aside by a later one."""
    if record.kind == "promotion":
        number = int(record.data["round"])
    elif record.kind in ("commit", "shard", "offer"):
        number = round_of(str(record.data["step"]))
    else:
        return False
    return any(record.number < later.record and number > later.round for later in state.rollbacks)


def fold(state: State, record: Record) -> None:
    """Fold a rollback in: what follows its round is no longer there."""
    to = int(record.data["round"])
    rollback = Rollback(
        record.number, to, record.data["before"], tuple(record.data["rounds"]), record.data.get("reason", ""), ()
    )
    kept = tuple(_kept(rollback, artifact) for artifact in state.artifacts() if round_of(artifact.path) > to)
    state.rollbacks.append(replace(rollback, artifacts=kept))
    state.promotions = [promotion for promotion in state.promotions if promotion["round"] <= to]
    state.commits = {step: commit for step, commit in state.commits.items() if round_of(step) <= to}
    state.shards = {step: shards for step, shards in state.shards.items() if round_of(step) <= to}
    state.offers = {key: offer for key, offer in state.offers.items() if round_of(key[0]) <= to}
    # The names are free again: what had them goes by the names of what was set aside.
    state.discarded = {path for path in state.discarded if round_of(path) <= to}


def _kept(rollback: Rollback, artifact: Artifact) -> Artifact:
    """An artifact of a round by the names that it has once that is set aside."""
    number = round_of(artifact.path)

    def moved(path: str) -> str:
        return rollback.folder(number) + path.removeprefix(f"rounds/{number:02d}")

    return replace(artifact, path=moved(artifact.path), hidden=moved(artifact.hidden))


def unsettled(root: Path, state: State) -> Iterator[tuple[Path, Path]]:
    """The folders of rounds that were set aside and still have their old names, and those that they get. A driver may
    have died in between, or in the midst of a move, which leaves a rest of the old one beside the new one. Of a round
    that has committed something since, the folder is its new one."""
    begun = {round_of(step) for step in (*state.commits, *state.shards)}
    newest = {number: rollback for rollback in state.rollbacks for number in rollback.rounds}
    for number, rollback in newest.items():
        old, new = root / f"rounds/{number:02d}", root / rollback.folder(number)
        if number not in begun and os.path.lexists(old):
            yield old, new


def settle(run: Run) -> None:
    """Give the folders of rounds that were set aside their hidden names, and CURRENT the reference of now. Done again
    at each claim, so it does not mind being repeated, or cut off."""
    state = run.ledger.state
    for old, new in list(unsettled(run.root, state)):
        if os.path.lexists(new):
            remove_rest(run.root, old, lambda: _drives(run))
        else:
            run.rename(old, new)
            sync(new.parent)
    if state.rollbacks and state.rolled_back:
        reference = state.promotions[-1]["reference"] if state.promotions else None
        if reference is not None:
            run.write(CURRENT, str(reference).encode() + b"\n")
        else:
            run.remove(run.path(CURRENT))


def _drives(run: Run) -> bool:
    """Whether nobody has claimed the run since: one that has may work on such a round."""
    run.ledger.refresh()
    return run.ledger.state.epoch == run.epoch
