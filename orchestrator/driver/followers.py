"""What follows the ledger of a run while it is driven: meters, the board, in threads of their own the report, MLflow
and the archive, and in processes of their own further stores."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from orchestrator.archive.archiver import Archiver, address_of
from orchestrator.config import Job
from orchestrator.driver.signals import held
from orchestrator.errors import Interrupted
from orchestrator.ledger.ledger import Ledger
from orchestrator.reports.growing_report import GrowingReport
from orchestrator.reports.meters import Meters
from orchestrator.reports.progress.board import Board
from orchestrator.sources.source import Sources
from orchestrator.tracking.beside import Beside
from orchestrator.tracking.stores import require_installed
from orchestrator.tracking.tracker import Tracker, default_address

_PATIENCE = 30.0  # seconds


class Followers:
    """Those of one driver."""

    def __init__(self, root: Path, job: Job, board: Board, sources: Sources) -> None:
        """Nothing is connected to yet.

        Raises:
            BadInput: the job's archive cannot be one of the run in `root`, or the package of a sink is not installed.
        """
        self._board, self._say = board, (say := board.say)
        # MLflow's database stands beside the runs, so that one dashboard shows them all.
        self._tracker = Tracker(root, job.tracking, default_address(root.parent), say, sources)
        require_installed(job.tracking.sinks)
        self._beside = Beside(root, job.tracking.sinks, say)
        self.meters = Meters(job.name, say)
        self._archiver = Archiver(root, address_of(job, root), say)
        self._report = GrowingReport(root, sources)

    def poke(self, ledger: Ledger) -> None:
        """Say that the ledger has grown."""
        self._tracker.poke()
        self._beside.poke()
        self._archiver.poke()
        self._report.poke()
        self.meters.follow(ledger)
        self._board.follow(ledger)

    def measured(self) -> None:
        """Say that the journal of what is measured has grown."""
        self._tracker.poke()
        self._beside.poke()

    def start(self, ledger: Ledger) -> None:
        """Have them begin, each with a reader of its own."""
        with held():  # a thread that has half begun could not be waited for
            self._tracker.start(ledger.as_it_is())
            self._beside.start()
            self._archiver.start(ledger.as_it_is())
            self._report.start(ledger)
        self._board.follow(ledger)

    def finish_report(self, ledger: Ledger, hasty: bool = False) -> None:
        """Write the report as it stays; whoever interrupts (`hasty`) does not wait for long.

        Raises:
            Displaced, OSError, ...: as `write_report`, or the run is no longer this driver's.
        """
        self._report.finish(ledger, hasty)

    @contextlib.contextmanager
    def catching_up(self) -> Iterator[None]:
        """Have them send what is left at the end. Whoever interrupts does not wait for that: the next start does it."""
        interrupted = False
        try:
            yield
        except Interrupted:
            interrupted = True
            raise
        finally:
            self._beside.finish()
            self._close_tracker(0.5 if interrupted else _PATIENCE)
            self._beside.close(0.5 if interrupted else _PATIENCE)
            self._archiver.close(0.5 if interrupted else None)

    def _close_tracker(self, patience: float) -> None:
        complete = self._tracker.close(patience)
        if self._tracker.problem:
            self._say(f"tracking: {self._tracker.problem}")
        if not complete:
            self._say("tracking: what MLflow does not have yet is sent at the next start")
