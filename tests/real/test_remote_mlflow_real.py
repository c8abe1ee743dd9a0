"""A training, streamed to an MLflow server of its own process, which is killed in the midst and comes back: what was
measured meanwhile is there in the end, each step once, and the driver's side waits for nothing."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.config import Tracking
from orchestrator.reports.journal import JOURNAL
from orchestrator.tracking.tracker import Tracker
from tests.support.sample_run import NUM_STEPS, SampleRun

pytestmark = pytest.mark.real
PATIENCE = 240.0  # seconds; a deadline for a hung test, not an expectation
NODES = ("head", "gpu/7")


class Server:
    """An MLflow server over a database; it can be killed and started again, at the same address."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.address = f"http://127.0.0.1:{self.port}"
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        places = ["--backend-store-uri", f"sqlite:///{self._folder}/server.db"]
        places += ["--artifacts-destination", str(self._folder / "artifacts")]
        with open(self._folder / "log", "ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "mlflow", "server", "--port", str(self.port), "--workers", "1", *places],
                env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        until(self._answers, lambda: (self._folder / "log").read_text()[-2000:])

    def kill(self) -> None:
        if self._process:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def _answers(self) -> bool:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{self.address}/health", timeout=5):
            return True
        return False


def until(true: Callable[[], bool], why: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < deadline, why()
        time.sleep(0.3)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    found = Server(tmp_path)
    found.start()
    try:
        yield found
    finally:
        found.kill()


def measured(run: SampleRun, *updates: int) -> None:
    """Lines of the journal, of updates and of a look at every node."""
    begin = run.ledger.records[0].time
    with open(run.root / JOURNAL, "a") as file:
        for number in updates:
            rows = [("rounds/01/train", number, {"loss": 0.5, "margin": 0.1})]
            rows += [(f"nodes/{node}", 0, {"cpu_utilization_percentage": 50.0}) for node in NODES]
            for what, of, values in rows:
                row = {"time": begin + number, "what": what, "number": of, "values": values}
                file.write(json.dumps(row) + "\n")


def points(server: Server, run: SampleRun, number: int, key: str) -> list[int]:
    from mlflow import MlflowClient

    client: Any = MlflowClient(tracking_uri=server.address)
    experiments = [e.experiment_id for e in client.search_experiments()]
    tags = f"tags.`ratchet.run_id` = '{run.run_id}' and tags.`ratchet.round` = '{number}'"
    found = client.search_runs(experiments, tags)
    assert len(found) <= 1
    return sorted(m.step for f in found for m in client.get_metric_history(f.info.run_id, key))


def test_a_server_that_dies_in_the_midst_of_a_training_has_all_once_it_is_back(server: Server, tmp_path: Path) -> None:
    run = SampleRun(tmp_path / "run")
    run.claim()
    run.configure()
    run.baseline()
    run.prompts(1)
    said: list[str] = []
    tracker = Tracker(run.root, Tracking(uri=server.address), "sqlite:///unused.db", said.append)
    tracker.start()
    measured(run, 1, 2)
    tracker.poke()
    until(lambda: points(server, run, 1, "learning/loss") == [1, 2], lambda: tracker.problem)
    server.kill()
    measured(run, 3, 4)
    tracker.poke()
    until(lambda: tracker.problem is not None, lambda: "it should have been noticed")
    assert server.address in str(tracker.problem)
    server.start()
    measured(run, 5)
    tracker.poke()
    until(lambda: points(server, run, 1, "learning/loss") == [1, 2, 3, 4, 5], lambda: tracker.problem)
    server.kill()
    run.train(1)  # is committed while nobody listens
    measured(run, 6)
    tracker.poke()
    server.start()
    run.evaluate(1, 50)
    run.promote(1)
    run.end()
    assert tracker.close(PATIENCE) and tracker.problem is None
    everything = list(range(1, NUM_STEPS + 1))
    for number in (0, 1):
        assert points(server, run, number, "learning/loss") == everything
        assert points(server, run, number, "learning/margin") == everything
        assert points(server, run, number, "accuracy/test") == ([0, 1] if number == 0 else [1])
    for node in ("head", "gpu_7"):
        assert points(server, run, 0, f"system/{node}/cpu_utilization_percentage") == [1, 2, 3, 4, 5, 6]
    assert len(said) == 1 and said[0].startswith("tracking: MLflow at ")
