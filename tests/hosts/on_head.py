"""What tests run on a host: drivers of a cluster without the rest of a run. Each prints its outcome as JSON."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from orchestrator import config
from orchestrator.driver.cluster import Cluster
from orchestrator.driver.load import loads_of, sampling
from orchestrator.errors import RatchetError
from orchestrator.records.progress import Watch
from orchestrator.records.rows import PROMPTS, SamplingPlan, Shard
from tests.support.stand_in_engine import StandInEngine
from workers.files import write_table
from workers.generation.engine import EngineKind
from workers.generation.pool import GeneratorPool
from workers.supervision.load import load

EPOCHS = 200
"""Of two steps each, in `train`."""
PLAN = SamplingPlan(samples=2, temperature=1.0, top_p=1.0, top_k=0, max_tokens=4, stop=(), seed=5)


class SlowEngine(StandInEngine):
    """Takes its time over each prompt, and says from which host."""

    def draw(self, requests: Any, plan: SamplingPlan) -> Any:
        for place, sample in super().draw(requests, plan):
            time.sleep(float((self.folder / "seconds").read_text()))
            yield place, sample


SLOW = EngineKind("the slow stand-in", SlowEngine)


def cluster_of(address: str, folder: Path, timeout: float) -> Cluster:
    made = Cluster(config.Cluster(address=address, timeout=timeout), folder / "logs")
    made.say = lambda line: print(line, flush=True)
    return made


def sample(address: str, folder: str, shards: int, timeout: float) -> None:
    """Two engines draw shards of eight prompts."""
    place = Path(folder)
    rows = [{"prompt_id": f"p{n}", "text": f"p{n}", "token_ids": [n], "gold": "1"} for n in range(8 * shards)]
    write_table(pa.Table.from_pylist(rows, PROMPTS), place / "prompts.parquet")
    asked = [
        Shard(n, str(place / "prompts.parquet"), 8 * n, 8 * n + 8, str(place / f"samples/.{n:05d}.parquet-e1"))
        for n in range(shards)
    ]
    (place / "samples").mkdir(exist_ok=True)
    lost: list[str] = []
    with (
        cluster_of(address, place, timeout) as cluster,
        cluster.reserve("engines", 2, 1, 0) as placement,
        GeneratorPool(folder, config.Generate(), 5, placement, SLOW, 1.0) as pool,
    ):
        pool.wait_ready()
        print("ready", flush=True)
        for shard, facts in pool.generate(asked, PLAN):
            lost += facts.get("engines_lost", [])
            print(f"shard {shard.index}", flush=True)
    print(json.dumps({"lost": lost}), flush=True)


def take_turns(address: str, folder: str, name: str, jobs: int, phases: int, seconds: float, timeout: float) -> None:
    """One of so many jobs that all need the whole cluster for each of their phases."""
    place = Path(folder)
    with cluster_of(address, place / name, timeout) as cluster:
        (place / f"{name}.ready").touch()
        while len(list(place.glob("*.ready"))) < jobs:
            time.sleep(0.1)
        for phase in range(phases):
            with cluster.reserve(f"phase {phase}", 2, 1, 0):
                print(f"holds {phase}", flush=True)
                with open(place / "turns", "a") as file:
                    file.write(name)
                time.sleep(seconds)
    print(json.dumps({"done": phases}), flush=True)


def reserve(address: str, folder: str, count: int, cpus: int, timeout: float) -> None:
    """Reserve, and say where that is, or the error's exit code and message."""
    try:
        with (
            cluster_of(address, Path(folder), timeout) as cluster,
            cluster.reserve("ranks", count, cpus, 0) as placement,
        ):
            print(json.dumps({"placed": placement.placed()}), flush=True)
    except RatchetError as error:
        print(json.dumps({"code": error.exit_code, "message": str(error)}), flush=True)


def await_autoscaler(address: str, folder: str) -> None:
    """Until Ray's autoscaler, which starts after all else, has said that it adds nodes."""
    with cluster_of(address, Path(folder), 60.0) as cluster:
        while not cluster._scales():
            time.sleep(1)
    print(json.dumps({}), flush=True)


def train(address: str, folder: str, timeout: float) -> None:
    """Two ranks train, in many short steps."""
    from tests.real.test_trainer_real import SETTINGS, make_model, make_pairs, make_plan, scoring
    from workers.training.group import TrainerGroup

    place = Path(folder)
    model, pairs = make_model(place / "seed"), make_pairs(place / "pairs.parquet")
    settings = config.Train(**(SETTINGS | {"ranks": 2, "zero": 2, "epochs": EPOCHS, "save_every": 2}))
    plan = make_plan(place / "work", model, pairs)
    reference = str(place / "reference.parquet")

    def told(row: dict[str, Any]) -> None:
        print(f"step {row['step']}", flush=True)

    try:
        with (
            cluster_of(address, place, timeout) as cluster,
            cluster.reserve("train.ranks", 2, 1, 0) as placement,
            TrainerGroup(settings, placement) as group,
        ):
            group.score(scoring(plan), reference)
            facts = group.train(plan, reference, told)
        print(json.dumps({key: facts[key] for key in ("restarts", "resumed_from", "steps")}), flush=True)
    except RatchetError as error:
        print(json.dumps({"code": error.exit_code, "message": str(error)}), flush=True)


def looks(address: str, folder: str, timeout: float) -> None:
    """How busy the nodes are, told a watch until the folder has a file `enough`."""
    seen: dict[str, set[str]] = {}

    class Seen(Watch):
        def measure(self, what: str, number: int, values: Mapping[str, float]) -> None:
            if seen.setdefault(what, set()) != set(values):
                seen[what] = set(values)
                print(f"looked at {what}", flush=True)

    place = Path(folder)
    with cluster_of(address, place, timeout) as cluster, sampling(loads_of(cluster, load), Seen(), 1.0):
        while not (place / "enough").exists():
            time.sleep(0.2)
        seen.clear()
        time.sleep(10.0)
    print(json.dumps({"last": {what: sorted(values) for what, values in seen.items()}}))
