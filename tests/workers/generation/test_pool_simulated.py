"""What the pool does about lost nodes and hung engines, in simulated time and without Ray: nothing is waited for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.scale.cluster import NoKills, SimulatedCluster, Worker
from benchmarks.scale.engines import KIND
from benchmarks.scale.files import make_model
from benchmarks.scale.model import CASES, Case, Model
from benchmarks.scale.simulation import Simulation
from orchestrator.config import Generate
from orchestrator.records.rows import PROMPTS, SamplingPlan, Shard
from workers.generation.pool import GeneratorPool

ONE = Model("one", 8e9, engine_gpus=8, full_batch=1, full_rate=1.0, alone_step=0.5)
CASE = replace(CASES["8b"], model=ONE, nodes=2, rate_factor=0.0, sigma=0.0, mean_tokens=1000.0)
PLAN = SamplingPlan(samples=1, temperature=1.0, top_p=1.0, top_k=0, max_tokens=2000, stop=(), seed=1)


class Cluster:
    """A simulated cluster with a pool of one engine a node, and shards of one prompt, of 1,000 s each."""

    def __init__(self, folder: Path, prompts: int, case: Case = CASE) -> None:
        self.simulation = Simulation(case)
        self.cluster = SimulatedCluster(self.simulation, timeout=1e5, seed=1)
        rows = [[f"p-{n}" for n in range(prompts)], ["?"] * prompts, [[1, 2]] * prompts]
        empty = pa.nulls(prompts)
        columns = [*rows, empty, ["7"] * prompts, empty, empty]
        pq.write_table(pa.table(columns, names=PROMPTS.names).cast(PROMPTS), folder / "prompts.parquet")
        source = str(folder / "prompts.parquet")
        self.shards = [Shard(n, source, n, n + 1, str(folder / f"{n:05d}.parquet")) for n in range(prompts)]
        self.model = str(make_model(folder / "model", 0.5))

    def facts(self, **changes: Any) -> Iterator[dict[str, Any]]:
        settings = Generate(max_num_seqs=1, max_tokens=2000, **changes)
        with self.cluster.reserve("engines", self.simulation.case.nodes, 8, 8) as placement:
            arguments: tuple[Any, ...] = (self.model, settings, 0, placement, KIND)
            with GeneratorPool(*arguments, calls=self.simulation, kills=NoKills) as pool:
                pool.wait_ready()
                yield from (facts for _, facts in pool.generate(self.shards, PLAN))

    def busy(self) -> list[Worker]:
        return [worker for place in self.cluster.places for worker in place.workers if worker.state == "engine works"]


def test_no_prompt_is_to_blame_for_lost_nodes_however_many_it_was_on(tmp_path: Path) -> None:
    one = Cluster(tmp_path, prompts=1, case=replace(CASE, nodes=1))

    def fail() -> None:
        if one.busy() and one.cluster.places[0].number < 4:
            one.cluster.places[0].fail()

    for number in range(20):  # until another node is there, and has begun with the prompt, nothing can fail
        one.simulation.at(500.0 + 900.0 * number, fail)
    [facts] = one.facts()
    assert facts["samples"] == 1 and "quarantined" not in facts
    assert len(facts["engines_lost"]) == 4 and all("the node that it was on" in why for why in facts["engines_lost"])


@pytest.mark.parametrize("limit", [60.0, 3600.0])
def test_an_engine_that_hangs_is_replaced_after_its_time(tmp_path: Path, limit: float) -> None:
    two = Cluster(tmp_path, prompts=2)

    def hang() -> None:
        worker = two.busy()[0]
        worker.stopped()
        worker.hangs = True

    two.simulation.at(500.0, hang)
    found = list(two.facts(stall_timeout=limit))
    assert [facts["samples"] for facts in found] == [1, 1]
    [why] = [why for facts in found for why in facts.get("engines_lost", [])]
    assert f"made no progress for {limit:g} s" in why
    # The prompt goes to whichever engine is free first: one that is started in its place, or the other one.
    start = CASE.costs.process + CASE.costs.engine + CASE.costs.reading(ONE.weights, 1) if limit < 1000 else 0.0
    assert two.simulation.now == pytest.approx(500.0 + limit + start + 1000.0, abs=30.0)
