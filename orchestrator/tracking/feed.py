"""Ledger and journal, told to a store that is only added to (stores.py): what is new, behind a cursor.

The cursor, `tracking-NAME.json` in the run's folder, says up to which record and which byte of the journal the store
was told, and which updates it has. It is written before something is sent, as under way, and after it. So after a crash
in between, or where the cursor is lost or of another folder, the store is told all in a new run: nothing stands in one
twice.
"""

from __future__ import annotations

import itertools
import json
import secrets
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from orchestrator.config import Tracking
from orchestrator.errors import Damaged, RatchetError
from orchestrator.files import durable, strict_json
from orchestrator.files.inside import remove
from orchestrator.ledger.drivers import Drivers
from orchestrator.ledger.ledger import Ledger
from orchestrator.reports import journal
from orchestrator.reports.links import project_of
from orchestrator.reports.status import run_state
from orchestrator.sources.registry import SOURCES
from orchestrator.sources.source import Sources
from orchestrator.tracking import projection
from orchestrator.tracking.outbox import first_line
from orchestrator.tracking.stores import NAMES, Added, Place, Store, open_store, require_installed
from orchestrator.tracking.telling import Teller

_ROWS = 1000
"""Rows of the journal that are sent at once."""
_MAX_CURSOR = 1 << 20  # bytes
_MOST_UPDATES = 1 << 24

Opens = Callable[[str, Place], Store]


@dataclass
class Position:
    """How far a store was told of a run."""

    run_id: str
    folder: str
    project: str
    store_id: str
    """The store's run."""
    records: int = 0
    """Number of the first record that was not sent."""
    journal: int = 0
    """The first byte of the journal (reports/journal.py) that was not sent."""
    sent: dict[str, list[list[int]]] = field(default_factory=dict)
    """The updates that were sent, by round, as ranges with both ends; of the job (0) counted over all rounds."""
    sending: bool = False
    """Whether something was under way when this was written."""


def cursor_file(run_dir: Path, name: str) -> Path:
    """Where a store's cursor is; it can be deleted."""
    return run_dir / f"tracking-{name}.json"


class Feed:
    """Tells one run to one store, in the calling thread."""

    def __init__(
        self,
        run_dir: Path,
        name: str,
        ledger: Ledger | None = None,
        sources: Sources = SOURCES,
        driver: int | None = None,
        opens: Opens = open_store,
    ) -> None:
        """`name` is one of `NAMES`. `driver` is the process that drives the run, where it is not this one."""
        self.run_dir, self.name = run_dir, name
        self.problem: str | None = None
        """What keeps something from being sent, or was refused; None while all is well."""
        self.ledger, self._sources, self._drivers = ledger or Ledger(run_dir / "ledger"), sources, Drivers(driver)
        self._opens = opens
        self._store: Store | None = None
        self._sink: Added | None = None
        self._teller: Teller | None = None
        self._position: Position | None = None
        self._sent: dict[int, set[int]] = {}
        self._refused: str | None = None

    def flush(self, dead_run_too: bool = False) -> bool:
        """Send what is new; False when something is left, and then `problem` says why. Never raises.

        `dead_run_too`: also show a run whose driver died without a word as killed. Not for a driver.
        """
        try:
            while self._send():
                pass
            if dead_run_too and self._teller and run_state(self.run_dir, self.ledger.state) == "interrupted":
                self._teller.end("KILLED", self.ledger.records[-1].time)
        except Exception as error:
            # As for MLflow (outbox.py): it must never harm a run.
            self.problem = f"{NAMES[self.name]}: {first_line(error)}"
            self._store = self._sink = self._teller = None
            return False
        self.problem = self._refused
        return True

    def close(self) -> bool:
        """Let go of the store, which may take its time to send what it was given. False where it could not. Never
        raises."""
        store, self._store, status = self._store, None, self._sink.status if self._sink else None
        try:
            if store:
                store.close(status)
        except Exception as error:
            self.problem = f"{NAMES[self.name]}: {first_line(error)}"
            return False
        return True

    def _send(self) -> bool:
        """Send records and rows that are new; False where there are none."""
        known = self._position or _read(self.run_dir, self.name)
        rows = list(itertools.islice(journal.read(self.run_dir, known.journal if known else 0), _ROWS))
        self.ledger.refresh()  # after the rows: the records of what came before them are there
        records = self.ledger.records
        if not self.ledger.state.configs or self._drivers.handed_over(records):
            return False  # nothing to tell yet, or the newer driver tells it
        teller, position = self._connect(known)
        if known is not position:
            return True  # a new run, which gets all from the beginning
        if not rows and position.records == len(records):
            return False
        self._keep(position, sending=True)
        for record in records[position.records :]:
            if record.kind not in ("shard", "offer"):  # thousands of them, and nothing to send
                try:
                    teller.figures(record)
                except (FileNotFoundError, pa.ArrowInvalid, KeyError, TypeError) as error:
                    self._refused = f"record {record.number} cannot be tracked: {first_line(error)}"
        teller.rows(row for row, _ in rows)
        assert self._store is not None
        self._store.settle()
        position.records, position.journal = len(records), rows[-1][1] if rows else position.journal
        self._keep(position, sending=False)
        return True

    def _connect(self, known: Position | None) -> tuple[Teller, Position]:
        if self._teller and self._position:
            return self._teller, self._position
        config = self.ledger.state.configs[-1]
        here, said = self.run_dir.absolute(), Tracking.model_validate(config["job"].get("tracking", {}))
        is_of = known and (known.run_id, known.folder) == (config["run_id"], str(here))
        fresh = not is_of or known is None or known.sending or known.records > len(self.ledger.records)
        if fresh or known is None:
            known = Position(config["run_id"], str(here), project_of(said, here), secrets.token_hex(4))
        parameters = projection.parameters(config["job"])
        place = Place(here, config["job"]["name"], known.project, known.store_id, known.records == 0, parameters)
        self._store = self._opens(self.name, place)
        self._sent = {int(number): _numbers(ranges) for number, ranges in known.sent.items()}
        if fresh:
            self._keep(known, sending=False)
        self._sink = Added(self._store, self._sent)
        self._sink.ensure_run(0, place.name, 0, {})
        self._position, self._teller = known, Teller(self.run_dir, self.ledger, self._sources, self._sink)
        return self._teller, known

    def _keep(self, position: Position, sending: bool) -> None:
        position.sending = sending
        if not sending and self._sink:
            position.sent = {str(number): _ranges(steps) for number, steps in self._sent.items()}
        durable.replace(cursor_file(self.run_dir, self.name), json.dumps(asdict(position)).encode())


def _read(run_dir: Path, name: str) -> Position | None:
    """The cursor in a run folder; None where there is none of use."""
    try:
        known = Position(**strict_json.read_object(cursor_file(run_dir, name), _MAX_CURSOR, run_dir))
        texts = (known.run_id, known.folder, known.project, known.store_id)
        counts = all(type(count) is int and count >= 0 for count in (known.records, known.journal))
        sound = all(isinstance(text, str) and text for text in texts) and counts and type(known.sending) is bool
        return known if sound and _is_sent(known.sent) else None
    except (OSError, ValueError, TypeError, Damaged):
        return None  # whatever is wrong with it, start over


def _is_sent(said: Any) -> bool:
    if not isinstance(said, dict) or not all(number.isdecimal() and isinstance(r, list) for number, r in said.items()):
        return False
    ranges = [found for each in said.values() for found in each]
    return all(map(_is_range, ranges)) and sum(last - first for first, last in ranges) < _MOST_UPDATES


def _is_range(said: Any) -> bool:
    ends = isinstance(said, list) and len(said) == 2 and all(type(end) is int for end in said)
    return ends and 0 <= said[0] <= said[1]


def _numbers(ranges: Iterable[list[int]]) -> set[int]:
    return {number for first, last in ranges for number in range(first, last + 1)}


def _ranges(numbers: Iterable[int]) -> list[list[int]]:
    found: list[list[int]] = []
    for number in sorted(numbers):
        if found and found[-1][1] == number - 1:
            found[-1][1] = number
        else:
            found.append([number, number])
    return found


def replay(run_dir: Path, name: str, anew: bool) -> int:
    """Tell a store of a run, now: what it lacks, or all of it `anew`, in a new run of the store's. Returns how many
    records it has.

    Raises:
        BadInput: the store's package is not installed.
        RatchetError: something could not be sent.
    """
    require_installed([name], "--to" if anew else "tracking.sinks")
    if anew:
        remove(run_dir, cursor_file(run_dir, name))
    feed = Feed(run_dir, name)
    if not (feed.flush(dead_run_too=True) and feed.close()) or feed.problem:
        raise RatchetError(f"{run_dir}: {feed.problem}")
    return len(feed.ledger.records)
