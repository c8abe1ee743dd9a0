"""The checks `mlflow` and `archive`: do the addresses of a job answer?"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from orchestrator.archive.archiver import address_of
from orchestrator.archive.opening import open_store
from orchestrator.archive.sender import standing
from orchestrator.archive.store import Unreachable
from orchestrator.commands.doctor.diagnosis import Finding
from orchestrator.config import Job
from orchestrator.config.addresses import without_password
from orchestrator.errors import RatchetError
from orchestrator.tracking.database import cure, sqlite_address, sqlite_file
from orchestrator.tracking.mlflow import reach
from orchestrator.tracking.outbox import first_line
from orchestrator.tracking.tracker import default_address

_PROBE_BYTES = 1 << 20


def examine_mlflow(job: Job, runs: Path, removed: Callable[[Path, str], AbstractContextManager[Path]]) -> Finding:
    """Whether MLflow answers. `removed` gives a folder that is removed in the end, by its parent and a label."""
    settings = job.tracking
    if not settings.enabled:
        return Finding("pass", "tracking is off")
    uri = settings.uri or default_address(runs)
    shown = without_password(uri)
    if (database := sqlite_file(uri)) and not database.exists():
        # Made and removed again beside where it would be.
        with removed(database.parent, "doctor-mlflow") as folder:
            reach(sqlite_address(folder / database.name))
        return Finding("pass", f"{shown} can be made", "", {"uri": shown})
    try:
        num_experiments = reach(uri, settings.experiment)
    except RatchetError as error:
        return Finding("FAIL", shown, str(error), {"uri": shown})
    except Exception as error:
        server = "start the server, correct tracking.uri, or go on without: a run sends what is missing later"
        return Finding("FAIL", f"{shown} does not answer ({_root(error)})", cure(uri) or server, {"uri": shown})
    return Finding("pass", f"{shown} answers; experiments: {num_experiments}", "", {"uri": shown})


def _root(error: BaseException) -> str:
    """What was at the bottom of an error."""
    while (below := error.__cause__ or error.__context__) is not None:
        error = below
    return f"{type(error).__name__}: {first_line(error)}"


def examine_archive(job: Job, root: Path) -> Finding:
    """Whether the archive of the job's run can be written and read; a small object is removed again."""
    address = address_of(job, root)
    assert address is not None
    shown, name, content = without_password(address), f"probe-{secrets.token_hex(8)}", secrets.token_bytes(_PROBE_BYTES)
    store = open_store(address)
    try:
        said = standing(root, address)
        started = time.monotonic()
        store.write(name, content)
        written = time.monotonic()
        same = store.read(name, 0, len(content)) == content
        read = time.monotonic()
    except Unreachable as error:
        later = "set its credentials, make the bucket, or go on without: a run sends what is missing later"
        return Finding("FAIL", str(error), later, {"address": shown})
    except RatchetError as error:  # whose it is
        return Finding("FAIL", str(error), "", {"address": shown})
    facts = {"address": shown, "write_seconds": written - started, "read_seconds": read - written}
    if not same:
        return Finding("FAIL", f"{shown}: has other bytes than it was sent", "", facts)
    text = f"{shown} {said}; 1 MiB written in {written - started:.2f} s and read in {read - written:.2f} s"
    try:
        store.remove(name)
    except (RatchetError, OSError) as error:  # which a run never asks of it
        return Finding("warn", f"{text}; {name} cannot be removed ({first_line(error)})", "remove it by hand", facts)
    return Finding("pass", text, "", facts)
