"""`ratchet list`: the runs that there are."""

from __future__ import annotations

import time
from pathlib import Path

from orchestrator.config.places import home
from orchestrator.reports.overview import render, runs_in
from orchestrator.text.terminal import Screen, echo, echo_json


def show(folder: Path | None, as_json: bool) -> None:
    """Print the runs of a folder; without one, of that in which runs are made.

    Raises:
        BadInput: it is no folder of runs.
    """
    place = home() / "runs" if folder is None else folder
    found = runs_in(place) if folder is not None or place.exists() else []
    if as_json:
        echo_json({"folder": str(place.absolute()), "runs": [run.as_json() for run in found]})
    elif not found:
        echo(f"no runs in {place}. `ratchet run demo` makes one.")
    else:
        Screen().print(render(found, time.time()))
        for run in found:
            if run.why:
                echo(f"{run.name}: {run.why}")
