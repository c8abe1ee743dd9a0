"""Dispatch: how much longer a pool of engines samples than the best order would, with heavy-tailed lengths.

    python -m benchmarks.dispatch [--engines 1 2 4 8] [--prompts 400] [--samples 8] [--shard-prompts 32]
        [--sequences 256] [--sigma 0.8] [--alike 0] [--before] [--mean-tokens 800] [--seed 1] [--json]

The pool is the product's (workers/generation/pool.py); its engines give tokens by the cost model of `benchmarks.scale`
(an 8B model on one H100), in simulated time, to which the driver's own seconds are added. `--prompts` are for each
engine. The best order knows each sample's length beforehand: longest first, each to the engine that has the fewest
tokens. The given order differs from it in that nobody knows which samples are long: it is the best that a dispatch
which does not know either can be expected to reach. The prompt order begins with the prompts whose samples were the
longest in a round before: it says what knowing these would give, where a share `--alike` of the variance of the
logarithms of lengths is the prompts' own. With `--before` the pool knows how long they were in that round. No order is
faster than the lower bound: all tokens at the full rate, or the longest sample in an engine of its own.
"""

from __future__ import annotations

import argparse
import heapq
import json
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.measured import report
from benchmarks.scale.cluster import NoKills, SimulatedCluster
from benchmarks.scale.engines import KIND, lengths_of
from benchmarks.scale.files import make_model
from benchmarks.scale.model import M8, Case, Model
from benchmarks.scale.simulation import Simulation
from orchestrator.config import Generate
from orchestrator.records.rows import PROMPTS, SamplingPlan, Shard
from workers.generation.pool import GeneratorPool


def case_of(options: argparse.Namespace, engines: int) -> Case:
    """One engine a node, and no failures."""
    return Case(
        "dispatch",
        M8,
        nodes=engines,
        rounds=1,
        prompts=options.prompts * engines,
        samples=options.samples,
        mean_tokens=options.mean_tokens,
        sigma=options.sigma,
        max_tokens=round(5.12 * options.mean_tokens),
        shard_prompts=options.shard_prompts,
        node_gpus=1,
        rate_factor=0.0,
        alike=options.alike,
    )


def shards_of(case: Case, folder: Path) -> list[Shard]:
    """The commit units of a file of prompts, which is written."""
    count = case.prompts
    empty = pa.nulls(count)
    columns = [[f"p-{n}" for n in range(count)], ["?"] * count, [[1, 2]] * count, empty, ["7"] * count, empty, empty]
    source = folder / "prompts.parquet"
    pq.write_table(pa.table(columns, names=PROMPTS.names).cast(PROMPTS), source)
    size = case.shard_prompts
    starts = range(0, count, size)
    return [
        Shard(i, str(source), s, min(s + size, count), str(folder / f".{i:05d}.parquet-e1"))
        for i, s in enumerate(starts)
    ]


def run(case: Case, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """One pass over all prompts, and what it took beside the bounds."""
    shards = shards_of(case, folder)
    plan = SamplingPlan(case.samples, 1.0, 1.0, 0, case.max_tokens, (), options.seed)
    earlier = replace(plan, seed=plan.seed + 1)
    rows = [row for shard in shards for row in lengths_of(case, shard, plan)]
    lengths = [length for row in rows for length in row]
    if options.before:
        shards = [replace(shard, expected=tuple(map(mean, lengths_of(case, shard, earlier)))) for shard in shards]
    simulation = Simulation(case)
    cluster = SimulatedCluster(simulation, timeout=1e6, seed=1)
    settings = Generate(max_num_seqs=options.sequences, max_tokens=case.max_tokens)
    with cluster.reserve("engines", case.nodes, 1, 1) as placement:
        model = str(make_model(folder / "model", 0.5))
        with GeneratorPool(model, settings, 0, placement, KIND, calls=simulation, kills=NoKills) as pool:
            pool.wait_ready()
            simulation.accounts.settle(simulation.now)
            idle = sum(simulation.accounts.seconds[state] for state in ("engine idle", "driver"))
            began, calls = simulation.now, simulation.calls["call"]
            tokens = sum(facts["tokens"] for _, facts in pool.generate(shards, plan))
            took = simulation.now - began
            simulation.accounts.settle(simulation.now)
            idle = sum(simulation.accounts.seconds[state] for state in ("engine idle", "driver")) - idle
    assert tokens == sum(lengths)
    best = dealt(sorted(lengths, reverse=True), case.nodes, options.sequences, case.model)
    known = dealt(lengths, case.nodes, options.sequences, case.model)
    before = [row for shard in shards for row in lengths_of(case, shard, earlier)]
    order = sorted(range(len(rows)), key=lambda prompt: -sum(before[prompt]))
    by_prompt = dealt(
        [length for prompt in order for length in rows[prompt]], case.nodes, options.sequences, case.model
    )
    full = options.sequences * case.model.sequence_rate(options.sequences)
    lower = max(tokens / case.nodes / full, max(lengths) / case.model.sequence_rate(1))
    return {
        "makespan": round(took, 1),
        "best_order": round(best, 1),
        "given_order": round(known, 1),
        "prompt_order": round(by_prompt, 1),
        "lower_bound": round(lower, 1),
        "to_best_order": round(took / best, 3),
        "to_given_order": round(took / known, 3),
        "prompt_to_best": round(by_prompt / best, 3),
        "to_lower_bound": round(took / lower, 3),
        "idle_share": round(idle / took / case.nodes, 4),
        "calls": simulation.calls["call"] - calls,
    }


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def dealt(lengths: Sequence[int], engines: int, sequences: int, model: Model) -> float:
    """Seconds until the last engine is done, where each sample in turn goes to the engine with the fewest tokens, and
    an engine has all of its own at once."""
    loads: list[tuple[int, int]] = [(0, engine) for engine in range(engines)]
    parts: list[list[int]] = [[] for _ in range(engines)]
    for length in lengths:
        load, engine = heapq.heappop(loads)
        parts[engine].append(length)
        heapq.heappush(loads, (load + length, engine))
    return max(alone(part, sequences, model) for part in parts)


def alone(lengths: Sequence[int], sequences: int, model: Model) -> float:
    """Seconds in which an engine draws samples of these lengths in this order, so many at once."""
    waiting, active = iter(lengths), list[float]()
    served = now = 0.0
    for length in waiting:
        heapq.heappush(active, float(length))
        if len(active) == sequences:
            break
    while active:
        number, end = len(active), heapq.heappop(active)
        now += (end - served) / model.sequence_rate(number)
        served = end
        if (length := next(waiting, None)) is not None:
            heapq.heappush(active, served + length)
    return now


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engines", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--prompts", type=int, default=400)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--shard-prompts", type=int, default=32)
    parser.add_argument("--sequences", type=int, default=256)
    parser.add_argument("--mean-tokens", type=float, default=800.0)
    parser.add_argument("--sigma", type=float, default=0.8)
    parser.add_argument("--alike", type=float, default=0.0)
    parser.add_argument("--before", action="store_true")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    found: dict[str, Any] = {}
    for engines in options.engines:
        with tempfile.TemporaryDirectory() as name:
            found[f"{engines} engines"] = run(case_of(options, engines), options, Path(name))
    if options.json:
        told = {name: value for name, value in vars(options).items() if name != "json"}
        print(json.dumps(report("dispatch", told, found)))
        return
    columns = list(next(iter(found.values())))
    print(f"{'':12}" + "".join(f"{column:>16}" for column in columns))
    for row, values in found.items():
        print(f"{row:12}" + "".join(f"{value:>16}" for value in values.values()))


if __name__ == "__main__":
    main()
