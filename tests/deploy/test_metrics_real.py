"""What a run tells Prometheus, for real: Ray's own endpoint, a real Prometheus, and the dashboard's queries."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator import config
from orchestrator.config.load import load_job
from orchestrator.driver.cluster import Cluster
from orchestrator.driver.drive import drive
from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.record_files import Record
from orchestrator.records.progress import UNWATCHED, Watch
from orchestrator.reports.meters import Meters
from tests.deploy.services import free_port, process, program
from tests.deploy.tools import DEPLOY
from tests.orchestrator.reports.test_meters import Unlucky
from tests.support.ray_head import Head, ray_head
from tests.support.stand_ins import all_read, make_project

pytestmark = [pytest.mark.real, pytest.mark.full]
PROJECT = Path(__file__).parents[2]
PATIENCE = 240.0  # seconds; a deadline for a hung test, not an expectation


class Joined(Unlucky):
    """Stand-ins whose driver has joined a cluster. At the end of its work it waits to be looked at."""

    def __init__(self, folder: Path, address: str) -> None:
        super().__init__()
        self.folder, self.cluster = folder, Cluster(config.Cluster(address=address, timeout=60), folder / "logs")

    def report_to(self, say: Callable[[str], None], meters: Meters, logs: Path, watch: Watch = UNWATCHED) -> None:
        self.cluster.waited = meters.waited
        with self.cluster.reserve("generate.engines", 1, 1, 0):
            meters.show_by(self.cluster.metric)

    def __enter__(self) -> Joined:
        self.cluster.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        (self.folder / "done").touch()
        until(lambda: (self.folder / "seen").exists(), "somebody has looked")
        self.cluster.__exit__(None)


def work(folder: str, address: str, rounds: int) -> None:
    place = Path(folder)
    job = load_job(place / "tiny.yaml", [f"rounds={rounds}"])
    drive(job, print, [], lambda _job, _logs: Joined(place, address), ask=all_read)  # type: ignore[arg-type, return-value]


def until(reached: Callable[[], Any], what: str) -> Any:
    deadline = time.monotonic() + PATIENCE
    while not (found := reached()):
        assert time.monotonic() < deadline, what
        time.sleep(0.5)
    return found


def ask(address: str, path: str, **values: str) -> Any:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"{address}/api/v1/{path}?{urllib.parse.urlencode(values)}", timeout=30) as answer:
        said = json.load(answer)
    assert said["status"] == "success"
    return said["data"]


def values(address: str, expression: str) -> dict[tuple[str, ...], float]:
    """What Prometheus has now, by the labels that the expression names."""
    found = ask(address, "query", query=expression)["result"]
    return {tuple(series["metric"].values()): float(series["value"][1]) for series in found}


@contextlib.contextmanager
def driven(folder: Path, head: Head, rounds: int) -> Iterator[None]:
    """A driver that has come to the end of its rounds, and stays until it is looked at."""
    for name in ("done", "seen"):
        (folder / name).unlink(missing_ok=True)
    code = f"from tests.deploy.test_metrics_real import work; work({str(folder)!r}, {head.address!r}, {rounds})"
    environment = head.environment | {"PYTHONPATH": str(PROJECT)}
    driver = subprocess.Popen([sys.executable, "-c", code], cwd=PROJECT, env=environment)
    try:
        until(lambda: (folder / "done").exists() or driver.poll() is not None, "the run is done")
        assert driver.poll() is None
        yield
        (folder / "seen").touch()
        assert driver.wait(PATIENCE) == 0
    finally:
        driver.kill()
        driver.wait()


def test_prometheus_has_the_numbers_of_the_ledger_and_an_answer_to_every_query(tmp_path: Path) -> None:
    """Of the run's first driver, and of the one that goes on with it, beside what the node still shows of the first."""
    server, port = program("prometheus", "prometheus"), free_port()
    make_project(tmp_path)
    address = f"http://127.0.0.1:{port}"
    with ray_head(tmp_path, token=True, RAY_metrics_report_interval_ms="1000") as head:
        told = (DEPLOY / "grafana/prometheus.yaml").read_text()
        listed = "/tmp/ray/prom_metrics_service_discovery.json"
        assert listed in told
        mine = told.replace(listed, str(head.folder / Path(listed).name)).replace("15s", "1s")
        (tmp_path / "prometheus.yaml").write_text(mine)
        options = ["--config.file=prometheus.yaml", f"--web.listen-address=127.0.0.1:{port}"]
        with process([server, *options, f"--storage.tsdb.path={tmp_path}/data"], tmp_path, port):
            for rounds in (1, 2):
                with driven(tmp_path, head, rounds):
                    compare(address, Ledger(tmp_path / "run/ledger").records, rounds)
            dashboard = json.loads((DEPLOY / "grafana/ratchet.json").read_text())
            for panel in dashboard["panels"]:
                for target in panel["targets"]:
                    asked = target["expr"].replace("$run", ".*").replace("$__rate_interval", "5m")
                    assert values(address, asked), f"{panel['title']}: {asked}"
            assert ask(address, "label/run/values") == ["tiny"]


def compare(address: str, records: list[Record], rounds: int) -> None:
    expected = {(kind,): float(n) for kind, n in Counter(record.kind for record in records).items()}
    query = 'max by (kind) (ray_ratchet_ledger_appends_total{run="tiny"})'
    until(lambda: values(address, query) == expected, f"Prometheus has {expected}")
    shards = [r.data for r in records if r.kind == "shard"]
    sampled = sum(data["facts"].get("tokens", 0) for data in shards)
    assert values(address, 'max by (role) (ray_ratchet_tokens_total{role="engine"})') == {("engine",): sampled}
    assert sum(values(address, "max by (phase) (ray_ratchet_shards_total)").values()) == len(shards)
    assert values(address, "max by (outcome) (ray_ratchet_rounds_total)") == {("promoted",): rounds}
    drivers = values(address, "count(ray_ratchet_rounds_total)")
    assert drivers == {(): rounds}, "those that have ended are shown, too"
