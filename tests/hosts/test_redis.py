"""Ray's own state in a real Redis: the head dies, another comes in its place, and the nodes that live stay."""

from __future__ import annotations

import json
import secrets
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from orchestrator.ledger.record_files import Record
from tests.hosts.test_round import SMALL
from tests.support.hosts import Driver, Host, Network, hosts_or_skip, left_in_ray, ratchet, wait_until
from tests.support.real import has_shard, records

pytestmark = [pytest.mark.hosts, pytest.mark.full]
PORT = 6380
ONE_CORE = (*SMALL, "generate.engines=1", "train.ranks=1", "train.zero=1", "cluster.timeout=300")
# As KubeRay has it, where gcsFaultToleranceOptions are set: the head is told its Redis, and all wait long for a head.
PATIENT = {"RAY_gcs_rpc_server_reconnect_timeout_s": "600", "RAY_external_storage_namespace": "ratchet"}
PATIENT |= {"RAY_raylet_start_wait_time_s": "180"}  # a busy machine
_NODES = """
import json, sys
import ray
ray.init(address=sys.argv[1], log_to_driver=False, logging_level="ERROR")
print(json.dumps({node["NodeID"]: node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]}))
"""


class Store:
    """The host of a Redis that asks for a password, started as the container in deploy/kubernetes is."""

    def __init__(self, host: Host, folder: Path) -> None:
        self.address, self.password = f"{host.address}:{PORT}", secrets.token_hex(16)
        folder.mkdir()
        (folder / "password.conf").write_text(f"requirepass {self.password}\n")
        options = ["--dir", str(folder), "--appendonly", "yes", "--port", str(PORT), "--bind", host.address]
        self.log = folder / "log"
        host.start("redis-server", "--include", folder / "password.conf", *options, log=self.log)
        wait_until(lambda: "eady to accept connections" in self.log.read_text(), "Redis takes connections")

    def options(self) -> list[str]:
        return [f"--redis-password={self.password}", "--no-monitor"]


@contextmanager
def cluster(tmp_path: Path) -> Iterator[tuple[Network, Store]]:
    """A head that gives out nothing, a worker node with two cores, and Redis on a host of its own."""
    if shutil.which("redis-server") is None:
        pytest.skip("there is no redis-server here: Debian has it in redis-server")
    with hosts_or_skip(tmp_path, "head", "worker", "store", **PATIENT) as hosts:
        store = Store(hosts.hosts[2], tmp_path / "redis")
        start_head(hosts, store)
        hosts.start_node(hosts.hosts[1], 2, *store.options())
        yield hosts, store


def start_head(hosts: Network, store: Store) -> None:
    hosts.start_node(hosts.head, 0, *store.options(), RAY_REDIS_ADDRESS=store.address)


def kill_head(hosts: Network) -> list[psutil.Process]:
    """kill -9 all that runs there, and take away what it has written, as with a pod."""
    killed = hosts.head.processes()
    for process in killed:
        process.kill()
    psutil.wait_procs(killed, timeout=60)
    hosts.head.run("rm", "-rf", "/tmp/ray")
    return killed


def nodes(hosts: Network) -> dict[str, str]:
    """The address of each living node, by Ray's id of it."""
    said = hosts.head.run(sys.executable, "-c", _NODES, hosts.ray_address)
    found: dict[str, str] = json.loads(said.splitlines()[-1])
    return found


def records_of(run: Path) -> list[Record]:
    return records(run) if (run / "ledger").is_dir() else []


def sampling(driver: Driver, run: Path) -> None:
    """Return when the run has a shard of samples and is at the next."""
    reached = has_shard("rounds/01/samples")
    wait_until(lambda: driver.poll() is not None or reached(records_of(run)), "a shard", 900)
    assert driver.poll() is None, run.with_suffix(".log").read_text()


def done_once(run: Path, before: list[Record]) -> None:
    found = records_of(run)
    assert found[: len(before)] == before and found[-1].data["state"] == "finished"
    done = [(r.kind, r.data["step"], r.data.get("index")) for r in found if r.kind in ("commit", "shard")]
    assert len(done) == len(set(done))


def test_a_head_that_comes_back_finds_its_workers_and_the_same_command_goes_on(tmp_path: Path) -> None:
    """The driver lives in the head, as where a job was submitted, and dies with it."""
    run, log, planted = tmp_path / "irpo", tmp_path / "irpo.log", secrets.token_hex(16)
    with cluster(tmp_path) as (hosts, store):
        worker = hosts.hosts[1]
        was = {node for node, address in nodes(hosts).items() if address == worker.address}
        (raylet,) = (p for p in worker.processes() if p.name() == "raylet")
        settings = (*ONE_CORE, f"cluster.address={hosts.ray_address}", "cluster.secrets=[PLANTED]")
        known = {"RATCHET_SECRETS": "PLANTED", "PLANTED": planted}
        driver = ratchet(hosts.head, run, *settings, **known)
        sampling(driver, run)
        kill_head(hosts)
        assert driver.wait(60) != 0
        before = records_of(run)
        start_head(hosts, store)
        wait_until(lambda: worker.address in nodes(hosts).values(), "the worker is back")
        assert {node for node, address in nodes(hosts).items() if address == worker.address} == was
        assert raylet.is_running() and raylet.status() != psutil.STATUS_ZOMBIE
        again = ratchet(hosts.head, run, *settings, **known)
        assert again.wait(900) == 0, log.read_text()
        assert left_in_ray(hosts) == {"actors": [], "groups": []}
    done_once(run, before)
    holding = [path for path in tmp_path.rglob("*") if path.is_file() and planted.encode() in path.read_bytes()]
    assert {path.relative_to(tmp_path).parts[0] for path in holding} == {"redis"}, "as deploy/kubernetes says"


def test_a_driver_that_is_not_in_the_head_outlives_it(tmp_path: Path) -> None:
    run, log = tmp_path / "irpo", tmp_path / "irpo.log"
    with cluster(tmp_path) as (hosts, store):
        driver = ratchet(hosts.hosts[1], run, *ONE_CORE, f"cluster.address={hosts.ray_address}")
        sampling(driver, run)
        before = records_of(run)
        kill_head(hosts)
        start_head(hosts, store)
        assert driver.wait(900) == 0, log.read_text()
    done_once(run, before)
    assert [record.kind for record in records_of(run)].count("claim") == 1
