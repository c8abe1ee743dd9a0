"""Tracking a run in MLflow: beside a running driver, or afterwards."""

from __future__ import annotations

import contextlib
import shlex
import sqlite3
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from orchestrator.config import Tracking
from orchestrator.config.addresses import secret_in, without_password
from orchestrator.errors import RatchetError
from orchestrator.ledger.ledger import Ledger
from orchestrator.reports import tracked as cursors
from orchestrator.reports.dashboard import is_server
from orchestrator.reports.links import run_page
from orchestrator.reports.status import open_run
from orchestrator.sources.registry import SOURCES
from orchestrator.sources.source import Sources
from orchestrator.tracking.database import sqlite_address, sqlite_file
from orchestrator.tracking.outbox import Outbox, first_line

RETRY_SECONDS = 60.0
PAUSE_SECONDS = 3.0


class Tracker:
    """An outbox in a thread of its own, poked by a running driver. That thread imports MLflow too."""

    def __init__(
        self,
        run_dir: Path,
        settings: Tracking,
        default_uri: str,
        say: Callable[[str], None] | None = None,
        sources: Sources = SOURCES,
    ) -> None:
        """`say` is told, once, what keeps records from being sent, in this object's thread."""
        self._say, self._said = say, False
        self._sources = sources
        self._arguments = (run_dir, settings, default_uri)
        self._uri = settings.uri or default_uri
        self._enabled = settings.enabled
        self._outbox: Outbox | None = None
        self._ledger: Ledger | None = None
        self._problem: str | None = None
        self._wake, self._closing, self._abandoned = threading.Event(), threading.Event(), threading.Event()
        self._all_sent = False
        self._thread = threading.Thread(target=self._work, name="tracking", daemon=True)

    @property
    def uri(self) -> str:
        """MLflow's address."""
        return self._uri

    @property
    def problem(self) -> str | None:
        """What keeps records from being sent, or was refused; None while all is well."""
        return self._problem

    def start(self, ledger: Ledger | None = None) -> None:
        """Start the thread and have it send what earlier drivers left; nothing where tracking is off. `ledger` is a
        reader of the run's, which then belongs to that thread."""
        self._ledger = ledger
        if self._enabled:
            self._thread.start()
            self.poke()

    def poke(self) -> None:
        """Say that the ledger has grown. Cheap; from any thread."""
        self._wake.set()

    def close(self, timeout: float) -> bool:
        """Send what is left, for at most `timeout` seconds; False when some remains for the next start."""
        if self._thread.ident is None:
            return not self._enabled
        self._closing.set()
        self._wake.set()
        self._thread.join(timeout)
        self._abandoned.set()
        return not self._thread.is_alive() and self._all_sent

    def _work(self) -> None:
        closing = False
        while not closing:
            # A phase can last hours: what could not be sent is tried again without waiting for its end.
            self._wake.wait(None if self._all_sent else RETRY_SECONDS)
            self._wake.clear()
            closing = self._closing.is_set()
            self._all_sent = self._flush()
            self._closing.wait(PAUSE_SECONDS)  # what is measured comes several times a second
            if self._problem and self._say and not self._said and not closing:
                self._said = True
                self._say(f"tracking: {self._problem}")

    def _flush(self) -> bool:
        try:
            if self._outbox is None:
                self._outbox = Outbox(*self._arguments, self._ledger, self._sources)
                self._outbox.give_up = self._abandoned
        except (RatchetError, OSError) as error:  # the ledger cannot be read now
            self._problem = first_line(error)
            return False
        done = self._outbox.flush()
        self._problem = self._outbox.problem
        return done


def sync(run_dir: Path, settings: Tracking | None = None, default_uri: str | None = None) -> int:
    """Send a run to MLflow now, in this thread; returns the number of its records. Without `settings`, the
    run's own. To rebuild what MLflow lost or never had, delete `tracking.json` first: nothing comes twice.

    Raises:
        BadInput: there is no run in this folder.
        RatchetError: something could not be sent; the message says why.
    """
    ledger = open_run(run_dir)
    if not ledger.state.configs:
        return 0
    if settings is None:
        settings = Tracking.model_validate(ledger.state.configs[-1]["job"]["tracking"])
    outbox = Outbox(run_dir, settings, default_uri or default_address(run_dir.absolute().parent))
    if not outbox.flush(dead_run_too=True) or outbox.problem:
        raise RatchetError(f"{run_dir}: {outbox.problem}")
    return len(ledger.records)


def default_address(runs: Path) -> str:
    """MLflow's address where none is given: a SQLite file in the folder of runs."""
    return sqlite_address(runs.absolute() / "mlflow.db")


@dataclass(frozen=True, slots=True)
class Page:
    """Where a run is in MLflow."""

    name: str
    """Of its folder."""
    experiment_id: str
    run: str
    """MLflow's id of it."""

    def at(self, server: str) -> str:
        """The address of the page of its curves."""
        return run_page(server, self.experiment_id, self.run)


def page_of(run_dir: Path, uri: str) -> Page | None:
    """Where a run is in the database beside it; on a server, as far as the run's folder tells. None where it is not."""
    database, known = sqlite_file(uri), cursors.read(run_dir, sys.maxsize)
    if known is not None and is_server(uri):
        at_home = known.uri == without_password(uri) and known.experiment_id
        return Page(run_dir.absolute().name, known.experiment_id, known.parent) if at_home else None
    if database is None or known is None or not database.is_file():
        return None
    question = "SELECT experiment_id FROM runs WHERE run_uuid = ? AND lifecycle_stage = 'active'"
    try:
        with contextlib.closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)) as connection:
            found = connection.execute(question, (known.parent,)).fetchone()
    except sqlite3.Error:
        return None
    return Page(run_dir.absolute().name, str(found[0]), known.parent) if found else None


def server_of(run_dir: Path) -> str:
    """MLflow's address as a run has it, or where it would be.

    Raises:
        BadInput: there is no run in this folder.
    """
    state = open_run(run_dir).state
    said = state.configs[-1]["job"].get("tracking", {}) if state.configs else {}
    return str(said.get("uri") or default_address(run_dir.absolute().parent))


def look_command(uri: str, run_dir: Path) -> str:
    """The command that shows a run's dashboard."""
    if is_server(uri) or sqlite_file(uri) == sqlite_file(default_address(run_dir.parent)):
        return shlex.join(["ratchet", "ui", str(run_dir)])
    return open_command(uri)


def open_command(uri: str) -> str:
    """The command that shows the dashboard: a local server over a database, or the server's own page."""
    if is_server(uri):
        return f"python -m webbrowser {shlex.quote(without_password(uri))}"
    # One process instead of a dozen: MLflow's workers and job runners take some 200 MB each.
    shown = without_password(uri) if secret_in(uri) else uri
    light = "MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false mlflow ui --workers 1"
    return f"{light} --backend-store-uri {shlex.quote(shown)}"
