"""Hosts that come, go, and are cut off: real Ray over network namespaces; `make hosts`."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from orchestrator.ledger.record_files import Record
from tests.hosts.on_head import EPOCHS
from tests.hosts.test_round import PROMPTS, SAMPLES, SMALL
from tests.support.hosts import Driver, Host, Network, hosts_or_skip, left_in_ray, ratchet, wait_until
from tests.support.real import has_shard, records

pytestmark = [pytest.mark.hosts, pytest.mark.full]

Make = Callable[..., AbstractContextManager[Network]]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    @contextmanager
    def making(*names: str, cpus: int = 1, **environment: str) -> Iterator[Network]:
        with hosts_or_skip(tmp_path, *names, **environment) as made:
            if names:
                made.start_ray(cpus, "--no-monitor")
            yield made

    return making


def begin(host: Host, log: Path, function: str, *arguments: Any) -> Driver:
    code = f"from tests.hosts.on_head import {function}; {function}(*{arguments!r})"
    return host.start(sys.executable, "-c", code, log=log)


def outcome(driver: Driver, log: Path, seconds: float = 900) -> dict[str, Any]:
    driver.wait(seconds)
    lines = [line for line in log.read_text().splitlines() if line.startswith("{")]
    assert lines, log.read_text()
    found: dict[str, Any] = json.loads(lines[-1])
    return found


def says(log: Path, text: str, driver: Driver) -> None:
    def said() -> bool:
        assert driver.poll() is None, log.read_text()
        return text in log.read_text()

    wait_until(said, f"{text!r} in {log}")


def test_two_jobs_that_need_the_whole_cluster_take_turns(make: Make, tmp_path: Path) -> None:
    with make("head", "one") as hosts:
        logs = [tmp_path / f"{name}.log" for name in "ab"]
        asked = (hosts.ray_address, str(tmp_path))
        drivers = [begin(hosts.head, log, "take_turns", *asked, log.stem, 2, 3, 8.0, 120.0) for log in logs]
        assert [outcome(*each) for each in zip(drivers, logs, strict=True)] == [{"done": 3}, {"done": 3}]
        assert (tmp_path / "turns").read_text() in ("ababab", "bababa")
        text = "".join(log.read_text() for log in logs)
        assert "held by phase" in text and str(tmp_path) in text, text
        assert left_in_ray(hosts) == {"actors": [], "groups": []}


def test_what_is_held_by_others_for_too_long_ends_the_run_for_now(make: Make, tmp_path: Path) -> None:
    with make("head", "one") as hosts:
        holder = begin(
            hosts.head, tmp_path / "a.log", "take_turns", hosts.ray_address, str(tmp_path), "a", 1, 1, 60.0, 60
        )
        says(tmp_path / "a.log", "holds 0", holder)
        late = begin(hosts.head, tmp_path / "b.log", "reserve", hosts.ray_address, str(tmp_path), 1, 1, 8.0)
        found = outcome(late, tmp_path / "b.log")
        assert found["code"] == 75
        assert "within 8 s (cluster.timeout): free are 0 CPU of" in found["message"]
        assert "held by phase 0 of" in found["message"]
        never = begin(hosts.head, tmp_path / "c.log", "reserve", hosts.ray_address, str(tmp_path), 1, 2, 8.0)
        found = outcome(never, tmp_path / "c.log")
        assert found["code"] == 2 and "1 x 2 CPU asked for, and the cluster has room for 0" in found["message"]
        assert outcome(holder, tmp_path / "a.log") == {"done": 1}


def test_a_node_that_is_lost_in_a_training_is_waited_for(make: Make, tmp_path: Path) -> None:
    """There is no room without it; the ranks go on from the last saved state on the node that comes."""
    log = tmp_path / "train.log"
    with make("head", "one") as hosts:
        driver = begin(hosts.head, log, "train", hosts.ray_address, str(tmp_path), 300.0)
        says(log, "step 3", driver)
        hosts.hosts[1].crash()
        says(log, "waiting   train.ranks: 2 x 1 CPU", driver)
        says(log, "the nodes that live have room for 1 in all", driver)
        hosts.start_node(hosts.add("two"), 1)
        found = outcome(driver, log)
        assert found["restarts"] == 1 and found["resumed_from"] >= 2 and found["steps"] == 2 * EPOCHS, log.read_text()
        assert left_in_ray(hosts) == {"actors": [], "groups": []}


def test_a_node_that_is_lost_in_a_training_and_not_replaced_ends_the_run_for_now(make: Make, tmp_path: Path) -> None:
    log = tmp_path / "train.log"
    with make("head", "one") as hosts:
        driver = begin(hosts.head, log, "train", hosts.ray_address, str(tmp_path), 20.0)
        says(log, "step 3", driver)
        hosts.hosts[1].crash()
        found = outcome(driver, log)
        assert found["code"] == 75 and "goes on from here" in found["message"]


@pytest.mark.parametrize("joins", [False, True])
def test_a_node_that_is_lost_while_sampling_costs_its_shards_in_flight(make: Make, tmp_path: Path, joins: bool) -> None:
    log, shards = tmp_path / "sample.log", 12
    draw_every(tmp_path, 0.3)
    with make("head", "one") as hosts:
        driver = begin(hosts.head, log, "sample", hosts.ray_address, str(tmp_path), shards, 60.0)
        says(log, "shard ", driver)
        hosts.hosts[1].crash()
        if joins:  # the other engine alone would be done before the node is there
            draw_every(tmp_path, 20)
            new = hosts.add("two")
            hosts.start_node(new, 1)

            def helps() -> bool:
                assert driver.poll() is None, log.read_text()
                return bool(new.find("ray::SlowEngine"))

            wait_until(helps, "an engine on the new node")
            draw_every(tmp_path, 0.1)
        found = outcome(driver, log)
        [lost] = found["lost"]
        assert "its node" in lost or "the node" in lost, log.read_text()
    assert_sampled_once(tmp_path, shards)


def test_a_node_that_was_cut_off_publishes_nothing(make: Make, tmp_path: Path) -> None:
    log, shards = tmp_path / "sample.log", 16
    draw_every(tmp_path, 0.5)
    quick = {"RAY_health_check_period_ms": "1000", "RAY_health_check_timeout_ms": "3000"}
    with make("head", "one", **quick) as hosts:
        cut = hosts.hosts[1]
        driver = begin(hosts.head, log, "sample", hosts.ray_address, str(tmp_path), shards, 60.0)
        says(log, "shard ", driver)
        cut.cut()
        wait_until(lambda: "shard" in log.read_text().rpartition("\n")[0], "more shards")
        [engine] = cut.find("ray::SlowEngine")
        assert engine.is_running(), "it works on, unseen"
        time.sleep(60)
        cut.mend()
        found = outcome(driver, log)
        assert found["lost"], log.read_text()
        wait_until(lambda: not cut.find("ray::SlowEngine"), "the engine that was cut off is gone")
    assert_sampled_once(tmp_path, shards)


def draw_every(folder: Path, seconds: float) -> None:
    """How long SlowEngine takes over a sample, from the next one on."""
    (folder / "seconds.new").write_text(str(seconds))
    (folder / "seconds.new").replace(folder / "seconds")


def records_of(run: Path) -> list[Record]:
    return records(run) if (run / "ledger").is_dir() else []


def assert_sampled_once(folder: Path, shards: int) -> None:
    files = sorted((folder / "samples").glob(".*.parquet-e1"))
    assert len(files) == shards
    rows = [row for file in files for row in pq.read_table(file).to_pylist()]
    expected = [(f"p{n}", i) for n in range(8 * shards) for i in range(2)]
    assert [(row["prompt_id"], row["sample_index"]) for row in rows] == expected


def test_a_head_that_is_killed_with_the_driver_costs_the_work_in_flight(make: Make, tmp_path: Path) -> None:
    """The whole cluster is gone with it. The same job goes on where another one is, from what is committed."""
    run, log = tmp_path / "irpo", tmp_path / "irpo.log"
    with make("head", "one") as hosts:
        driver = ratchet(hosts.head, run, *SMALL, f"cluster.address={hosts.ray_address}")
        wait_until(lambda: driver.poll() is not None or has_shard("rounds/01/samples")(records_of(run)), "a shard", 900)
        assert driver.poll() is None, log.read_text()
        hosts.head.crash()
        old, before = hosts.hosts.pop(), records_of(run)
        try:
            wait_until(lambda: not old.find("ray::"), "the workers of the dead cluster end by themselves")
        finally:
            old.crash()
        hosts.hosts[:] = []
        hosts.add("another")
        hosts.start_ray(2, "--no-monitor")
        again = ratchet(hosts.head, run, *SMALL, f"cluster.address={hosts.ray_address}")
        assert again.wait(900) == 0, log.read_text()
    found = records_of(run)
    assert found[: len(before)] == before and found[-1].data["state"] == "finished"
    done = [(r.kind, r.data["step"], r.data.get("index")) for r in found if r.kind in ("commit", "shard")]
    assert len(done) == len(set(done))
    rows = pq.read_table(run / "rounds/01/samples", columns=["prompt_id", "sample_index"]).to_pylist()
    assert len(rows) == len({tuple(row.values()) for row in rows}) == PROMPTS * SAMPLES


def test_an_autoscaler_is_asked_and_waited_for(make: Make, tmp_path: Path) -> None:
    """Ray's own, with its provider of nodes that are processes of one host."""
    kinds = {
        "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
        "worker": {"resources": {"CPU": 2, "object_store_memory": 10**8}, "node_config": {}, "max_workers": 2},
    }
    scaling: dict[str, Any] = {"cluster_name": "scaled", "max_workers": 2, "upscaling_speed": 1.0}
    scaling |= {"idle_timeout_minutes": 1, "head_node_type": "ray.head.default", "available_node_types": kinds}
    scaling |= {
        "provider": {
            "type": "fake_multinode",
            "use_node_id_as_ip": True,
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
        }
    }
    scaling |= {key: {} for key in ("auth", "docker", "file_mounts")} | {"file_mounts_sync_continuously": False}
    commands = ("initialization", "setup", "head_setup", "worker_setup", "head_start_ray", "worker_start_ray")
    scaling |= {f"{name}_commands": [] for name in commands}
    scaling |= {key: [] for key in ("cluster_synced_files", "rsync_exclude", "rsync_filter")}
    (tmp_path / "scaling.json").write_text(json.dumps(scaling))
    first = "f" * 51 + "00000"
    environment = {
        "RAY_FAKE_CLUSTER": "1",
        "RAY_OVERRIDE_NODE_ID_FOR_TESTING": first,
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
    }
    log = tmp_path / "reserve.log"
    with make(cpus=0) as hosts:
        hosts.add("head")
        hosts.start_ray(0, f"--autoscaling-config={tmp_path}/scaling.json", **environment)
        ready = begin(hosts.head, tmp_path / "ready.log", "await_autoscaler", hosts.ray_address, str(tmp_path))
        assert outcome(ready, tmp_path / "ready.log", 300) == {}
        driver = begin(hosts.head, log, "reserve", hosts.ray_address, str(tmp_path), 2, 2, 300.0)
        assert outcome(driver, log) == {"placed": [True, True]}
        assert "Ray's autoscaler is asked for more" in log.read_text()


def test_the_load_of_every_node_is_told_and_a_node_that_is_gone_holds_nobody_up(make: Make, tmp_path: Path) -> None:
    with make("head", "one", "two") as hosts:
        log = tmp_path / "looks.log"
        driver = begin(hosts.head, log, "looks", hosts.ray_address, str(tmp_path), 120.0)
        for host in hosts.hosts:
            says(log, f"looked at nodes/{host.name}-{host.address}", driver)
        hosts.hosts[-1].crash()
        (tmp_path / "enough").touch()
        last = outcome(driver, log)["last"]
        assert {what.partition("/")[2].partition("-")[0] for what in last} == {"head", "one"}
        assert all("cpu_utilization_percentage" in values for values in last.values())
