"""Archiving beside a running driver."""

from __future__ import annotations

import shlex
import threading
import time
from collections.abc import Callable
from pathlib import Path

from orchestrator.archive.opening import open_store
from orchestrator.archive.sender import Sender
from orchestrator.archive.store import said
from orchestrator.config import Job
from orchestrator.config.addresses import without_password
from orchestrator.config.archive import filled_address, split
from orchestrator.errors import BadInput, RatchetError
from orchestrator.files.named import named_path, real
from orchestrator.ledger.ledger import Ledger
from orchestrator.models.files import enclosing_run

_FIRST_PAUSE, _LONGEST_PAUSE = 30.0, 600.0
STILL_SECONDS = 60.0
"""How long somebody waits for an archive at the end of a run in which nothing moves."""
_SAID_AFTER = 5.0


def address_of(job: Job, root: Path) -> str | None:
    """The address of the archive of a job's run, whose folder is `root`; None where it has none.

    Raises:
        BadInput: the one lies in the other, or what reaches such addresses is not installed.
    """
    if job.archive is None:
        return None
    address = filled_address(job.archive, job.name, job.seed)
    require_apart(address, root)
    open_store(address)
    return address


def require_apart(address: str, root: Path) -> None:
    """Refuse an archive in a run's folder, whichever run's it is, or around its own.

    Raises:
        BadInput: it is one.
    """
    scheme, rest = split(address)
    if scheme == "file":
        folder, run = real(named_path(rest, "archive")), real(root)
        if folder.is_relative_to(run) or run.is_relative_to(folder):
            raise BadInput(f"archive: {folder} and the run {run} lie in one another: give a folder elsewhere")
        if (around := enclosing_run(folder)) is not None:
            raise BadInput(
                f"archive: {folder} lies in the run {around}, among files that it counts: give a folder elsewhere"
            )


def command(root: Path) -> str:
    """The command that archives a run by hand."""
    return shlex.join(["ratchet", "archive", str(root)])


class Archiver:
    """A sender in a thread of its own, poked by a running driver; see `tracking.tracker.Tracker`."""

    def __init__(self, root: Path, address: str | None, say: Callable[[str], None]) -> None:
        """`say` is told, once, what keeps the run from being archived, in this object's thread."""
        self._root, self._address, self._say = root, address, say
        self._wake, self._closing, self._abandoned = threading.Event(), threading.Event(), threading.Event()
        self._ledger: Ledger | None = None
        self._sender: Sender | None = None
        self._problem: str | None = None
        self._said: str | None = None
        self._complete = False
        self._thread = threading.Thread(target=self._work, name="archive", daemon=True)

    def start(self, ledger: Ledger) -> None:
        """Start the thread and have it send what earlier drivers left; nothing where there is no archive. `ledger` is a
        reader of the run's, which then belongs to that thread."""
        self._ledger = ledger
        if self._address is not None:
            self._thread.start()

    def poke(self) -> None:
        """Say that the ledger has grown. Cheap; from any thread."""
        self._wake.set()

    def close(self, most: float | None = None) -> None:
        """Send what is left, and say what cannot be. It waits for at most `most` seconds, or as long as bytes move."""
        if self._thread.ident is None:
            return
        self._closing.set()
        self._wake.set()
        started = moved_at = time.monotonic()
        moved, told = -1, False
        while self._thread.is_alive():
            self._thread.join(0.1)
            now = time.monotonic()
            if self._sender and self._sender.moved != moved:
                moved, moved_at = self._sender.moved, now
            if now - moved_at > STILL_SECONDS if most is None else now - started > most:
                break
            if not told and most is None and now - started > _SAID_AFTER:
                told = True
                self._say(f"archive   what is not at {without_password(str(self._address))} yet is being sent")
        self._abandoned.set()
        if self._thread.is_alive() or not self._complete:
            why = f" ({self._problem})" if self._problem else ""
            self._say(f"archive   is not whole{why}: `{command(self._root)}`, or the next start, sends the rest")

    def _work(self) -> None:
        pause = _FIRST_PAUSE
        while True:
            closing = self._closing.is_set()
            self._complete = self._flush()
            if closing:
                return
            if self._complete:
                pause = _FIRST_PAUSE
                self._wait(None)
                continue
            if self._problem and self._problem != self._said:
                self._said = self._problem
                self._say(f"archive   {self._problem}; it is tried again, and the run goes on")
            self._wait(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _wait(self, pause: float | None) -> None:
        """Wait until a round has ended, after a try that failed for `pause` seconds, or for the end of the run."""
        deadline = None if pause is None else time.monotonic() + pause
        while not self._closing.is_set():
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                return
            self._wake.wait(left)
            self._wake.clear()
            if pause is None and self._is_due():
                return

    def _is_due(self) -> bool:
        try:
            return self._sender is not None and self._sender.is_due()
        except (RatchetError, OSError):  # the ledger cannot be read now, which the flush tells
            return True

    def _flush(self) -> bool:
        try:
            if self._sender is None:
                self._sender = Sender(self._root, str(self._address), self._ledger)
                self._sender.give_up = self._abandoned
        except (RatchetError, OSError) as error:
            self._problem = said(error)
            return False
        done = self._sender.flush()
        self._problem = self._sender.problem
        return done
