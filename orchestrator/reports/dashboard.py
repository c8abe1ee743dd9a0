"""Where a run's dashboard is: the command that shows it, and the address of its page where a server has it now.

`ratchet ui` says beside the database that it serves, in `mlflow.ui.json`, where it does so for as long as it does.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import socket
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from orchestrator.config.addresses import without_password
from orchestrator.errors import Damaged
from orchestrator.files import durable, strict_json
from orchestrator.files.inside import remove
from orchestrator.files.processes import process_start
from orchestrator.reports import tracked
from orchestrator.reports.links import run_page

SERVED = "mlflow.ui.json"
_MAX_SERVED = 1 << 12  # bytes
_LOCAL = re.compile(r"http://127\.0\.0\.1:[0-9]{1,5}")


def dashboard(run_dir: Path, tracking: Mapping[str, Any]) -> dict[str, str | None] | None:
    """The dashboard of a run: `command`, which shows it, and `address`, that of its page on the server that it is
    tracked on or that `ratchet ui` serves it at now, else null. None where the run is not tracked in MLflow. `tracking`
    is that section of its job."""
    if not tracking.get("enabled", True):
        return None
    uri, known = tracking.get("uri"), tracked.read(run_dir, sys.maxsize)
    server = without_password(str(uri)) if is_server(str(uri)) else served(run_dir.absolute().parent)
    here = known is not None and (not is_server(str(uri)) or known.uri == server) and known.experiment_id
    page = run_page(server, known.experiment_id, known.parent) if server and known and here else None
    return {"command": shlex.join(["ratchet", "ui", str(run_dir.absolute())]), "address": page}


def is_server(uri: str) -> bool:
    """Whether an address is that of a server with pages of its own."""
    return uri.startswith(("http://", "https://"))


@contextlib.contextmanager
def serving(runs: Path, address: str) -> Iterator[None]:
    """Say in a folder of runs that this process serves its dashboard at an address; not any more afterwards. Where
    nothing can be written there, nothing is said."""
    said = {"host": socket.gethostname(), "pid": os.getpid(), "start": process_start(os.getpid()), "address": address}
    with contextlib.suppress(OSError):
        durable.replace(runs / SERVED, json.dumps(said).encode())
    try:
        yield
    finally:
        with contextlib.suppress(OSError, Damaged, ValueError):  # another may serve it since
            if strict_json.read_object(runs / SERVED, _MAX_SERVED, runs) == said:
                remove(runs, runs / SERVED)


def served(runs: Path) -> str | None:
    """Where `ratchet ui` serves the dashboard of a folder of runs now, on this machine."""
    try:
        said = strict_json.read_object(runs / SERVED, _MAX_SERVED, runs)
        there = (said["host"], said["start"]) == (socket.gethostname(), process_start(int(said["pid"])))
    except (OSError, ValueError, TypeError, KeyError, OverflowError, Damaged):
        return None
    address = str(said.get("address"))
    return address if there and said["start"] is not None and _LOCAL.fullmatch(address) else None
