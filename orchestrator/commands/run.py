"""`ratchet run` and `ratchet resume`: drives a run, and says where it is, how it goes and how it ended."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import typer

from orchestrator.config.idle import idle
from orchestrator.config.load import JobFile
from orchestrator.config.places import run_folder
from orchestrator.driver.drive import drive, healthy_driver
from orchestrator.driver.own_process import rendered, tried
from orchestrator.driver.resume import overrides_line, to_go_on
from orchestrator.errors import Interrupted, RatchetError
from orchestrator.ledger.ledger import Ledger
from orchestrator.reports.links import project_of
from orchestrator.reports.progress.lines import Lines, timed
from orchestrator.reports.progress.live import Live
from orchestrator.reports.progress.showing import View
from orchestrator.rounds.round import GateStopped
from orchestrator.text import shown, terminal
from orchestrator.text.terminal import echo
from orchestrator.tracking.stores import look_lines
from orchestrator.tracking.tracker import default_address, look_command

EXIT_STOPPED = 3  # finished is 0; the others are in errors.py


def drive_told(file: JobFile, received: Sequence[str], plain: bool = False) -> int:
    """As `shown_run`, with the real workers."""
    return shown_run(file, received, plain, render=rendered, trial=tried)


def shown_run(file: JobFile, received: Sequence[str], plain: bool, **further: Any) -> int:
    """Run a job to its end, or resume it; returns the exit code. `received` are the signals so far. It is shown in one
    live picture where there is a terminal for it; in lines elsewhere, and where they are asked for (`plain`). What goes
    `further` is for `drive`.

    Raises:
        BadInput, RatchetError: as `drive`.
    """
    root = run_folder(file.job)
    if terminal.asks() and (other := healthy_driver(root)):
        asked = f"{root} is being driven by {other}. Take it over? That driver will stop"
        typer.confirm(shown.line(asked), abort=True)
    for line in _head(file, root):
        echo(line)
    say = timed(echo)
    view: View = Lines(say) if plain or not terminal.can_be_drawn_on() else Live(list(_head(file, root)))
    begun = _records(root)
    try:
        drive(file, say, received, view=view, **further)
    except GateStopped as stopped:
        echo(stopped)
        return 0 if file.job.promotion.stop_succeeds else EXIT_STOPPED
    except Interrupted as interrupted:
        echo(f"interrupted by {interrupted}; {to_go_on(root)}")
        return Interrupted.exit_code
    except Exception as error:
        if _records(root) > begun and _has_failed(root):
            error.add_note(to_go_on(root))
        raise
    echo(f"finished; the report is {root / 'report.md'}")
    return 0


def _records(root: Path) -> int:
    return sum(1 for _ in (root / "ledger").glob("*.json"))


def _has_failed(root: Path) -> bool:
    with suppress(RatchetError, OSError):
        return (Ledger(root / "ledger").state.end or {}).get("state") == "failed"
    return False


def _head(file: JobFile, root: Path) -> Iterator[str]:
    """What stands above all."""
    yield f"run       {root}"
    if settings := overrides_line(file):
        yield f"settings  as the run has them, with {settings}"
    if file.job.tracking.enabled:
        yield f"dashboard {look_command(file.job.tracking.uri or default_address(root.parent), root)}"
    for line in look_lines(file.job.tracking.sinks, root, project_of(file.job.tracking, root)):
        yield f"also      {line}"
    for line in idle(file.job, file.own):
        yield f"no effect {line}"
