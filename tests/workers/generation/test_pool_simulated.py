"""What the pool does about lost nodes and hung engines, in simulated time and without Ray: nothing is waited for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.scale.cluster import NoKills, SimulatedCluster, Worker
from benchmarks.scale.engines import KIND, SimulatedEngine, lengths_of
from benchmarks.scale.files import make_model
from benchmarks.scale.model import CASES, Case, Model
from benchmarks.scale.simulation import ProcessDied, Simulation
from orchestrator.config import Generate
from orchestrator.records.rows import PROMPTS, SamplingPlan, Shard
from workers.generation.engine import EngineKind
from workers.generation.pool import GeneratorPool

ONE = Model("one", 8e9, engine_gpus=8, full_batch=1, full_rate=1.0, alone_step=0.5)
CASE = replace(CASES["8b"], model=ONE, nodes=2, rate_factor=0.0, sigma=0.0, mean_tokens=1000.0)
PLAN = SamplingPlan(samples=1, temperature=1.0, top_p=1.0, top_k=0, max_tokens=2000, stop=(), seed=1)


class Cluster:
    """A simulated cluster with a pool of one engine a node, and shards of so many prompts, of 1,000 s each."""

    def __init__(self, folder: Path, prompts: int, case: Case = CASE, size: int = 1, kind: EngineKind = KIND) -> None:
        folder.mkdir(exist_ok=True)
        self.kind = kind
        self.simulation = Simulation(case)
        self.cluster = SimulatedCluster(self.simulation, timeout=1e5, seed=1)
        rows = [[f"p-{n}" for n in range(prompts)], ["?"] * prompts, [[1, 2]] * prompts]
        empty = pa.nulls(prompts)
        columns = [*rows, empty, ["7"] * prompts, empty, empty]
        pq.write_table(pa.table(columns, names=PROMPTS.names).cast(PROMPTS), folder / "prompts.parquet")
        source = str(folder / "prompts.parquet")
        self.outputs = [folder / f".{n:05d}.parquet-e1" for n in range(prompts // size)]
        self.shards = [Shard(n, source, size * n, size * n + size, str(file)) for n, file in enumerate(self.outputs)]
        self.model = str(make_model(folder / "model", 0.5))

    def facts(self, plan: SamplingPlan = PLAN, **changes: Any) -> Iterator[dict[str, Any]]:
        settings = Generate.model_validate({"max_num_seqs": 1, "max_tokens": 2000} | changes)
        with self.cluster.reserve("engines", self.simulation.case.nodes, 8, 8) as placement:
            arguments: tuple[Any, ...] = (self.model, settings, 0, placement, self.kind)
            with GeneratorPool(*arguments, calls=self.simulation, kills=NoKills) as pool:
                pool.wait_ready()
                yield from (facts for _, facts in pool.generate(self.shards, plan))

    def rows(self) -> list[tuple[str, int]]:
        rows = [row for file in self.outputs for row in pq.read_table(file).to_pylist()]
        return [(row["prompt_id"], row["sample_index"]) for row in rows]

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


class Poisoned(SimulatedEngine):
    """Dies when it has had a certain prompt for a while."""

    def _generate(self, shard: Shard, plan: SamplingPlan, only: Any, without: Any, ref: Any) -> None:
        super()._generate(shard, plan, only, without, ref)
        if any("p-5" in call.left for call in self._calls):
            self.simulation.after(10.0, lambda: self.dead or self.lost(ProcessDied(), 1.0))


TAILED = replace(CASE, sigma=0.8, mean_tokens=400.0)
SEVERAL = replace(PLAN, samples=3)


def test_the_last_shards_go_to_all_engines_which_finish_together(tmp_path: Path) -> None:
    """One shard is left, and one engine would take 16,000 s for it."""
    two = Cluster(tmp_path, prompts=16, size=16)
    [facts] = two.facts()
    start = CASE.costs.process + CASE.costs.engine + CASE.costs.reading(ONE.weights, 2)
    assert facts["samples"] == 16 and two.simulation.now == pytest.approx(start + 8000.0, abs=30.0)


def test_the_files_are_those_that_one_engine_writes(tmp_path: Path) -> None:
    one = Cluster(tmp_path / "one", prompts=24, size=8, case=replace(TAILED, nodes=1))
    four = Cluster(tmp_path / "four", prompts=24, size=8, case=replace(TAILED, nodes=4))
    for cluster in (one, four):
        told = list(cluster.facts(SEVERAL, max_num_seqs=8))
        assert sum(facts["samples"] for facts in told) == 72
        assert sum(facts["tokens"] for facts in told) == sum(
            sum(pq.read_table(file)["num_tokens"].to_pylist()) for file in cluster.outputs
        )
    assert [file.read_bytes() for file in four.outputs] == [file.read_bytes() for file in one.outputs]
    assert sorted(tmp_path.glob("four/.*")) == four.outputs, "nothing is left of the parts"


class Noting(SimulatedEngine):
    """Notes what it is asked for."""

    asked: list[Shard]

    def _generate(self, shard: Shard, plan: SamplingPlan, only: Any, without: Any, ref: Any) -> None:
        self.asked.append(shard)
        super()._generate(shard, plan, only, without, ref)


def test_parts_with_long_samples_are_begun_first_where_that_is_known(tmp_path: Path) -> None:
    """Which changes no file."""
    found = {}
    for name in ("unknown", "known"):
        Noting.asked = []
        case = replace(TAILED, nodes=3)
        cluster = Cluster(tmp_path / name, prompts=60, size=12, case=case, kind=replace(KIND, make=Noting))
        lengths = [[fmean(row) for row in lengths_of(case, shard, SEVERAL)] for shard in cluster.shards]
        if name == "known":
            pairs = zip(cluster.shards, lengths, strict=True)
            cluster.shards = [replace(shard, expected=tuple(expected)) for shard, expected in pairs]
        list(cluster.facts(SEVERAL, max_num_seqs=8))
        found[name] = [file.read_bytes() for file in cluster.outputs]
        flat = [length for unit in lengths for length in unit]
        parts = [flat[shard.start] for shard in Noting.asked if shard.stop - shard.start == 1]
        assert len(parts) >= 48
        assert (parts == sorted(parts, reverse=True)) == (name == "known")
    assert found["known"] == found["unknown"]


def test_a_death_while_shards_are_in_parts_loses_no_finished_prompt_and_doubles_none(tmp_path: Path) -> None:
    two = Cluster(tmp_path, prompts=32, size=16, case=TAILED)
    two.simulation.at(1500.0, lambda: two.busy()[0].lost(ProcessDied(), 1.0))
    told = list(two.facts(SEVERAL, max_num_seqs=4))
    assert two.rows() == [(f"p-{n}", index) for n in range(32) for index in range(3)]
    assert sum(len(facts.get("engines_lost", [])) for facts in told) == 1
    assert not [facts for facts in told if "quarantined" in facts]
    tokens = sum(facts["tokens"] for facts in told)
    two.simulation.accounts.settle(two.simulation.now)
    seconds = two.simulation.accounts.seconds["sampling"]
    assert seconds == pytest.approx(tokens / ONE.full_rate * ONE.engine_gpus), "each was drawn to the end once"


def test_a_prompt_that_takes_down_engines_is_left_out_of_a_shard_in_parts(tmp_path: Path) -> None:
    two = Cluster(tmp_path, prompts=16, size=8, case=TAILED, kind=EngineKind("poisoned", Poisoned))
    told = list(two.facts(SEVERAL, max_num_seqs=4))
    assert two.rows() == [(f"p-{n}", index) for n in range(16) if n != 5 for index in range(3)]
    assert sorted(facts.get("quarantined", []) for facts in told) == [[], ["p-5"]]
    assert sum(len(facts.get("engines_lost", [])) for facts in told) == 3


def test_an_engine_is_full_of_shards_that_are_smaller_than_it(tmp_path: Path) -> None:
    """Sixteen at once, in shards of one prompt and one sample."""
    one = Cluster(tmp_path, prompts=64, case=replace(CASE, nodes=1, model=replace(ONE, full_batch=16, full_rate=16.0)))
    most = 0

    def look() -> None:
        nonlocal most
        most = max([most, *(len(worker._active) for worker in one.busy() if isinstance(worker, SimulatedEngine))])

    for second in range(500, 2000, 100):
        one.simulation.at(float(second), look)
    assert len(list(one.facts(max_num_seqs=16))) == 64 and most == 16
