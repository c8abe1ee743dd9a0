"""`ratchet status`: what a run has done and does; with --watch, until it ends."""

from __future__ import annotations

from pathlib import Path

import typer

from orchestrator.driver.resume import to_go_on
from orchestrator.driver.signals import signals
from orchestrator.errors import BadInput, Interrupted
from orchestrator.reports.progress.watching import watch as watch_run
from orchestrator.reports.status import intervals, render, status
from orchestrator.sources.registry import SOURCES
from orchestrator.text.terminal import Screen, echo, echo_json


def show(run: Path, as_json: bool, watch: bool) -> None:
    """Print a run's status; with `watch` for as long as somebody drives it.

    Raises:
        BadInput: there is no run in this folder, or the two are asked for at once.
        Damaged: a ledger record cannot be read.
    """
    if watch and as_json:
        raise BadInput(
            "--watch: goes not with --json. For programs, progress.json in the run's folder is written anew."
        )
    if watch:
        try:
            with signals():
                watch_run(run)
        except Interrupted as interrupted:
            raise typer.Exit(Interrupted.exit_code) from interrupted
    found = status(run, SOURCES)
    if as_json:
        echo_json(found)
    else:
        Screen().print(render(found, intervals(run)))
        for said in (found["dashboard"] or {}).values():  # whole, however narrow the terminal: it is copied, or clicked
            if said:
                echo(f"dashboard: {said}")
        if found["state"] in ("interrupted", "failed"):
            echo(to_go_on(run))
