"""`ratchet ui`: MLflow's pages of a project's runs, served on this machine for as long as somebody looks."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from orchestrator.config.addresses import without_password
from orchestrator.config.places import home, own_code, own_code_environment
from orchestrator.driver.signals import held, signals
from orchestrator.errors import BadInput, Interrupted, RatchetError, last_line
from orchestrator.files.inside import is_run
from orchestrator.reports.dashboard import is_server, serving
from orchestrator.reports.links import experiment_page
from orchestrator.reports.status import open_run
from orchestrator.text.shown import line
from orchestrator.text.terminal import echo, is_lost
from orchestrator.tracking.database import follow, sqlite_file
from orchestrator.tracking.tracker import Page, default_address, open_command, page_of, server_of

HOST = "127.0.0.1"
_START_SECONDS, _END_SECONDS = 120.0, 10.0
_LOOK_SECONDS = 0.3
_MOST_SHOWN = 12
_STARTS = 3  # a port that was free may be taken by the time that the server asks for it
_ENVIRONMENT = {
    # One process instead of a dozen: MLflow's workers and job runners take some 200 MB each.
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}


@dataclass(frozen=True)
class Shown:
    """What there is to look at: a database of MLflow's or a server, and the pages of the runs in it, the wanted one
    first."""

    uri: str
    pages: Sequence[Page]


def look(run: Path | None, port: int | None) -> None:
    """Serve what there is to look at until somebody interrupts.

    Raises:
        BadInput, RatchetError: as `find` and `serve`.
    """
    with contextlib.suppress(Interrupted), signals():
        serve(find(run), echo, port)


def find(run: Path | None) -> Shown:
    """The run, or those of the project, the newest first.

    Raises:
        BadInput: there is none, or it is not in MLflow, or not in a database beside it.
    """
    if run is not None and not is_run(run) and any(map(is_run, _folders(run))):
        runs, wanted = run, None  # a folder of runs
    elif run is not None:
        open_run(run)
        runs, wanted = run.absolute().parent, run.absolute()
    else:
        runs, wanted = home() / "runs", None
    uri = default_address(runs) if wanted is None else server_of(wanted)
    if wanted is not None and is_server(uri) and (known_page := page_of(wanted, uri)) is not None:
        return Shown(uri, [known_page])
    if sqlite_file(uri) != sqlite_file(default_address(runs)):
        raise BadInput(f"{wanted}: is tracked elsewhere. Look there: `{open_command(uri)}`")
    with contextlib.suppress(Exception):  # which only helps where the folder was moved
        follow(uri)
    known = [(folder, page) for folder in _newest(runs) if (page := page_of(folder, uri)) is not None]
    known.sort(key=lambda found: found[0].absolute() != wanted)  # the wanted one first
    if wanted is not None and (not known or known[0][0].absolute() != wanted):
        raise BadInput(f"{wanted}: is not in MLflow. `ratchet track {wanted}` sends it there.")
    if not known:
        raise BadInput(f"{runs}: holds no run that is in MLflow. `ratchet run demo` makes one.")
    return Shown(uri, [page for _, page in known])


def _folders(folder: Path) -> list[Path]:
    with contextlib.suppress(OSError):
        return [path for path in folder.iterdir() if path.is_dir()]
    return []


def _newest(runs: Path) -> list[Path]:
    def changed(run: Path) -> float:
        with contextlib.suppress(OSError):
            return (run / "ledger").stat().st_mtime
        return 0.0

    return sorted(filter(is_run, _folders(runs)), key=changed, reverse=True)


def serve(found: Shown, say: Callable[[str], None], port: int | None = None) -> None:
    """Serve it until somebody interrupts, or nobody is there to do so, and leave nothing behind; of a server that is
    there, say its pages alone.

    Raises:
        BadInput: the port is taken.
        RatchetError: MLflow does not start, or ends by itself.
        Interrupted: before it answered.
    """
    if is_server(found.uri):
        for told in lines(found, without_password(found.uri)):
            say(told)
        return
    say("starting MLflow's server, which takes some seconds")
    with _server(found.uri, port) as (server, address, log):
        for told in (*lines(found, address), "stop      Ctrl-C"):
            say(told)
        database = sqlite_file(found.uri)
        assert database is not None  # `find` finds no other
        with serving(database.parent, address), contextlib.suppress(Interrupted):
            while server.poll() is None:
                if is_lost():  # a terminal that is closed gives no Ctrl-C
                    return
                time.sleep(_LOOK_SECONDS)
            raise RatchetError(f"MLflow's server has ended: {_last(log)}")


def lines(found: Shown, address: str) -> Iterator[str]:
    """What is printed: the page that is wanted, further runs, and where all can be compared."""
    first, *others = found.pages
    shown = others[: _MOST_SHOWN - 1]
    wide = max(9, *(len(line(page.name)) for page in shown)) if shown else 9
    yield f"{'dashboard':<{wide}} {first.at(address)}"
    names = {first.run: first.name}
    for page in shown:
        told = names.setdefault(page.run, page.name)
        copied = f"as {line(told)}: one is a copy of the other, and has had no driver of its own"
        yield f"{line(page.name):<{wide}} {page.at(address) if told is page.name else copied}"
    if len(others) >= _MOST_SHOWN:
        yield f"{'...':<{wide}} {len(others) + 1 - _MOST_SHOWN} runs more, on the next page"
    yield f"{'compare':<{wide}} {experiment_page(address, first.experiment_id)}"


@contextlib.contextmanager
def _server(uri: str, port: int | None) -> Iterator[tuple[subprocess.Popen[bytes], str, IO[bytes]]]:
    """A server that answers, its address and what it prints; it ends with this, and so do its processes."""
    with tempfile.TemporaryFile() as log, contextlib.ExitStack() as stack:
        for left in reversed(range(1 if port else _STARTS)):
            number = port or _free_port()
            if port:
                _require_free(port)
            with held():  # a process that has half begun could not be ended
                server = _start(uri, number, log)
                stack.callback(_end, server)
            address = f"http://{HOST}:{number}"
            if _answers(server, address):
                yield server, address, log
                return
            if not left:
                raise RatchetError(f"MLflow's server does not start: {_last(log)}")


def _start(uri: str, port: int, log: IO[bytes]) -> subprocess.Popen[bytes]:
    options = ["--host", HOST, "--port", str(port), "--workers", "1", "--backend-store-uri", uri]
    return subprocess.Popen(
        [*own_code("orchestrator.tracking.serve"), *options],
        stdin=subprocess.PIPE,  # which is closed when this process ends, however it ends
        stdout=log,
        stderr=subprocess.STDOUT,
        env={**own_code_environment(), **_ENVIRONMENT},
        start_new_session=True,  # Ctrl-C comes to us alone, and what it starts can be ended with it
    )


def _answers(server: subprocess.Popen[bytes], address: str) -> bool:
    """Wait until it does; False where it has ended, or takes too long."""
    deadline = time.monotonic() + _START_SECONDS
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    while server.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(OSError, urllib.error.URLError), direct.open(f"{address}/health", timeout=5):
            return True
        time.sleep(_LOOK_SECONDS)
    return False


def _end(server: subprocess.Popen[bytes]) -> None:
    """End it with all that it has started."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(_END_SECONDS)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def _require_free(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise BadInput(f"--port {port}: {error.strerror}. Without it a free one is taken.") from error


def _last(log: IO[bytes]) -> str:
    log.seek(0)
    return last_line(RuntimeError(log.read()[-4000:].decode(errors="replace"))) or "it says nothing"
