"""Hand-written workers at the loop's seam: no Ray, no vLLM, no DeepSpeed, and a model that is one number.

A model folder holds that number, its skill: the chance that a sample is right. Training raises it.
Everything is deterministic, so that an interrupted and resumed run can be compared with an undisturbed one.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from orchestrator.config import Grade, Job
from orchestrator.config.load import load_job
from orchestrator.driver.drive import drive
from orchestrator.driver.signals import signals
from orchestrator.records import counts
from orchestrator.records.harness import SCORES
from orchestrator.records.masks import PAIR_MASKS, SAMPLE_MASK, masked
from orchestrator.records.progress import UNWATCHED, Watch
from orchestrator.records.rewards import REWARD_CAUSES, REWARDS, RewardPlan, RewardTask, RewardWorkers
from orchestrator.records.rows import (
    CAUSES,
    DECODED,
    GRADERS_VERSION,
    PROBE,
    PROMPTS,
    REFERENCE,
    SAMPLES,
    VERDICTS,
    Problem,
    SamplingPlan,
    ScoringPlan,
    Shard,
    TokenizingPlan,
    TrainingPlan,
)
from orchestrator.reports.meters import Meters
from tests.support.stand_in_harness import StandInHarness
from workers.files import make_folder, write_table

EOS = 0


def make_model(folder: Path, skill: float) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return fill_model(folder, skill)


def fill_model(folder: Path, skill: float) -> Path:
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_text(json.dumps({"skill": skill}))
    return folder


def make_reward_model(folder: Path) -> Path:
    """One that is found and kept as such; rewards follow from the texts alone (`StandInRewarders`)."""
    make_model(folder, 1.0)
    (folder / "tokenizer.json").write_text("{}")
    return folder


def skill_of(folder: str) -> float:
    return float(json.loads((Path(folder) / "model.safetensors").read_text())["skill"])


def chance(*what: object) -> float:
    digest = hashlib.sha256(repr(what).encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def with_masks(rows: list[dict[str, Any]], schema: pa.Schema) -> pa.Table:
    """Rows as a table, with a column of masks where any row has one."""
    return pa.Table.from_pylist(rows, masked(schema) if any(row.get(SAMPLE_MASK) for row in rows) else schema)


class StandIns:
    """The workers of one driver. `on_call(name)` is told of every piece of work before it is done, and may raise."""

    engine = "vLLM"  # whose samples the stand-ins' are taken for
    dtype = "own"

    def __init__(
        self, gain: float = 0.2, on_call: Callable[[str], None] = lambda name: None, steps: int = 1, peak: int = 100
    ) -> None:
        self.gain, self.steps, self.peak = gain, steps, peak
        self.calls: Counter[str] = Counter()
        self.kernel = "sdpa"
        self.job: Job | None = None
        """Of whom the work is, where somebody has said so (`run_job`)."""
        self._on_call = on_call
        self.tasks = StandInHarness(self.call)

    def __enter__(self) -> StandIns:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def call(self, name: str) -> None:
        self.calls[name] += 1
        self._on_call(name)

    def watch(self, plan: TrainingPlan) -> None:
        """For tests that look at what training is asked to do."""

    def tokenize(self, problems: Sequence[Problem], plan: TokenizingPlan, output: str) -> dict[str, Any]:
        self.call("tokenize")
        rows = [
            {"prompt_id": p.prompt_id, "text": p.text + plan.opening, "gold": p.gold}
            | {"token_ids": list((p.text + plan.opening).encode())}
            | {"solution": p.solution, "solution_token_ids": p.solution and [*p.solution.encode(), EOS]}
            for p in problems
        ]
        return {"prompts": len(rows), "dropped": 0, "file": write_table(pa.Table.from_pylist(rows, PROMPTS), output)}

    def token_ends(self, model: str, source: str, output: str) -> dict[str, Any]:
        """A token is a byte, and all text is ASCII."""
        self.call("token_ends")
        rows = pq.read_table(source).to_pylist()
        for row in rows:
            row["text"] = bytes(token for token in row["token_ids"] if token != EOS).decode()
            row["token_ends"] = [min(i + 1, len(row["text"])) for i in range(len(row["token_ids"]))]
        return {"rows": len(rows), "file": write_table(with_masks(rows, DECODED), output)}

    def engines(self, model: str, probe: Path | None = None) -> StandInEngines:
        return StandInEngines(self, skill_of(model))

    def graders(self, settings: Any) -> StandInGraders:
        return StandInGraders(self)

    def harness(self) -> StandInHarness:
        return self.tasks

    def rewarders(self, plan: RewardPlan, how: RewardWorkers) -> StandInRewarders:
        return StandInRewarders(self, plan)

    def trainers(self) -> StandInTrainers:
        return StandInTrainers(self)

    def report_to(self, say: Callable[[str], None], meters: Meters, logs: Path, watch: Watch = UNWATCHED) -> None:
        pass

    def settle(self, kept: Mapping[str, Any] | None, record: Callable[[Mapping[str, Any]], None], model: str) -> None:
        """Nothing is left to this machine."""

    def execution(self, of: str) -> dict[str, Any]:
        said: dict[str, Any] = {"device": "cpu"} | ({"train.attention": self.kernel} if of == "train" else {})
        if self.job is None:
            return said
        train, generate = self.job.train, self.job.generate
        if of == "train":
            said |= {"train.ranks": train.num_ranks, "train.zero": train.stage, "train.compile": train.compiled}
            sizes = {"train.tokens_per_microbatch": train.microbatch}
            return said | sizes | {"train.activation_checkpointing": train.checkpointing}
        return said | {"generate.engines": generate.num_engines, "generate.tensor_parallel": generate.spread}


class StandInEngines:
    def __init__(self, workers: StandIns, skill: float) -> None:
        self.workers, self.skill = workers, skill

    def generate(self, shards: list[Shard], plan: SamplingPlan) -> Iterator[tuple[Shard, dict[str, Any]]]:
        for shard in shards:
            self.workers.call("generate")
            prompts = pq.read_table(shard.source).slice(shard.start, shard.stop - shard.start).to_pylist()
            rows = [self._sample(p, i, plan) for p in prompts for i in plan.sample_indices]
            file = write_table(with_masks(rows, SAMPLES), shard.output)
            tokens = sum(row["num_tokens"] for row in rows)
            cut = sum(row["finish_reason"] == "length" for row in rows)
            yield shard, {"samples": len(rows), "tokens": tokens, "truncated": cut, "seconds": 0.0, "file": file}

    def _sample(self, prompt: dict[str, Any], index: int, plan: SamplingPlan) -> dict[str, Any]:
        right = chance(prompt["prompt_id"], index, plan.seed) < self.skill
        if "gold" not in prompt:  # a request of a harness
            prompt["gold"] = "right"
        text = f"sample {index}\nFinal answer: {prompt['gold'] if right else prompt['gold'] + '0'}"
        ids = [*text.encode(), EOS]
        return {
            "prompt_id": prompt["prompt_id"],
            "sample_index": index,
            "text": text,
            "token_ids": ids,
            "finish_reason": "stop",
            "num_tokens": len(ids),
        }

    def score(self, shards: list[Shard]) -> Iterator[tuple[Shard, dict[str, Any]]]:
        for shard in shards:
            self.workers.call("score")
            rows = pq.read_table(shard.source).slice(shard.start, shard.stop - shard.start).to_pylist()
            said = [chance(row["prompt_id"], row["completion_token_ids"]) for row in rows]
            names = [row["prompt_id"] for row in rows]
            columns = [names, [-one for one in said], [one < self.skill for one in said]]
            write_table(pa.table(columns, schema=SCORES), shard.output)
            yield shard, {"requests": len(rows), "tokens": 4 * len(rows)}

    def logprobs(self, prompts: list[list[int]], completions: list[list[int]]) -> list[list[float | None]]:
        return [[-self.skill * len(completion) for completion in completions]]


class StandInGraders:
    version: ClassVar[dict[str, int]] = {"graders_version": GRADERS_VERSION}
    """What these graders say of themselves."""

    def __init__(self, workers: StandIns) -> None:
        self.workers = workers
        self._queue: list[tuple[Shard, dict[str, str]]] = []

    def submit(self, shard: Shard, golds: dict[str, str]) -> None:
        self._queue.append((shard, golds))

    def finished(self) -> list[tuple[Shard, dict[str, Any]]]:
        return []

    def drain(self) -> Iterator[tuple[Shard, dict[str, Any]]]:
        while self._queue:
            shard, golds = self._queue.pop(0)
            self.workers.call("grade")
            samples = pq.read_table(shard.source).slice(shard.start, shard.stop - shard.start).to_pylist()
            rows = [self._verdict(sample, golds[sample["prompt_id"]]) for sample in samples]
            said = Counter(row["verdict"] for row in rows)
            causes = Counter(row["cause"] for row in rows)
            facts = {name: said[name] for name in ("correct", "wrong", "ungradable")}
            facts |= {cause: causes[cause] for cause in CAUSES} | self.version
            columns = ([row[name] for row in rows] for name in ("prompt_id", "verdict", "cause", "extracted"))
            facts |= counts.by_prompt(*columns)
            file = write_table(pa.Table.from_pylist(rows, VERDICTS), shard.output)
            rules = dict(Counter(row["rule"] or "none" for row in rows))
            yield shard, facts | {"rules": rules, "seconds": 0.0, "file": file}

    def _verdict(self, sample: dict[str, Any], gold: str) -> dict[str, Any]:
        answer = sample["text"].rpartition("Final answer: ")[2]
        none = {"verdict": "ungradable", "extracted": None, "rule": None, "cause": "gold"} if not gold else {}
        return {
            "prompt_id": sample["prompt_id"],
            "sample_index": sample["sample_index"],
            "verdict": "correct" if answer == gold else "wrong",
            "extracted": answer,
            "rule": "final_answer",
            "reason": None,
            "cause": None,
        } | none


class StandInRewarders:
    """The reward of a text is a number that follows from it, and so is that of a step; a token is a character."""

    def __init__(self, workers: StandIns, plan: RewardPlan) -> None:
        self.workers, self.plan = workers, plan

    def score(self, tasks: Sequence[RewardTask]) -> Iterator[tuple[RewardTask, dict[str, Any]]]:
        for task in tasks:
            self.workers.call("reward")
            table = pq.read_table(task.prompts, columns=["prompt_id", "text"]).slice(task.start, task.stop - task.start)
            prompts = dict(zip(*(table[name].to_pylist() for name in ("prompt_id", "text")), strict=True))
            rows = [self._row(prompts[row["prompt_id"]], row) for row in pq.read_table(task.samples).to_pylist()]
            file = write_table(pa.Table.from_pylist(rows, REWARDS), task.output)
            rewards, causes = [row["reward"] for row in rows if row["cause"] is None], Counter(r["cause"] for r in rows)
            facts = {"answers": len(rows), "rewarded": len(rewards), "tokens": sum(row["num_tokens"] for row in rows)}
            facts |= {cause: causes[cause] for cause in REWARD_CAUSES}
            facts |= {"mean_reward": sum(rewards) / len(rewards) if rewards else None}
            yield task, facts | {"form": "join", "seconds": 0.0, "file": file}

    def _row(self, prompt: str, row: dict[str, Any]) -> dict[str, Any]:
        texts = row["steps"] if self.plan.kind == "process" else [row["text"]]
        size = len(prompt) + sum(map(len, texts))
        known = {name: row[name] for name in ("prompt_id", "sample_index")} | {"num_tokens": size}
        if self.plan.max_tokens is not None and size > self.plan.max_tokens:
            return known | {"reward": None, "step_rewards": None, "cause": "too_long"}
        found = [chance(prompt, texts[: number + 1]) for number in range(len(texts))]
        steps = found if self.plan.kind == "process" else None
        return known | {"reward": min(found), "step_rewards": steps, "cause": None}


class StandInTrainers:
    def __init__(self, workers: StandIns) -> None:
        self.workers = workers

    def score(self, plan: ScoringPlan, out_file: str) -> dict[str, Any]:
        self.workers.call("reference")
        write_table(pa.table({"completion_key": [], "logprob": [], "num_tokens": []}, schema=REFERENCE), out_file)
        return counts.scored([])

    def train(
        self, plan: TrainingPlan, reference_file: str | None, on_step: Callable[[dict[str, Any]], None] | None = None
    ) -> dict[str, Any]:
        self.workers.call("train")
        assert reference_file is None or pq.read_metadata(reference_file) is not None
        self.workers.watch(plan)
        steps = plan.steps or self.workers.steps
        row = {"loss": 0.6, "learning_rate": plan.learning_rate, "tokens_per_second": 1.0}
        row |= {"tokens": 10, "padded_tokens": 20}
        metrics = [{"step": i + 1} | row for i in range(steps)]
        for told in metrics if on_step else []:
            on_step(told | {"updates": steps})
        write_table(pa.Table.from_pylist(metrics), plan.metrics_file)
        for step in range(1, steps + 1):
            if step == steps or (plan.export_every and step % plan.export_every == 0):
                self._export(plan, step)
        return counts.metrics(metrics) | _trained_on(plan.pairs) | {"tokens_per_second": 1.0}

    def _export(self, plan: TrainingPlan, step: int) -> None:
        """A policy that gains until the peak and loses as much by every step after it."""
        checkpoint, probe = Path(plan.checkpoint_dir), plan.probe_file
        if plan.export_every:
            checkpoint, probe = checkpoint / f"{step:06d}/checkpoint", str(checkpoint / f"{step:06d}/probe.parquet")
        useful = min(step, self.workers.peak) - max(0, step - self.workers.peak)
        skill = min(1.0, max(0.0, skill_of(plan.init) + self.workers.gain * useful))
        make_folder(checkpoint, above=2 if plan.export_every else 0)
        fill_model(checkpoint, skill)
        rows = [{"prompt_token_ids": [1], "completion_token_ids": [2, 3], "logprob": -2 * skill}]
        write_table(pa.Table.from_pylist(rows, PROBE), probe)


JOB: dict[str, Any] = {
    "name": "tiny",
    "rounds": 2,
    "seed": 3,
    "model": "seed",
    "data": {"train": "train.jsonl", "gate": "gate.jsonl", "test": "test.jsonl", "prompts": "split"}
    | {"prompts_per_round": 8},
    "generate": {"samples": 4, "max_tokens": 8, "shard_prompts": 4},
    "pairs": {"per_prompt": 2},
    "promotion": {"rule": "not_worse"},
    "tracking": {"enabled": False},
}


def make_project(folder: Path, skill: float = 0.4, **changes: Any) -> Path:
    """A folder with data, base model and job file; returns the job file. The run goes to `folder`/run."""
    make_model(folder / "seed", skill)
    for split, count in (("train", 20), ("gate", 16), ("test", 16)):
        rows = [{"id": f"{split}-{i}", "question": f"{split} {i}?", "answer": str(i + 1)} for i in range(count)]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(JOB | {"run_dir": str(folder / "run")} | changes))
    return path


def all_read(_grade: Grade, golds: Iterable[str]) -> tuple[dict[str, str], int]:
    """Graders that read every gold answer."""
    return {}, len(set(golds))


def run_job(job: Path, workers: StandIns, *overrides: str) -> list[str]:
    """Drive a job with stand-ins; returns what it said."""
    said: list[str] = []

    def hired(job: Job, _logs: Path) -> StandIns:
        workers.job = job
        return workers

    with signals() as received:
        drive(load_job(job, overrides), said.append, received, hired, ask=all_read)
    return said


def _trained_on(files: Sequence[str]) -> dict[str, int]:
    names = {side: f"{side}_token_ids" for side in ("prompt", *counts.SIDES)}
    masks = {name: name for name in PAIR_MASKS.values()}
    rows = [row for file in files for row in pq.read_table(file).to_pylist()]
    pairs = [SimpleNamespace(**{to: row.get(name) for to, name in (names | masks).items()}) for row in rows]
    return counts.trained_pairs(lambda: pairs, 0)
