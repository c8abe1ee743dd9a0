"""report.md and report.html from the first step on, written anew as the run goes on: in a thread of its own, and both
together never for more than a twentieth of the time."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Mapping
from pathlib import Path

from orchestrator.ledger.ledger import Ledger
from orchestrator.reports.columns import Reporting
from orchestrator.reports.written import write_reports

_SHARE = 20  # the pause after a writing, by how long that took
_LEAST, _LONG = 1.0, 2.0  # seconds


class GrowingReport:
    """The reports of one driver. What keeps them from being written the last writing tells, which the driver does."""

    def __init__(self, root: Path, sources: Mapping[str, Reporting]) -> None:
        self._root, self._sources = root, sources
        self._wake, self._stop = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None
        self._took = 0.0  # seconds, of the last writing

    def start(self, ledger: Ledger) -> None:
        """Begin, for the driver of this ledger."""
        arguments = (ledger, ledger.as_it_is())
        thread = threading.Thread(target=self._work, args=arguments, name="report", daemon=True)
        thread.start()
        self._thread = thread
        self.poke()

    def poke(self) -> None:
        """Say that the ledger has grown. Cheap; from any thread."""
        self._wake.set()

    def finish(self, ledger: Ledger, hasty: bool = False) -> None:
        """Write them as they stay, where anything is committed. Whoever is `hasty` leaves those that take long as they
        are.

        Raises:
            Displaced, OSError, Damaged: one cannot be written.
        """
        self._stop.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join(_LONG if hasty else None)
            if self._thread.is_alive():
                return
        if ledger.state.commits and not (hasty and self._took > _LONG):
            ledger.require_own()
            write_reports(self._root, self._sources, ledger)

    def _work(self, own: Ledger, reader: Ledger) -> None:
        written = 0
        while not self._stop.is_set():
            self._wake.wait()
            self._wake.clear()
            began = time.monotonic()
            with contextlib.suppress(Exception):
                reader.refresh()
                if len(reader.state.commits) > written and not self._stop.is_set():
                    own.require_own()
                    write_reports(self._root, self._sources, reader)
                    written, self._took = len(reader.state.commits), time.monotonic() - began
            self._stop.wait(max(_LEAST, _SHARE * (time.monotonic() - began)))
