"""The ledger and the journal, told to MLflow: an outbox that can be replayed.

The ledger is the queue: a cursor says up to which record everything was sent, and up to which byte the journal of what
is measured (reports/journal.py). Sending again says the same (runs are found by their tags, points carry the recorded
time, and a step that the store has is not sent again), so the cursor, `tracking.json` in the run folder, is a cache
that can be deleted. A server that is down costs the run nothing; what is missing is sent once it answers, in this
process or the next.

Two cursors for records: figures first, then files (tables, report, model versions), so that a server whose file store
does not work still shows the curves.
"""

from __future__ import annotations

import itertools
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa

from orchestrator.config import Tracking
from orchestrator.config.addresses import without_password
from orchestrator.errors import RatchetError, cut
from orchestrator.ledger.drivers import Drivers
from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.record_files import Record
from orchestrator.reports import journal
from orchestrator.reports import tracked as cursors
from orchestrator.reports.links import project
from orchestrator.reports.status import run_state
from orchestrator.reports.tracked import Cursor
from orchestrator.sources.registry import SOURCES
from orchestrator.sources.source import Sources
from orchestrator.tracking.database import artifact_folder, cure, follow, make
from orchestrator.tracking.mlflow import MlflowSink, reach
from orchestrator.tracking.sink import FOLDER, HOST
from orchestrator.tracking.telling import Teller
from orchestrator.tracking.views import Views

_REFUSED = ("INVALID_PARAMETER_VALUE", "BAD_REQUEST")
"""MLflow's errors for what it will not take the next time either."""
_PAUSES = (0.1, 0.5, 2.0)
"""Seconds before a record is sent again: MLflow also calls it a bad request where two runs wrote one row of its
database at once (both move one model's alias `reference`)."""
_ROWS = 1000
"""Rows of the journal that are sent at once."""


class Outbox:
    """Sends one run's ledger to MLflow, in the calling thread."""

    def __init__(
        self,
        run_dir: Path,
        settings: Tracking,
        default_uri: str,
        ledger: Ledger | None = None,
        sources: Sources = SOURCES,
    ) -> None:
        """`ledger` is a reader of the run's, for this object alone, where there is one already."""
        self.run_dir = run_dir
        self.uri = settings.uri or default_uri
        self.problem: str | None = None
        """What keeps records from being sent, or was refused; None while all is well."""
        self.give_up = threading.Event()
        """Set: stop at the next record."""
        self._experiment = settings.experiment
        self._sources = sources
        self._ledger = ledger or Ledger(run_dir / "ledger")
        self._sink: MlflowSink | None = None
        self._teller: Teller | None = None
        self._views: Views | None = None
        self._cursor: Cursor | None = None
        self._refused: str | None = None
        self._drivers = Drivers()

    def flush(self, dead_run_too: bool = False) -> bool:
        """Send what is new; False when something is left, and then `problem` says why. Never raises.

        `dead_run_too`: also show a run whose driver died without a word as killed, as of its last record.
        Not for a driver, which knows that it lives.
        """
        try:
            self._ledger.refresh()
            if not self._ledger.state.configs or self._drivers.handed_over(self._ledger.records):
                return True  # nothing to tell yet, or the newer driver tells it
            teller, views, cursor = self._connect()
            self._advance(cursor, "figures", teller.figures)
            self._advance_journal(teller, cursor)
            self._advance(cursor, "files", views.tell)
            if dead_run_too and run_state(self.run_dir, self._ledger.state) == "interrupted":
                teller.end("KILLED", self._ledger.records[-1].time)
        except Exception as error:
            # Tracking must never harm a run: whatever happened, it is told, and tried again later.
            self.problem = f"MLflow at {without_password(self.uri)}: {first_line(self._cause(error))}"
            self._sink = self._teller = self._views = None
            return False
        self.problem = self._refused
        return min(cursor.figures, cursor.files) == len(self._ledger.records)

    def _cause(self, error: Exception) -> Exception:
        """What is to be told of an error: that the experiment was deleted, where it was, since MLflow says less."""
        try:
            self._require_experiment()
        except RatchetError as deleted:
            return deleted
        except Exception:  # MLflow cannot be reached
            helps = cure(self.uri)
            return RatchetError(f"{helps} ({first_line(error)})") if helps else error
        helps = None if self._sink else cure(self.uri)
        return RatchetError(f"{helps} ({first_line(error)})") if helps else error

    def _require_experiment(self) -> None:
        if self._sink:
            self._sink.require_alive()

    def _connect(self) -> tuple[Teller, Views, Cursor]:
        if self._teller and self._views and self._cursor:
            return self._teller, self._views, self._cursor
        newest = self._ledger.state.configs[-1]
        name, run_id = newest["job"]["name"], newest["run_id"]
        here, known = self.run_dir.absolute(), cursors.read(self.run_dir, len(self._ledger.records))
        make(self.uri, reach)
        follow(self.uri)
        artifacts, uri = artifact_folder(self.uri, here.parent), without_password(self.uri)
        before = known.experiment if known and known.uri == uri and known.run_id == run_id else None
        sink = MlflowSink(
            self.uri,
            artifacts,
            self._experiment or before,
            run_id,
            here,
            known.parent if known else None,
            project(here),
        )
        start = round(1000 * self._ledger.records[0].time)
        parent = sink.ensure_run(0, name, start, {FOLDER: str(here), HOST: socket.gethostname()})
        fresh = Cursor(
            uri,
            sink.experiment,
            run_id,
            parent,
            folder=str(here),
            experiment_id=sink.experiment_id,
            names=cursors.NAMES,
        )
        if known is None or not known.is_of(fresh):
            known = fresh
        known.experiment_id = sink.experiment_id
        known.write(self.run_dir)
        self._sink, self._cursor = sink, known
        self._teller = Teller(self.run_dir, self._ledger, self._sources, sink)
        self._views = Views(self.run_dir, self._ledger, self._sources, sink)
        return self._teller, self._views, self._cursor

    def _advance(self, cursor: Cursor, which: str, send: Callable[[Record], None]) -> None:
        """Send the records behind one of the two cursors, in order, and remember how far it came."""
        start = getattr(cursor, which)
        worth_keeping = False
        try:
            for record in self._ledger.records[start:]:
                if self.give_up.is_set():
                    break
                if record.kind not in ("shard", "offer"):  # thousands of them, and nothing to send
                    self._send(send, record)
                    worth_keeping = True
                setattr(cursor, which, record.number + 1)
        finally:
            if worth_keeping:
                cursor.write(self.run_dir)

    def _advance_journal(self, teller: Teller, cursor: Cursor) -> None:
        """Send the rows of the journal behind the cursor."""
        while not self.give_up.is_set():
            found = list(itertools.islice(journal.read(self.run_dir, cursor.journal), _ROWS))
            if not found:
                return
            # A row is written after the records of what came before it: with these, its round is known.
            self._ledger.refresh()
            self._advance(cursor, "figures", teller.figures)
            teller.rows([row for row, _ in found])
            cursor.journal = found[-1][1]
            cursor.write(self.run_dir)

    def _send(self, send: Callable[[Record], None], record: Record) -> None:
        """Send a record; one that can never be sent is passed over and told, and the others come through."""
        try:
            self._send_again(send, record)
        except (FileNotFoundError, pa.ArrowInvalid, KeyError, TypeError) as error:
            self._refused = f"record {record.number} cannot be tracked: {first_line(error)}"
        except Exception as error:
            if getattr(error, "error_code", None) not in _REFUSED:
                raise
            self._require_experiment()  # what is refused since it was deleted is to be sent once it is back
            self._refused = f"MLflow refused record {record.number}: {first_line(error)}"

    def _send_again(self, send: Callable[[Record], None], record: Record) -> None:
        for pause in _PAUSES:
            try:
                return send(record)
            except Exception as error:
                if getattr(error, "error_code", None) != "BAD_REQUEST":
                    raise
                self.give_up.wait(pause)
        send(record)


def first_line(error: BaseException) -> str:
    """An error in a short line, without passwords."""
    text = str(error).strip() or type(error).__name__
    return cut(without_password(text.splitlines()[0]))  # in this order: half a password is one, too
