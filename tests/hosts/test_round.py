"""A round over three hosts, of which one dies: real Ray, engines and ranks. Part of the gate."""

from __future__ import annotations

import os
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest

from orchestrator.ledger.record_files import Record
from tests.support.hosts import Driver, Host, Network, hosts_or_skip, left_in_ray, ratchet, wait_until
from tests.support.real import has_shard, records

pytestmark = pytest.mark.hosts

PROMPTS, SAMPLES = 96, 32
SMALL = (
    "rounds=1",
    f"data.prompts_per_round={PROMPTS}",
    "data.gate.limit=8",
    "data.test.limit=8",
    f"generate.samples={SAMPLES}",
    "generate.engines=2",
    "generate.shard_prompts=4",
    "train.ranks=2",
    "train.zero=2",
    "train.max_steps=2",
    "tracking.enabled=false",
)


@pytest.fixture
def three(tmp_path: Path) -> Iterator[Network]:
    """A head and two worker nodes, each with one core for Ray to give out."""
    with hosts_or_skip(tmp_path, "head", "one", "two") as made:
        made.start_ray(1, "--no-monitor")
        yield made


def test_a_round_over_hosts_of_which_one_dies_while_it_samples(three: Network, tmp_path: Path) -> None:
    run, before = tmp_path / "irpo", {host.name: host.files() for host in three.hosts}
    driver = ratchet(three.head, run, *SMALL, f"cluster.address={three.ray_address}")
    log = run.with_suffix(".log")
    wait_until(lambda: driver.poll() is not None or has_shard("rounds/01/samples")(_records(run)), "a shard", 900)
    assert driver.poll() is None, log.read_text()
    engines = _where(three, "ray::VllmEngine")
    assert len(engines) == 2, "each node has a core for one engine"
    dying = next(host for host in engines if host is not three.head)
    dying.crash()
    done = {r.data["index"] for r in _records(run) if r.kind == "shard" and r.data["step"] == "rounds/01/samples"}
    assert len(done) < PROMPTS // 4, "the host died too late"
    ranks: set[str] = set()
    watcher = threading.Thread(target=lambda: _watch(three, driver, ranks))
    watcher.start()
    assert driver.wait(900) == 0, log.read_text()
    watcher.join()
    assert ranks == {host.name for host in three.hosts if host is not dying}

    found = records(run)
    steps = Counter((r.kind, r.data["step"], r.data.get("index")) for r in found if r.kind in ("commit", "shard"))
    assert set(steps.values()) == {1}
    shards = [r.data for r in found if r.kind == "shard" and r.data["step"] == "rounds/01/samples"]
    assert [why for shard in shards for why in shard["facts"].get("engines_lost", [])], log.read_text()
    rows = pq.read_table(run / "rounds/01/samples", columns=["prompt_id", "sample_index"]).to_pylist()
    assert len(rows) == len({(r["prompt_id"], r["sample_index"]) for r in rows}) == PROMPTS * SAMPLES
    assert not [path for path in (run / "rounds").rglob(".*") if path.name.rpartition("-e")[2].isdigit()]
    three.head.run("python", "-m", "orchestrator", "verify", run, cwd=tmp_path)

    assert left_in_ray(three) == {"actors": [], "groups": []}
    for host in (host for host in three.hosts if host is not dying):
        assert not [name for kind in ("VllmEngine", "_Rank", "_Helper", "_Nice") for name in host.find(f"ray::{kind}")]
        assert not host.find("VLLM") and not host.find("python -m orchestrator")
        left = set(host.files()) - set(before[host.name])
        assert all(name.startswith(("/tmp/vllm_dist_", "/tmp/torchinductor_")) for name in left), left


def test_hosts_leave_nothing_on_the_machine_even_where_a_test_fails(tmp_path: Path) -> None:
    links = psutil.net_if_addrs().keys()
    pids: list[int] = []
    with pytest.raises(ZeroDivisionError), hosts_or_skip(tmp_path, "one", "two") as made:
        one, two = made.hosts
        log = tmp_path / "log"
        one.start("sh", "-c", "sleep 600 & sleep 600", log=log)
        two.run("touch", "/dev/shm/mine", "/tmp/mine", tmp_path / "ours")
        assert one.run("hostname").strip() == "one" and one.run("ls", "/dev/shm", "/tmp/home").count("mine") == 0
        assert (tmp_path / "ours").exists() and not Path("/tmp/mine").exists()
        code = "import socket; socket.create_connection(('{}', 9), 2)"
        assert "refused" in one.run(sys.executable, "-c", code.format(two.address), check=False), "there is a way"
        two.cut()
        assert "refused" not in one.run(sys.executable, "-c", code.format(two.address), check=False), "there is none"
        wait_until(lambda: len(one.find("sleep")) == 2, "two processes")
        pids += [made.switch[1], *(host.init for host in made.hosts), *(p.pid for p in one.find("sleep"))]
        1 / 0  # noqa: B018
    assert len(pids) == 5
    wait_until(lambda: not any(map(psutil.pid_exists, pids)), "all are gone")
    assert psutil.net_if_addrs().keys() == links
    assert "mine" not in os.listdir("/dev/shm")


def _records(run: Path) -> list[Record]:
    return records(run) if (run / "ledger").is_dir() else []


def _where(hosts: Network, title: str) -> list[Host]:
    return [host for host in hosts.hosts if host.lives and host.find(title)]


def _watch(hosts: Network, driver: Driver, seen: set[str]) -> None:
    while driver.poll() is None:
        seen |= {host.name for host in _where(hosts, "ray::_Rank")}
