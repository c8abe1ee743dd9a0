"""A Ray head of our own: own ports, own folder, with or without a token, ended by its process ids."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

_PORTS = (
    "port", "dashboard-port", "dashboard-agent-listen-port", "dashboard-agent-grpc-port", "runtime-env-agent-port",
    "metrics-export-port", "object-manager-port", "node-manager-port", "ray-client-server-port",
)  # fmt: skip
_RAY = Path(sys.executable).with_name("ray")
_PATIENCE = 120.0  # seconds; a deadline for a hung test, not an expectation


@dataclass(frozen=True)
class Head:
    """A running head, and the environment of a client that may talk to it."""

    address: str
    """Ray's own, for `cluster.address`."""
    dashboard: str
    environment: dict[str, str]
    pid: int = 0
    folder: Path = Path()
    """Its temporary folder."""

    def ray(self, *arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
        """A command of Ray's own command line."""
        return subprocess.run(
            [str(_RAY), *arguments],
            cwd=cwd,
            env=self.environment | environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )

    def crash(self) -> list[psutil.Process]:
        """kill -9 the head's servers alone; returns everything else that it had started."""
        everyone = psutil.Process(self.pid).children(recursive=True)
        servers = [p for p in everyone if p.name() in ("raylet", "gcs_server")]
        assert len(servers) == 2
        for server in servers:
            server.kill()
        return [p for p in everyone if p not in servers]


@contextlib.contextmanager
def ray_head(cwd: Path, token: bool, **environment: str) -> Iterator[Head]:
    """Start a head with two CPUs in `cwd`; what was started is ended at the end."""
    folder = Path(tempfile.mkdtemp(prefix="rt-head-"))  # short: Ray puts sockets there
    everything = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "RATCHET_"))} | environment
    everything["RATCHET_STATE_HOME"] = os.environ["RATCHET_STATE_HOME"]  # as tests/conftest.py has set it
    everything["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{everything['PATH']}"
    everything["RAY_AUTH_MODE"] = "token" if token else "disabled"
    secret = secrets.token_hex(32)
    if token:
        (folder / "token").write_text(secret)
        everything["RAY_AUTH_TOKEN_PATH"] = str(folder / "token")
    ports = dict(zip(_PORTS, _free_ports(len(_PORTS)), strict=True))
    dashboard = f"http://127.0.0.1:{ports['dashboard-port']}"
    options = [f"--{name}={port}" for name, port in ports.items()]
    options += ["--min-worker-port=0", "--max-worker-port=0", "--num-cpus=2", "--num-gpus=0", "--disable-usage-stats"]
    options += [f"--temp-dir={folder}/r", "--object-store-memory=100000000", "--node-ip-address=127.0.0.1"]
    with open(folder / "log", "w") as log:
        process = subprocess.Popen(
            [str(_RAY), "start", "--head", "--block", *options],
            cwd=cwd,
            env=everything,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        _wait(process, dashboard, secret, folder / "log")
        client = everything | {"RAY_API_SERVER_ADDRESS": dashboard}
        yield Head(f"127.0.0.1:{ports['port']}", dashboard, client, process.pid, folder / "r")
    finally:
        _end(process)
        shutil.rmtree(folder, ignore_errors=True)


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def _wait(process: subprocess.Popen[bytes], dashboard: str, secret: str, log: Path) -> None:
    """Until the head lists jobs."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    request = urllib.request.Request(f"{dashboard}/api/jobs/", headers={"Authorization": f"Bearer {secret}"})
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()
        try:
            opener.open(request, timeout=5).close()
            return
        except OSError:  # not there yet, or not ready
            time.sleep(0.5)
    raise AssertionError(f"the head did not start\n{log.read_text()}")


def _end(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM makes `ray start --block` end what it started; what is left after that is killed."""
    try:
        parent = psutil.Process(process.pid)
        everyone = [parent, *parent.children(recursive=True)]
    except psutil.NoSuchProcess:
        everyone = []
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(30)
    _, alive = psutil.wait_procs(everyone, timeout=10)
    for each in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            each.kill()
    process.wait(30)
