"""`progress.json` in the run folder: the same figures for `ratchet status --watch`, the page of a run, and other
programs."""

from __future__ import annotations

import contextlib

from orchestrator.errors import Displaced
from orchestrator.ledger.run import Run
from orchestrator.reports.progress.board import Event
from orchestrator.reports.progress.model import PROGRESS_FILE, Progress

_EVERY = 2.0  # seconds between two writings


class ProgressFile:
    """A `View` (showing.py). Nothing is written before the driver has claimed the run, nor by one that was displaced;
    what the disk does not take is written the next time."""

    name = PROGRESS_FILE
    every = _EVERY

    def __init__(self, run: Run) -> None:
        self._run = run

    def hear(self, event: Event) -> None:
        """See `View`."""

    def look(self, progress: Progress) -> None:
        """See `View`."""
        if progress.epoch and progress.epoch == getattr(self._run, "epoch", None):
            with contextlib.suppress(OSError, Displaced):  # which the next piece of work tells
                self._run.write(PROGRESS_FILE, progress.as_file())

    def close(self, progress: Progress) -> None:
        """See `View`."""
        if progress.state != "running":
            self.look(progress)
