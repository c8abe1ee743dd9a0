"""`ratchet status --watch`: shows a run that somebody drives, by its progress.json, until it ends."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from rich.console import RenderableType
from rich.live import Live

from orchestrator.ledger.ledger import Ledger
from orchestrator.reports.progress.lines import HEARTBEAT, heartbeat
from orchestrator.reports.progress.model import Progress, read_progress
from orchestrator.reports.progress.picture import Size, picture
from orchestrator.reports.status import intervals, open_run, render, run_state, status
from orchestrator.text import terminal
from orchestrator.text.own_terminal import unechoed
from orchestrator.text.terminal import Screen

_EVERY = 1.0  # seconds between two looks at the run


def watch(run_dir: Path, pause: Callable[[float], None] = time.sleep) -> None:
    """Show a run until nobody drives it, or nobody looks. A run that an earlier version drives has
    no progress.json: its status is shown, anew and anew.

    Raises:
        BadInput: there is no run in this folder.
        Damaged: a record cannot be read, or something of the run leads out of it.
    """
    ledger = open_run(run_dir)
    if terminal.can_be_drawn_on():
        _pictures(run_dir, ledger, pause)
    else:
        _lines(run_dir, ledger, pause)


def _goes_on(run_dir: Path, ledger: Ledger) -> bool:
    ledger.refresh()
    return run_state(run_dir, ledger.state) == "running" and not terminal.is_lost()


def _now(run_dir: Path, ledger: Ledger) -> Progress | None:
    """What the driver of now says; None where it has not, or an earlier one has."""
    found = read_progress(run_dir, ledger.state)
    return found if found is not None and found.epoch == ledger.state.epoch else None


def _pictures(run_dir: Path, ledger: Ledger, pause: Callable[[float], None]) -> None:
    screen = Screen()
    live = Live(console=screen, auto_refresh=False, redirect_stdout=False, redirect_stderr=False, screen=True)
    with unechoed(screen.file.fileno()), live:
        while _goes_on(run_dir, ledger):
            live.update(_picture(run_dir, ledger, Size(*screen.size)), refresh=True)
            pause(_EVERY)


def _picture(run_dir: Path, ledger: Ledger, size: Size) -> RenderableType:
    found = _now(run_dir, ledger)
    return render(status(run_dir), intervals(run_dir)) if found is None else picture(found, size)


def _lines(run_dir: Path, ledger: Ledger, pause: Callable[[float], None]) -> None:
    """In a pipe or a log: as a driver's own heartbeat."""
    told = 0.0
    while _goes_on(run_dir, ledger):
        if (now := time.monotonic()) - told >= HEARTBEAT or not told:
            told = now
            if (found := _now(run_dir, ledger)) is not None:
                for said in heartbeat(found):
                    terminal.echo(said)
        pause(_EVERY)
