"""PostgreSQL and MLflow's server, as deploy/ uses them: real ones, on loopback, with folders of their own."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.deploy.tools import DEPLOY

PATIENCE = 600.0
"""Seconds: a deadline for a service that does not start, not an expectation."""


def program(name: str, package: str = "postgresql") -> str:
    """A program of one of Debian's packages; without it the test is skipped."""
    places = [os.environ.get("PATH", ""), *map(str, sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True))]
    found = shutil.which(name, path=os.pathsep.join(places))
    if found is None:
        pytest.skip(f"there is no {name} here: Debian has it in {package}")
    return found


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def listens(port: int) -> bool:
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) == 0


@contextlib.contextmanager
def process(
    command: list[str], folder: Path, port: int, user: str | None = None, environment: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A server that listens on a port; it and what it has started are ended at the end."""
    with open(folder / "log", "ab") as log:
        server = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=folder, user=user, env=environment,
            start_new_session=True,
        )  # fmt: skip
    try:
        deadline = time.monotonic() + PATIENCE
        while not listens(port):
            assert server.poll() is None and time.monotonic() < deadline, (folder / "log").read_text()
            time.sleep(0.1)
        yield server
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(20)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait(20)


@contextlib.contextmanager
def postgres(password: str) -> Iterator[int]:
    """The port of a server with a database `mlflow` of the user `mlflow`, as the container's environment makes it."""
    initdb, server, createdb = program("initdb"), program("postgres"), program("createdb")
    user = None
    if os.geteuid() == 0:  # which PostgreSQL refuses to run as
        user = next(
            (name for name in ("postgres", "nobody") if name in {entry.pw_name for entry in pwd.getpwall()}), None
        )
    folder, port = Path(tempfile.mkdtemp(prefix="rt-pg-")), free_port()
    try:
        (folder / "password").write_text(password)
        for path in (folder, folder / "password"):
            shutil.chown(path, user or os.geteuid())
        made = [
            initdb,
            "-D",
            str(folder / "data"),
            "-U",
            "mlflow",
            "-A",
            "scram-sha-256",
            "--pwfile",
            str(folder / "password"),
        ]
        subprocess.run(made, check=True, capture_output=True, user=user, cwd=folder)
        command = [server, "-D", str(folder / "data"), "-p", str(port), "-h", "127.0.0.1", "-k", str(folder)]
        with process(command, folder, port, user):
            told = os.environ | {"PGPASSWORD": password}
            where = ["-h", "127.0.0.1", "-p", str(port), "-U", "mlflow"]
            deadline = time.monotonic() + PATIENCE
            while (
                done := subprocess.run([createdb, *where, "mlflow"], env=told, capture_output=True, text=True)
            ).returncode:
                assert time.monotonic() < deadline, done.stderr
                time.sleep(0.2)
            yield port
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def mlflow(secrets: Path, database: int, folder: Path, port: int) -> Iterator[str]:
    """The address of MLflow's server, started by the script that containers start it by."""
    folder.mkdir(exist_ok=True)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "PG"))} | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "SECRETS": str(secrets),
        "POSTGRES": f"127.0.0.1:{database}",
        "ARTIFACTS": str(folder),
        "LISTEN": "127.0.0.1",
        "PORT": str(port),
        "WORKERS": "1",
    }
    with process([str(DEPLOY / "docker/mlflow.sh")], folder, port, environment=environment):
        yield f"http://127.0.0.1:{port}"


def answer(address: str, user: str = "", password: str = "") -> int:
    """The status that a server answers with."""
    manager = urllib.request.HTTPPasswordMgrWithPriorAuth()
    if user:
        manager.add_password(None, address, user, password, is_authenticated=True)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPBasicAuthHandler(manager))
    try:
        with opener.open(address, timeout=60) as got:
            return int(got.status)
    except urllib.error.HTTPError as error:
        return error.code
