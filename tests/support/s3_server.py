"""A real S3-speaking server (nanio) on loopback: it checks signatures, takes objects in parts, and keeps them in files,
so that it can be killed and started again."""

from __future__ import annotations

import importlib.util
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

BUCKET = "bucket"
_KEY, _SECRET = "ratchet-tests", "a-secret-of-tests-alone"
_PATIENCE = 120.0
"""Seconds: a deadline for a server that does not start, not an expectation."""


def environment(port: int) -> dict[str, str]:
    """What a client of the server has in its environment."""
    return {
        "AWS_ACCESS_KEY_ID": _KEY,
        "AWS_SECRET_ACCESS_KEY": _SECRET,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_EC2_METADATA_DISABLED": "true",
    }


def require_packages() -> None:
    """Skip a test where the server or its client is not installed."""
    missing = [name for name in ("nanio", "s3fs") if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"not installed here: {', '.join(missing)} (requirements/cpu.txt has them)")


class S3Server:
    """The server in a process of its own; the objects of the bucket are files below `bucket`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.bucket = folder / "data" / BUCKET
        self.bucket.mkdir(parents=True)
        with socket.socket() as one:
            one.bind(("127.0.0.1", 0))
            self.port = int(one.getsockname()[1])
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def environment(self) -> Mapping[str, str]:
        return environment(self.port)

    def start(self) -> None:
        credentials = {"NANIO_ACCESS_KEY": _KEY, "NANIO_SECRET_KEY": _SECRET}
        command = [sys.executable, "-m", "nanio", "serve", "--data-dir", str(self._folder / "data")]
        command += ["--host", "127.0.0.1", "--port", str(self.port), "--log-level", "warning"]
        with open(self._folder / "log", "ab") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=os.environ | credentials
            )
        deadline = time.monotonic() + _PATIENCE
        while not self._listens():
            assert self._process.poll() is None and time.monotonic() < deadline, (self._folder / "log").read_text()
            time.sleep(0.05)

    def kill(self) -> None:
        """End it at once, whatever it is doing."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None

    def _listens(self) -> bool:
        with socket.socket() as one:
            return one.connect_ex(("127.0.0.1", self.port)) == 0
