"""`ratchet rollback`: a person's word that an earlier round's checkpoint is the reference again.

The loop clicks forward, and never takes a promotion back. Somebody may: what follows the round is set aside by a record
(ledger/rollbacks.py), and the next start goes on with the round after it. Whatever cuts it off, the same command, or a
resume, does the rest.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.driver.resume import command
from orchestrator.errors import BadInput, Damaged, RatchetError
from orchestrator.files.disk import one_message
from orchestrator.ledger import rollbacks
from orchestrator.ledger.artifacts import Artifacts
from orchestrator.ledger.borders import require_borders
from orchestrator.ledger.kinds import MAX_REASON
from orchestrator.ledger.ledger import Artifact, State
from orchestrator.ledger.rollbacks import round_of
from orchestrator.ledger.run import Run
from orchestrator.reports.status import open_run, reference_path, run_state
from orchestrator.reports.written import write_reports
from orchestrator.sources.registry import SOURCES


@dataclass(frozen=True, slots=True)
class RolledBack:
    """What has come of it."""

    root: Path
    round: int
    reference: str
    """An absolute path."""
    aside: tuple[int, ...]
    """The rounds that were set aside; none where the run was at that round already."""

    def line(self) -> str:
        """For people."""
        to = f"round {self.round}" if self.round else "the base model"
        aside = ", ".join(map(str, self.aside))
        done = f"set aside rounds {aside}, kept until `ratchet gc`" if aside else "nothing followed it"
        return f"reference {self.reference}, of {to}; {done}"


def roll_back(run_dir: Path, to: int, driver: Mapping[str, Any], reason: str = "") -> RolledBack:
    """Make the checkpoint that was promoted in round `to`, or for 0 the base model, the reference again. Claims the run
    as this `driver`.

    Raises:
        BadInput: there is no run, somebody drives it, it cannot go back there, or no record can hold the reason.
        Damaged: the checkpoint is not what was committed, or a record is damaged.
        Displaced: somebody has begun to drive the run meanwhile.
    """
    _require_reason(reason)
    ledger = open_run(run_dir)
    if run_state(run_dir, ledger.state) == "running":
        by = ledger.state.driver
        raise BadInput(f"{run_dir}: process {by.get('pid')} on {by.get('host')} is driving this run. Stop it first.")
    require_borders(run_dir, ledger.state)
    target = _target(run_dir, ledger.state, to)
    before, aside, at = _reference(ledger.state), _following(ledger.state, to), Artifacts(run_dir)
    if target is not None:
        at.verify(target, at.place(target))
    with one_message(run_dir, "The same command goes on from here."):
        run = Run(run_dir)
        run.claim(dict(driver), after=len(ledger.records))
        if aside:
            said = {"round": to, "before": before, "rounds": list(aside)} | ({"reason": reason} if reason else {})
            run.append("rollback", said)
        rollbacks.settle(run)
        run.end("interrupted", f"rolled back to {f'round {to}' if to else 'the base model'}")
    with contextlib.suppress(OSError, RatchetError, ValueError):  # the next start makes them
        write_reports(run_dir, SOURCES)
    return RolledBack(run_dir, to, str(reference_path(run_dir, run.ledger.state)), aside)


def _require_reason(reason: str) -> None:
    """Refuse what no record can hold, before anything is claimed for it."""
    try:
        reason.encode()
    except UnicodeEncodeError as error:
        raise BadInput(
            f"--reason: {reason[:80]!r} is no text in UTF-8, and what a record holds is. Use a UTF-8 locale "
            "(`LC_ALL=C.UTF-8`)"
        ) from error
    if len(reason) > MAX_REASON:
        raise BadInput(f"--reason: has {len(reason):,} characters, and a record holds {MAX_REASON:,}: shorten it")


def _reference(state: State) -> str:
    """The reference, as records name it."""
    config = state.configs[-1]
    base = config.get("model") or config["job"]["model"]
    return str(state.promotions[-1]["reference"] if state.promotions else base)


def _following(state: State, to: int) -> tuple[int, ...]:
    return tuple(sorted({n for step in (*state.commits, *state.shards) if (n := round_of(step)) > to}))


def _target(run_dir: Path, state: State, to: int) -> Artifact | None:
    """The checkpoint to go back to; None for a base model in a folder of its own, which the next start checks.

    Raises:
        BadInput: there is no going back there.
    """
    if not state.configs:
        raise BadInput(f"{run_dir}: this run was never started, so that there is nothing to go back to")
    promoted = [int(p["round"]) for p in state.promotions if p["promoted"]]
    there = [n for n in promoted if f"rounds/{n:02d}/checkpoint" not in state.discarded]
    can = f"Can be gone back to: 0, the base model{''.join(f', {n}' for n in there)}"
    if to and to not in promoted:
        decided = to in [int(p["round"]) for p in state.promotions]
        why = "was refused by the gate" if decided else "has promoted nothing"
        raise BadInput(f"--to-round: round {to} of {run_dir} {why}. {can}")
    if to and to not in there:
        raise BadInput(f"--to-round: the checkpoint of round {to} of {run_dir} was removed (keep.checkpoints). {can}")
    if not _following(state, to) and not state.rolled_back:
        raise BadInput(f"--to-round: nothing follows {f'round {to}' if to else 'the base model'} in {run_dir}. {can}")
    path = f"rounds/{to:02d}/checkpoint" if to else "baseline/model"
    found = next((a for commit in state.commits.values() for a in commit.artifacts if a.path == path), None)
    if to and found is None:
        raise Damaged(f"{run_dir}: round {to} is promoted, and its checkpoint is not committed. Restore it from a copy")
    return found


def going_on(done: RolledBack) -> str:
    """How the run goes on, for people."""
    first = done.round + 1
    return (
        f"go on     {command(done.root)} does round {first} again, by the same settings and seeds; with others: "
        f"ratchet fork --from-round {first} {done.root} NEWRUN KEY=VALUE"
    )
