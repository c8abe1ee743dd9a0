"""What the driver itself costs: one round of so many prompts through the real loop, with workers that only write files.

    python -m benchmarks.driver [--prompts 50000] [--beside 20000] [--samples 8] [--folder FOLDER] [--json]

The loop, the ledger with its syncs and hashes, pairs, gate and report are real. The workers are none: in a process of
their own they write samples and verdicts as real ones look, and nothing is computed. So CPU seconds and memory are the
driver's alone. Besides: starting again when all is done, `status`, and `verify`, which hashes every file. Each is a
process of its own; `--folder` (default: one in memory that is removed) says where the files lie. With `--beside`, the
same with fewer prompts, and how many bytes of memory one prompt more takes.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from benchmarks.measured import report
from orchestrator.config import Job
from orchestrator.config.load import load_job
from orchestrator.driver.drive import drive
from orchestrator.driver.signals import signals
from orchestrator.records import counts
from orchestrator.records.parquet import ROWS_A_GROUP, Rows, read_table
from orchestrator.records.problem_files import handed_over, read_problem_file
from orchestrator.records.progress import Watch
from orchestrator.records.rows import (
    CAUSES,
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
from workers.files import write_table

ROOT = Path(__file__).parent.parent
STEPS = ("round", "again", "once_more", "status", "verify")
PROMPT_TOKENS, TOKENS = 60, 20  # of a prompt and of a sample; GSM8K's questions are as long
HELD_OUT = 500


def make_project(folder: Path, prompts: int, samples: int) -> Path:
    """Problems, a model and a job file."""
    (folder / "base").mkdir(parents=True)
    (folder / "base/config.json").write_text("{}")
    (folder / "base/model.safetensors").write_text("0")
    filling = "men walk to a market and buy so many apples that " * 5
    for split, count in (("train", prompts), ("gate", HELD_OUT), ("test", HELD_OUT)):
        with open(folder / f"{split}.jsonl", "w") as file:
            for number in range(count):
                row = {"id": f"{split}-{number}", "question": f"{split} {number}: {filling}", "answer": str(number + 1)}
                file.write(json.dumps(row) + "\n")
    job = {
        "name": "driver",
        "rounds": 1,
        "model": "base",
        "run_dir": str(folder / "run"),
        "data": {"train": "train.jsonl", "gate": "gate.jsonl", "test": "test.jsonl", "prompts_per_round": prompts},
        "generate": {"samples": samples, "max_tokens": 64, "shard_prompts": 256},
        "promotion": {"rule": "not_worse"},
        "tracking": {"enabled": False},
    }
    (folder / "driver.yaml").write_text(yaml.safe_dump(job))
    return folder / "driver.yaml"


def tokenize(file: str, output: str) -> dict[str, Any]:
    problems = list(read_problem_file(file))
    none = pa.nulls(len(problems))
    tokens = np.full(len(problems) * PROMPT_TOKENS, 11, np.int32)
    tokens[::PROMPT_TOKENS] = np.arange(len(problems))  # no two prompts are the same
    starts = np.arange(0, len(tokens) + 1, PROMPT_TOKENS, dtype=np.int32)
    columns = {
        "prompt_id": [p.prompt_id for p in problems],
        "text": [p.text for p in problems],
        "token_ids": pa.ListArray.from_arrays(starts, pa.array(tokens)),
        "gold": [p.gold for p in problems],
    }
    table = pa.table([columns.get(name, none) for name in PROMPTS.names], names=PROMPTS.names).cast(PROMPTS)
    return {"prompts": len(problems), "dropped": 0, "file": write_table(table, output, ROWS_A_GROUP)}


def sample(shard: Shard, plan: SamplingPlan) -> dict[str, Any]:
    """Every other sample is right."""
    rows = Rows(shard.source, ["prompt_id", "gold"]).between(shard.start, shard.stop)
    ids, golds, number = rows["prompt_id"].to_pylist(), rows["gold"].to_pylist(), plan.samples
    texts = [f"Sample {i}\nFinal answer: {gold if i % 2 else gold + '0'}" for gold in golds for i in range(number)]
    tokens = np.arange(len(texts) * TOKENS, dtype=np.int32) % 4096
    tokens[TOKENS - 1 :: TOKENS] = 0
    columns = {
        "prompt_id": np.repeat(ids, number),
        "sample_index": np.tile(np.arange(number, dtype=np.int32), len(ids)),
        "text": texts,
        "token_ids": pa.ListArray.from_arrays(np.arange(0, len(tokens) + 1, TOKENS, dtype=np.int32), pa.array(tokens)),
        "finish_reason": ["stop"] * len(texts),
        "num_tokens": np.full(len(texts), TOKENS, dtype=np.int32),
    }
    table = pa.table([pa.array(columns[name]) for name in SAMPLES.names], names=SAMPLES.names).cast(SAMPLES)
    facts = {"samples": len(texts), "tokens": len(tokens), "truncated": 0, "seconds": 0.0}
    return facts | {"file": write_table(table, shard.output)}


def grade(shard: Shard) -> dict[str, Any]:
    rows = read_table(shard.source, columns=["prompt_id", "sample_index", "text"])
    right = [index % 2 == 1 for index in rows["sample_index"].to_pylist()]
    answers = [text.rpartition(" ")[2] for text in rows["text"].to_pylist()]
    found = {
        "prompt_id": rows["prompt_id"],
        "sample_index": rows["sample_index"],
        "verdict": ["correct" if yes else "wrong" for yes in right],
        "extracted": answers,
        "rule": ["final_answer"] * len(right),
    }
    none = pa.nulls(len(right))
    table = pa.table([found.get(name, none) for name in VERDICTS.names], names=VERDICTS.names).cast(VERDICTS)
    facts: dict[str, Any] = {"correct": sum(right), "wrong": len(right) - sum(right), "ungradable": 0}
    facts |= counts.by_prompt(rows["prompt_id"].to_pylist(), found["verdict"], [None] * len(right), answers)
    facts |= dict.fromkeys(CAUSES, 0) | {"graders_version": GRADERS_VERSION, "rules": {"final_answer": len(right)}}
    return facts | {"seconds": 0.0, "file": write_table(table, shard.output)}


def score(output: str) -> dict[str, Any]:
    write_table(pa.table([[], [], []], schema=REFERENCE), output)
    return dict(counts.scored([]))


def train(plan: TrainingPlan) -> dict[str, Any]:
    metrics = [{"step": 1, "loss": 0.6, "learning_rate": 1e-5, "tokens_per_second": 1.0, "tokens": 1}]
    metrics[0]["padded_tokens"] = 1
    write_table(pa.Table.from_pylist(metrics), plan.metrics_file)
    folder = Path(plan.checkpoint_dir)
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_text("1")
    rows = [{"prompt_token_ids": [1], "completion_token_ids": [2, 3], "logprob": -1.0}]
    write_table(pa.Table.from_pylist(rows, PROBE), plan.probe_file)
    return counts.metrics(metrics) | counts.trained_pairs(lambda: _pairs(plan.pairs), 0) | {"tokens_per_second": 1.0}


def _pairs(files: Sequence[str]) -> Iterator[Any]:
    names = [f"{side}_token_ids" for side in ("prompt", *counts.SIDES)]
    for file in files:
        for batch in pq.ParquetFile(file).iter_batches(8192, columns=names):
            for row in batch.to_pylist():
                ids = {side: row[f"{side}_token_ids"] for side in ("prompt", *counts.SIDES)}
                yield SimpleNamespace(**ids, chosen_mask=None, rejected_mask=None)


class Workers:
    """Those of a run; what they do is done in another process. Engines, graders and trainers are this object, too."""

    engine, dtype = "vLLM", "own"

    def __init__(self, _job: Job, _logs: Path) -> None:
        self._process = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
        self._graded: list[tuple[Shard, Any]] = []

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.shutdown()

    def _do(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return self._process.submit(function, *arguments).result()

    def tokenize(self, problems: Sequence[Problem], plan: TokenizingPlan, output: str) -> Any:
        with handed_over(problems, Path(output)) as file:
            return self._do(tokenize, str(file), output)

    def engines(self, model: str, probe: Path | None = None) -> Workers:
        return self

    def graders(self, settings: Any) -> Workers:
        return self

    def trainers(self) -> Workers:
        return self

    def report_to(self, say: Callable[[str], None], meters: Meters, logs: Path, watch: Watch) -> None:
        """Nothing is told."""

    def settle(self, kept: Any, record: Any, model: str) -> None:
        """Nothing is left to this machine."""

    def execution(self, of: str) -> dict[str, Any]:
        return {"device": "cpu"} | ({"train.attention": "sdpa"} if of == "train" else {})

    def generate(self, shards: list[Shard], plan: SamplingPlan) -> Iterator[tuple[Shard, dict[str, Any]]]:
        for shard in shards:
            yield shard, self._do(sample, shard, plan)

    def logprobs(self, prompts: list[list[int]], completions: list[list[int]]) -> list[list[float]]:
        return [[-1.0 for _ in completions]]

    def submit(self, shard: Shard, golds: dict[str, str]) -> None:
        self._graded.append((shard, self._process.submit(grade, shard)))

    def finished(self) -> list[tuple[Shard, dict[str, Any]]]:
        done = [(shard, future) for shard, future in self._graded if future.done()]
        self._graded = [each for each in self._graded if each not in done]
        return [(shard, future.result()) for shard, future in done]

    def drain(self) -> Iterator[tuple[Shard, dict[str, Any]]]:
        while self._graded:
            shard, future = self._graded.pop(0)
            yield shard, future.result()

    def score(self, plan: ScoringPlan, out_file: str) -> Any:
        return self._do(score, out_file)

    def train(self, plan: TrainingPlan, reference_file: str | None, on_step: Callable[..., None] | None = None) -> Any:
        return self._do(train, plan)


def read_all(_grade: Any, golds: Iterable[str]) -> tuple[dict[str, str], int]:
    """Every gold answer is read by a grader."""
    return {}, sum(1 for _ in golds)


def work(step: str, job: Path) -> dict[str, float]:
    """One step in this process; what it took."""
    began, cpu = time.monotonic(), time.process_time()
    if step in ("round", "again", "once_more"):
        with signals() as received:
            hire: Any = Workers
            drive(load_job(job), lambda line: None, received, hire, ask=read_all)
    else:
        from orchestrator.cli import main as ratchet

        with contextlib.redirect_stdout(sys.stderr), contextlib.suppress(SystemExit):
            ratchet([step, str(job.parent / "run")])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    took = {"seconds": time.monotonic() - began, "cpu_seconds": time.process_time() - cpu, "peak_gib": peak}
    return {name: round(value, 3) for name, value in took.items()}


def figures(folder: Path, prompts: int, samples: int) -> dict[str, Any]:
    job = make_project(folder, prompts, samples)
    found: dict[str, Any] = {}
    for step in STEPS:
        command = [sys.executable, "-m", "benchmarks.driver", "--step", step, "--folder", str(job)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{step}: {done.stderr[-2000:]}")
        found[step] = json.loads(done.stdout.splitlines()[-1])
    return found


def a_prompt(found: dict[str, Any], prompts: int, fewer: dict[str, Any], few: int, of: str) -> dict[str, float]:
    """By step, what of a figure one prompt more takes: in bytes, or millionths of a second."""
    unit = 2**30 if of == "peak_gib" else 1e6
    more = {step: row[of] - fewer[step][of] for step, row in found.items()}
    return {step: round(figure * unit / (prompts - few)) for step, figure in more.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=50_000)
    parser.add_argument("--beside", type=int)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step:
        print(json.dumps(work(options.step, options.folder)))
        return
    in_memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=options.folder or in_memory) as name:
        found = figures(Path(name, "project"), options.prompts, options.samples)
        if options.beside:
            fewer = figures(Path(name, "beside"), options.beside, options.samples)
            both = found, options.prompts, fewer, options.beside
            memory, seconds = a_prompt(*both, "peak_gib"), a_prompt(*both, "cpu_seconds")
            found |= {"bytes_a_prompt": memory, "cpu_microseconds_a_prompt": seconds}
    if options.json:
        settings = {name: getattr(options, name) for name in ("prompts", "beside", "samples")}
        print(json.dumps(report("driver", settings, found)))
        return
    print(f"{options.prompts:,} prompts, {options.samples} samples each")
    for step, row in found.items():
        print(f"{step:26}" + "".join(f"{key:>14} {value:<8}" for key, value in row.items()))


if __name__ == "__main__":
    main()
