"""The workers of a driver, wired as those of a run are, but for what is on the other side of Ray."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from benchmarks.scale.cluster import NoKills, SimulatedCluster, Worker
from benchmarks.scale.engines import KIND
from benchmarks.scale.ranks import SimulatedRank
from benchmarks.scale.simulation import Ref, Simulation
from orchestrator.config import Grade, Job, Train
from orchestrator.driver.wiring import RealWorkers
from orchestrator.records import counts
from orchestrator.records.parquet import read_table
from orchestrator.records.rows import CAUSES, GRADERS_VERSION, PROMPTS, VERDICTS, Problem, Shard, TokenizingPlan
from workers.files import write_table
from workers.generation.pool import GeneratorPool
from workers.grading.group import GraderGroup
from workers.training.group import TrainerGroup


class SimulatedGrader(Worker):
    """A grader actor: shards one after the other, each by all its processes."""

    gpus = 0

    def __init__(self, simulation: Simulation, options: Mapping[str, Any], *_: Any) -> None:
        super().__init__(simulation, {"place": simulation.cluster.head})
        self._free_at, self._graded = 0.0, 0

    def starting(self) -> float:
        return 0.0

    def answer(self, name: str, arguments: tuple[Any, ...], ref: Ref) -> None:
        if name == "progress":
            ref.complete(self._graded)
            return
        shard, golds = arguments
        costs, now = self.simulation.case.costs, self.simulation.now
        seconds = (shard.stop - shard.start) * costs.grade / costs.graders
        self._free_at = max(self._free_at, now) + seconds
        self.simulation.at(self._free_at, lambda: self._grade(shard, golds, seconds, ref))

    def _grade(self, shard: Shard, golds: Mapping[str, str], seconds: float, ref: Ref) -> None:
        if self.dead:
            return
        rows = read_table(shard.source, columns=["prompt_id", "sample_index", "text", "finish_reason"])
        rows = rows.slice(shard.start, shard.stop - shard.start)
        given = zip(*(rows[name].to_pylist() for name in ("prompt_id", "text", "finish_reason")), strict=True)
        answers = [text.rpartition("Final answer: ")[2] if end == "stop" else None for _, text, end in given]
        prompts = rows["prompt_id"].to_pylist()
        verdicts = [
            "ungradable" if answer is None else "correct" if answer == golds[prompt] else "wrong"
            for prompt, answer in zip(prompts, answers, strict=True)
        ]
        causes = ["truncated" if answer is None else None for answer in answers]
        rules = [None if answer is None else "final_answer" for answer in answers]
        columns = {"prompt_id": rows["prompt_id"], "sample_index": rows["sample_index"], "verdict": pa.array(verdicts)}
        columns |= {"extracted": pa.array(answers), "rule": pa.array(rules), "cause": pa.array(causes, pa.string())}
        empty = pa.nulls(rows.num_rows)
        table = pa.table([columns.get(name, empty) for name in VERDICTS.names], names=VERDICTS.names).cast(VERDICTS)
        found, why = Counter(verdicts), Counter(causes)
        facts: dict[str, Any] = {name: found[name] for name in ("correct", "wrong", "ungradable")}
        facts |= {cause: why[cause] for cause in CAUSES} | {"graders_version": GRADERS_VERSION}
        facts |= counts.by_prompt(prompts, verdicts, causes, answers)
        facts["rules"] = dict(Counter(rule or "none" for rule in rules))
        self._graded += rows.num_rows
        ref.complete(facts | {"seconds": round(seconds, 4), "file": write_table(table, shard.written)})


class HashedAfterwards(TrainerGroup):
    """The files of a checkpoint here are empty: what the driver takes to hash real ones passes as soon as they are
    there."""

    def train(self, *arguments: Any, **named: Any) -> dict[str, Any]:
        facts = super().train(*arguments, **named)
        hashed(self._calls, 1)
        return facts


def hashed(simulation: Any, checkpoints: int) -> None:
    """The driver has hashed so many checkpoints."""
    costs, model = simulation.case.costs, simulation.case.model
    with simulation.inside():
        simulation.charge("hash", checkpoints * model.weights / costs.hash)


class SimulatedWorkers(RealWorkers):
    """Those of a run, on a simulated cluster."""

    early = False

    def __init__(self, job: Job, logs: Path, simulation: Simulation, seed: int) -> None:
        super().__init__(job, logs)
        self._simulation = simulation
        self._connected: Any = SimulatedCluster(simulation, job.cluster.timeout, seed)
        self._cluster: Any = self._connected

    def settle(self, kept: Mapping[str, Any] | None, record: Any, model: str) -> None:
        """When a driver begins. It hashes the base model, and, as it comes to their steps, what is committed."""
        super().settle(kept, record, model)
        checkpoints = list(self._run_dir.glob("rounds/*/checkpoint"))
        hashed(self._simulation, 1 + len(checkpoints))

    def tokenize(self, problems: Sequence[Problem], plan: TokenizingPlan, output: str) -> dict[str, Any]:
        """A token is four characters."""
        case = self._simulation.case
        with self._simulation.inside():
            rows = {
                "prompt_id": [p.prompt_id for p in problems],
                "text": [p.text for p in problems],
                "token_ids": [[11] * max(1, len(p.text) // 4) for p in problems],
                "gold": [p.gold for p in problems],
            }
            empty = pa.nulls(len(problems))
            columns = [pa.array(rows[name]) if name in rows else empty for name in PROMPTS.names]
            table = pa.table(columns, names=PROMPTS.names).cast(PROMPTS)
            file = write_table(table, output)
            self._simulation.leap(case.costs.tokenise * len(problems), "between phases")
        return {"prompts": len(problems), "dropped": 0, "file": file}

    def _engine_pool(self, placement: Any) -> Any:
        say, calls = self._connected.say, self._simulation
        arguments = (None, self._fitted.generate(), self._job.seed, placement, KIND)
        return GeneratorPool(*arguments, say=say, calls=calls, kills=NoKills)

    def _grader_group(self, settings: Grade, log: str | None) -> Any:
        grader: Any = SimulatedGrader
        return GraderGroup(settings, actor=grader, calls=self._simulation, kills=NoKills)

    def _ranks(self, settings: Train, placement: Any) -> Any:
        rank, calls = SimulatedRank, self._simulation
        return HashedAfterwards(settings, placement, halving=self._halving, rank=rank, kills=NoKills, calls=calls)
