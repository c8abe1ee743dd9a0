"""What the workers' root makes of settings that are left to the machine. The cluster is a stand-in."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from orchestrator.config import Job, engines
from orchestrator.config.load import load_job
from orchestrator.driver import wiring
from orchestrator.driver.cluster import Cluster
from orchestrator.driver.nodes import Node
from orchestrator.driver.settled import Settled
from orchestrator.driver.wiring import RealWorkers
from orchestrator.errors import BadInput
from orchestrator.ledger.step_facts import Facts
from tests.support.placements import ForRanks
from tests.support.stand_ins import make_project


def test_the_job_file_knows_the_arguments_of_the_engine_that_runs_use() -> None:
    assert RealWorkers.engine == wiring.ENGINE.name == engines.ENGINE.name
    assert wiring.ENGINE.memory_argument in engines.ENGINE.executing
    assert not engines.ENGINE.executing & {*wiring.ENGINE.context_arguments, *engines.ENGINE.keys}


class Machine(Cluster):
    """So many nodes of so many cores and accelerators each, without Ray."""

    def __init__(self, cpus: int, gpus: int, count: int = 1) -> None:
        self.cpus, self.gpus, self.count = cpus, gpus, count

    def __enter__(self) -> Machine:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    @property
    def accelerated(self) -> bool:
        return self.gpus > 0

    _began = False

    def _scales(self) -> bool:
        return False

    def nodes(self) -> list[Node]:
        return [Node(str(number), f"node-{number}", self.cpus, self.gpus) for number in range(self.count)]


class On(RealWorkers):
    def __init__(
        self, job: Job, cpus: int, gpus: int = 0, kept: Mapping[str, Any] | None = None, nodes: int = 1
    ) -> None:
        super().__init__(job, Path("/nowhere/logs"))
        self._cluster = Machine(cpus, gpus, nodes)
        self.recorded: list[Mapping[str, Any]] = []
        self._settled = Settled(kept, self.recorded.append)


def test_what_is_left_to_the_machine_is_recorded_once_and_kept(tmp_path: Path) -> None:
    job = load_job(make_project(tmp_path)).job
    first = On(job, cpus=8)
    assert first.execution("train") == {"device": "cpu", "train.attention": "sdpa", "cluster.cpus_per_rank": 8}
    assert first.execution("generate") == {"device": "cpu", "cluster.cpus_per_engine": 8}
    assert first.execution("train") and len(first.recorded) == 3
    larger = On(job, cpus=16, kept=first.recorded[-1])
    assert larger.execution("train") == first.execution("train") and not larger.recorded
    smaller = On(job, cpus=2, kept=first.recorded[-1])
    assert smaller.execution("train")["cluster.cpus_per_rank"] == 2, "there is no room for 8"
    accelerated = On(job, cpus=16, gpus=2, kept=first.recorded[-1])
    assert accelerated.execution("train") == {"device": "cuda", "train.attention": "flex", "cluster.cpus_per_rank": 1}
    assert accelerated.recorded[-1]["device"] == "cuda"


@pytest.mark.parametrize(
    ("override", "key"),
    [("train.attention=sdpa", "train.attention"), ("cluster.cpus_per_rank=3", "cluster.cpus_per_rank")],
)
def test_what_is_set_is_as_it_is_set(tmp_path: Path, override: str, key: str) -> None:
    workers = On(load_job(make_project(tmp_path), [override]).job, cpus=8, gpus=1)
    assert str(workers.execution("train")[key]) == override.partition("=")[2]
    assert all(key not in said["settings"] for said in workers.recorded)


@pytest.mark.parametrize(("ranks", "nodes", "cpus", "cores"), [(1, 2, 1, 1), (2, 2, 1, 1), (1, 3, 4, 4), (6, 2, 8, 2)])
def test_cores_are_shared_out_by_node(tmp_path: Path, ranks: int, nodes: int, cpus: int, cores: int) -> None:
    workers = On(load_job(make_project(tmp_path), [f"train.ranks={ranks}"]).job, cpus, nodes=nodes)
    assert workers.execution("train")["cluster.cpus_per_rank"] == cores


def test_an_engine_holds_all_the_accelerators_that_it_is_spread_over(tmp_path: Path) -> None:
    overrides = ["generate.tensor_parallel=2", "generate.engine={pipeline_parallel_size: 2}", "generate.engines=2"]
    job = load_job(make_project(tmp_path), overrides).job
    assert On(job, cpus=64, gpus=8)._engines_need()[::2] == (2, 4)
    assert On(job, cpus=64)._engines_need()[::2] == (2, 0)


def test_engines_that_never_fit_are_refused_before_training(tmp_path: Path) -> None:
    job = load_job(make_project(tmp_path), ["generate.tensor_parallel=4"]).job
    with pytest.raises(BadInput, match=r"^generate.engines: .*tensor_parallel to at most 2"):
        On(job, cpus=64, gpus=2, nodes=2).trainers()


def test_the_environment_of_workers_is_recorded_where_there_is_any(tmp_path: Path) -> None:
    job = load_job(make_project(tmp_path), ["cluster.env={NCCL_DEBUG: INFO}"]).job
    machine = On(job, cpus=4)
    for said in (machine.execution("train"), machine.execution("generate")):
        assert said["cluster.env"] == {"NCCL_DEBUG": "INFO"}
        assert TypeAdapter(Facts).validate_python({"executed": said})


class Held(Machine):
    """A machine that has room for everybody, and on which something of a phase is left."""

    def __init__(self) -> None:
        super().__init__(cpus=4, gpus=0)
        self.asked: list[tuple[str, tuple[Any, ...]]] = []
        self.told: list[str] = []
        self.say = self.told.append

    @contextlib.contextmanager
    def reserve(self, *_: Any) -> Iterator[Any]:
        placement = ForRanks(1)
        placement.mark = "the-mark"  # type: ignore[attr-defined]
        yield placement
        self.asked.append(("given back", ()))

    def on_nodes(self, function: Any, *arguments: Any, timeout: float) -> dict[Node, Any]:
        self.asked.append((function.__name__, arguments))
        first, second = (Node(name, name, 4, 0) for name in ("first", "second"))
        return {first: ["process 7 (engine) of the phase before does not end"], second: TimeoutError("no answer")}


class Releasing(On, wiring.Examination):
    pass


def test_a_phase_is_over_when_every_node_says_so(tmp_path: Path) -> None:
    workers = Releasing(load_job(make_project(tmp_path)).job, cpus=4)
    workers._cluster = cluster = Held()
    workers.release()
    assert cluster.asked == [], "nobody held anything"
    workers.trainers()
    workers.release()
    [given_back, (name, (mark, patience))] = cluster.asked
    assert given_back == ("given back", ()) and (name, mark) == ("phase_over", "the-mark") and patience > 0
    assert cluster.told == [
        "memory    node first: process 7 (engine) of the phase before does not end",
        "memory    node second: cannot be looked at: no answer",
    ]
    workers.release()
    assert len(cluster.asked) == 2, "it is over once"
