"""The runs of a folder, a line each: what `ratchet list` shows. Anybody's run may lie there, and one that cannot be
read hides no other."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.text import Text

from orchestrator.errors import BadInput, Closed, RatchetError
from orchestrator.files.disk import unusable
from orchestrator.files.inside import is_run
from orchestrator.files.rights import reason
from orchestrator.ledger.ledger import State
from orchestrator.reports.rounds import accuracy, rounds
from orchestrator.reports.status import open_run, run_state
from orchestrator.text.shown import line
from orchestrator.text.tables import FittingTable

_COLOURS = {"running": "cyan", "finished": "green", "failed": "red", "damaged": "red"}


@dataclass(frozen=True, slots=True)
class Overview:
    """A run, as far as a line of a table tells it."""

    name: str
    """As a command takes it: the path of its folder below the folder of runs."""
    folder: Path
    state: str
    """As `run_state` has it; `damaged` where it cannot be read, `closed` where this user may not."""
    method: str | None = None
    model: str | None = None
    """The base model, as the job names it."""
    rounds: int = 0
    """That were decided."""
    wanted: int | None = None
    """Rounds that the job has."""
    base: float | None = None
    """Test accuracy of the base model, a fraction."""
    reference: float | None = None
    """Test accuracy of what is the reference now."""
    changed: float | None = None
    """When its newest record was written, in seconds since 1970."""
    why: str | None = None
    """What is wrong with it, where it is damaged, or whose it is, where it is closed."""

    def as_json(self) -> dict[str, Any]:
        """For programs; its keys are an interface. `changed` is in UTC, ISO 8601."""
        when = None if self.changed is None else datetime.fromtimestamp(self.changed, UTC).isoformat(timespec="seconds")
        return {
            "name": self.name,
            "path": str(self.folder),
            "state": self.state,
            "method": self.method,
            "model": self.model,
            "rounds": self.rounds,
            "wanted_rounds": self.wanted,
            "base_accuracy": self.base,
            "reference_accuracy": self.reference,
            "changed": when,
            "damage": self.why if self.state == "damaged" else None,
            "closed": self.why if self.state == "closed" else None,
        }


def runs_in(folder: Path) -> list[Overview]:
    """The runs in a folder, and in those of its folders that are no runs (a comparison has one), the newest first.

    Raises:
        BadInput: it is no folder, cannot be read, or is itself a run.
    """
    if is_run(folder):
        raise BadInput(f"{folder}: is a run. `ratchet status {folder}` shows it; list takes a folder of runs.")
    try:
        found = [_overview(path, folder) for path in _runs_below(folder)]
    except OSError as error:
        raise BadInput(f"{folder}: cannot be listed ({reason(error)}). Give a folder of runs.") from error
    return sorted(found, key=lambda run: (-(run.changed or 0.0), run.name))


def _runs_below(folder: Path) -> Iterator[Path]:
    for path in _folders(folder):
        if is_run(path):
            yield path
        elif os.access(path, os.R_OK | os.X_OK):
            yield from filter(is_run, _folders(path))


def _folders(folder: Path) -> list[Path]:
    with os.scandir(folder) as entries:  # no link: it would lead to a run of another folder, or around in circles
        return [Path(entry.path) for entry in entries if entry.is_dir(follow_symlinks=False) and entry.name[0] != "."]


def _overview(run: Path, above: Path) -> Overview:
    name = str(run.relative_to(above))
    try:
        ledger = open_run(run)
        return _told(run, name, ledger.state, ledger.records[-1].time)
    except (RatchetError, OSError) as error:
        why = (isinstance(error, OSError) and unusable(error)) or error
        return Overview(name, run, "closed" if isinstance(why, Closed) else "damaged", why=str(why))


def _told(run: Path, name: str, state: State, changed: float) -> Overview:
    job = state.configs[-1]["job"] if state.configs else {}
    baseline = state.commits.get("baseline/evaluation")
    base = accuracy(baseline.facts if baseline else None)
    decided = [each for each in rounds(state) if each.promotion is not None]
    promoted = [each for each in decided if each.promotion and each.promotion["promoted"]]
    now = accuracy(promoted[-1].facts.get("evaluation")) if promoted else base
    wanted = job.get("rounds")
    return Overview(
        name, run, run_state(run, state), job.get("method"), job.get("model"), len(decided), wanted, base, now, changed
    )


_HEADINGS = ("run", "state", "method", "rounds", "base", "now", "changed")
_LEFT_OUT = (("method",), ("method", "changed"), ("method", "changed", "base"))
"""What a narrow terminal does without."""


def render(runs: Sequence[Overview], now: float) -> FittingTable:
    """The table, for a terminal, at a time in seconds since 1970."""
    return FittingTable(_HEADINGS, [_row(run, now) for run in runs], _LEFT_OUT, left=3, names=True, gap=2)


def _row(run: Overview, now: float) -> list[str | Text]:
    return [
        Text(line(run.name), "bold"),
        Text(run.state, _COLOURS.get(run.state, "yellow")),
        line(run.method or ""),
        "" if run.wanted is None else _decided(run.rounds, run.wanted),
        *("" if share is None else f"{100 * share:.1f} %" for share in (run.base, run.reference)),
        "" if run.changed is None else _ago(now - run.changed),
    ]


def _decided(number: int, wanted: int) -> str:
    """A resume may want fewer rounds than are decided."""
    return f"{number} of {wanted}" if number <= wanted else f"{number}, {wanted} wanted"


def _ago(seconds: float) -> str:
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit} ago"
    return "just now"
