"""`metrics.jsonl` in the run folder: what was measured while it went on, and when. A line an update of a training, and
a line for each look at a node.

    {"time": 1764382000.1, "what": "rounds/01/train", "number": 3, "values": {"loss": 0.69, "margin": 0.01}}

It is what dashboards are fed from while a training is under way, and where the times of updates stand, which the
committed `train/metrics.parquet` does not know. The committed files are the truth: the journal can go, and may lack
lines that were measured in the last second before a driver was killed. Where ranks were lost, an update may stand in it
twice; who reads takes the first one. A stranger may have written it: what is no such line is passed over.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.errors import Damaged, Displaced
from orchestrator.files import strict_json
from orchestrator.files.inside import open_to_write, regular_size
from orchestrator.ledger.run import Run
from orchestrator.records.progress import NODES
from orchestrator.reports.progress.board import Event, Measured
from orchestrator.reports.progress.model import Progress

JOURNAL = "metrics.jsonl"
MOST_BYTES = 1 << 29
"""What the journal may grow to; what is measured beyond that is not kept."""
_MOST_LINE, _MOST_VALUES, _MOST_NAME = 1 << 16, 500, 200
_MOST_WAITING = 10_000  # lines, where the disk takes none
_LATEST = 1 << 33  # seconds since 1970


@dataclass(frozen=True, slots=True)
class Row:
    """A line: figures of update `number` of the training `what`, or of a node; `time` in seconds since 1970."""

    what: str
    number: int
    time: float
    values: Mapping[str, float]

    @property
    def node(self) -> str | None:
        """The name of the node that it is of; None for an update."""
        folder, _, name = self.what.partition("/")
        return name if folder == NODES and name else None


class JournalFile:
    """A `View` (progress/showing.py) that writes the journal, and then calls `written`. Nothing is written before the
    driver has claimed the run, nor by one that was displaced; what the disk does not take is written the next time."""

    name = JOURNAL
    every = 1.0  # seconds

    def __init__(self, run: Run, written: Callable[[], None] = lambda: None, most: int = MOST_BYTES) -> None:
        self._run, self._written, self._most = run, written, most
        self._waiting: list[bytes] = []

    def hear(self, event: Event) -> None:
        """See `View`."""
        if isinstance(event, Measured) and (values := _finite(event.values)):
            line = {"time": round(event.time, 3), "what": event.what, "number": event.number, "values": values}
            self._waiting.append(json.dumps(line, separators=(",", ":")).encode() + b"\n")
            del self._waiting[:-_MOST_WAITING]

    def look(self, progress: Progress) -> None:
        """See `View`."""
        if self._waiting and progress.epoch and progress.epoch == getattr(self._run, "epoch", None):
            with contextlib.suppress(OSError, Displaced, Damaged):  # which the next piece of work tells
                self._run.ledger.require_own()
                self._append(b"".join(self._waiting))
                self._waiting.clear()
                self._written()

    def close(self, progress: Progress) -> None:
        """See `View`."""
        self.look(progress)

    def _append(self, lines: bytes) -> None:
        with os.fdopen(open_to_write(self._run.root / JOURNAL), "ab", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            torn = size and os.pread(file.fileno(), 1, size - 1) != b"\n"  # a driver was killed in the midst of a line
            if size + len(lines) < self._most:
                file.write(b"\n" * bool(torn) + lines)


def read(run_dir: Path, start: int = 0) -> Iterator[tuple[Row, int]]:
    """The rows of a run's journal from byte `start` on, each with the byte behind it. What is no row is passed over,
    and so is a last line that is not whole yet.

    Raises:
        OSError: it cannot be read.
    """
    path = run_dir / JOURNAL
    try:
        size = regular_size(path, run_dir)
    except (FileNotFoundError, Damaged):
        return
    if not 0 <= start <= min(size, MOST_BYTES):
        start = 0  # another file than it was
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
        file.seek(start)
        while start < MOST_BYTES and (line := file.readline(_MOST_LINE)):
            start += len(line)
            if not line.endswith(b"\n") and len(line) < _MOST_LINE:
                return
            if (row := _row(line)) is not None:
                yield row, start


def update_times(run_dir: Path, step: str) -> dict[int, float]:
    """When each update of a training was first told, by its number; those that the journal has."""
    times: dict[int, float] = {}
    for row, _ in read(run_dir):
        if row.what == step:
            times.setdefault(row.number, row.time)
    return times


def _row(line: bytes) -> Row | None:
    try:
        said = strict_json.loads(line)
        what, number, time, values = (said[key] for key in ("what", "number", "time", "values"))
        sound = isinstance(what, str) and 0 < len(what) <= _MOST_NAME and type(number) is int and number >= 0
        sound = sound and isinstance(time, int | float) and 0 < time < _LATEST and isinstance(values, dict)
        return Row(what, number, float(time), _finite(values)) if sound and number < _LATEST else None
    except (ValueError, TypeError, KeyError):
        return None


def _finite(values: Mapping[str, Any]) -> dict[str, float]:
    found: dict[str, float] = {}
    for name, value in values.items():
        if len(found) == _MOST_VALUES:
            break
        if isinstance(value, int | float) and math.isfinite(value) and len(name) <= _MOST_NAME:
            found[name] = value
    return found
