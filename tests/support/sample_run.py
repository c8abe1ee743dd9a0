"""A plausible run of two rounds, written through the real ledger, for tests of what reads runs."""

from __future__ import annotations

import math
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from orchestrator.config import Job
from orchestrator.ledger.artifacts import Artifacts
from orchestrator.ledger.ledger import Ledger
from orchestrator.records.rows import PROMPTS, SAMPLES, VERDICTS
from orchestrator.records.statistics import wilson_interval

NUM_PROMPTS, NUM_SAMPLES, NUM_STEPS, SHARD = 6, 4, 12, 3
DEAD_PID = 2**22 + 1
"""Above the largest process number that Linux gives out."""


def job(**changes: Any) -> Job:
    """A resolved job; `changes` replace top-level keys."""
    settings: dict[str, Any] = {
        "name": "sample",
        "rounds": 2,
        "model": "/models/seed",
        "data": {"train": "train.jsonl", "gate": "gate.jsonl", "test": "test.jsonl"},
        "generate": {"samples": NUM_SAMPLES},
    }
    return Job.model_validate(settings | changes)


def evaluation(num_correct: int, num_problems: int = 100, mean_tokens: float = 21.0) -> dict[str, Any]:
    low, high = wilson_interval(num_correct, num_problems)
    return {
        "problems": num_problems,
        "correct": num_correct,
        "accuracy": num_correct / num_problems,
        "low": low,
        "high": high,
        "truncated": 1,
        "mean_tokens": mean_tokens,
    }


class SampleRun:
    """Writes a run step by step, as a driver does: files first, then the record, then the final name."""

    def __init__(self, root: Path, **changes: Any) -> None:
        self.root = root
        self.job = job(**changes)
        self.run_id = uuid.uuid4().hex
        self.ledger = Ledger(root / "ledger")
        self.artifacts = Artifacts(root)
        self.epoch = 0

    def claim(self, pid: int = DEAD_PID, host: str = "elsewhere", process_start: float | None = 1.0) -> None:
        driver = {"host": host, "pid": pid, "process_start": process_start, "version": "0.1.0"}
        self.epoch = self.ledger.claim(driver)

    def configure(self, **changes: Any) -> None:
        self.job = self.job.model_copy(update=changes)
        data = {
            "run_id": self.run_id,
            "job": self.job.model_dump(mode="json"),
            "job_file": "sample.yaml",
            "versions": {"ray": "2.60.0"},
        }
        self.ledger.append("config", data)

    def commit(self, step: str, facts: Mapping[str, Any], files: Mapping[str, pa.Table] | None = None) -> None:
        artifacts = []
        if files:
            hidden = self._hidden(step)
            hidden.mkdir(parents=True)
            for name, table in files.items():
                pq.write_table(table, hidden / name)
            artifacts.append(self.artifacts.describe(hidden, self.root / step))
        published = [artifact.as_json() for artifact in artifacts]
        data = {"step": step, "fingerprint": "f" * 32, "artifacts": published, "facts": facts}
        self.ledger.append("commit", data)
        for artifact in artifacts:
            self.artifacts.reveal(artifact)

    def shard(self, step: str, index: int, table: pa.Table, facts: Mapping[str, Any]) -> None:
        name = f"{step}/{index:05d}.parquet"
        hidden = self._hidden(name)
        hidden.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, hidden)
        artifact = self.artifacts.describe(hidden, self.root / name)
        self.ledger.append(
            "shard",
            {
                "step": step,
                "index": index,
                "artifact": artifact.as_json(),
                "facts": {**facts, "seconds": 0.5},
            },
        )
        self.artifacts.reveal(artifact)

    def _hidden(self, name: str) -> Path:
        final = self.root / name
        return final.with_name(f".{final.name}-e{self.epoch}")

    # The steps, in the driver's order.

    def baseline(self, num_correct: int = 40) -> None:
        files = {"gate.parquet": prompts("gate"), "test.parquet": prompts("test")}
        facts = {"gate": NUM_PROMPTS, "test": NUM_PROMPTS, "dropped": 0, "seconds": 0.1}
        self.commit("baseline/prompts", facts, files)
        e = evaluation(num_correct)
        self.commit("baseline/evaluation", {"gate": e, "test": e, "probe": None, "seconds": 2.5})

    def prompts(self, number: int) -> None:
        facts = {"prompts": NUM_PROMPTS, "train": NUM_PROMPTS, "dropped": 0, "seconds": 0.1}
        self.commit(f"rounds/{number:02d}/prompts", facts, {"train.parquet": prompts("train")})

    def samples_and_verdicts(self, number: int, num_shards: int = NUM_PROMPTS // SHARD, finish: bool = True) -> None:
        folder, counts = f"rounds/{number:02d}", {"correct": 0, "wrong": 0, "ungradable": 0}
        for index in range(num_shards):
            ids = [f"train-{i}" for i in range(index * SHARD, (index + 1) * SHARD)]
            samples, verdicts, found = graded(ids, number)
            sampled = {"samples": samples.num_rows, "tokens": 252, "truncated": 1}
            self.shard(f"{folder}/samples", index, samples, sampled)
            self.shard(f"{folder}/verdicts", index, verdicts, {**found, "rules": {"number": found["correct"]}})
            counts = {key: counts[key] + found[key] for key in counts}
        if finish:
            total = NUM_PROMPTS * NUM_SAMPLES
            throughput = {"truncated": 2, "seconds": 3.0, "tokens_per_second": 168.0}
            self.commit(f"{folder}/samples", {"samples": total, "tokens": 504, **throughput})
            # A rule's name is free text: MLflow refuses some of these characters.
            rules = {"number": counts["correct"], "pattern:answer=(\\d+)%": 0}
            self.commit(f"{folder}/verdicts", {**counts, "rules": rules, "seconds": 0.7})

    def pairs(self, number: int) -> None:
        facts = {
            "pairs": 8 - number,
            "prompts_mixed": 4,
            "prompts_all_correct": 1,
            "prompts_all_wrong": 1,
            "pass_any": 5 / 6,
            "chosen_tokens": 20.5,
            "rejected_tokens": 22.25,
            "seconds": 0.2,
        }
        self.commit(f"rounds/{number:02d}/pairs", facts)

    def train(self, number: int, metrics: Mapping[str, Sequence[float]] | None = None) -> None:
        folder = f"rounds/{number:02d}"
        self.commit(f"{folder}/reference", {"completions": 12, "tokens": 400, "seconds": 1.0})
        facts = {"steps": NUM_STEPS, "pairs": 8, "tokens": 5000, "padded_tokens": 9000, "seconds": 6.0}
        table = pa.table(metrics or training_metrics())
        self.commit(f"{folder}/train", {**facts, "tokens_per_second": 833.3}, {"metrics.parquet": table})

    def evaluate(self, number: int, num_correct: int) -> None:
        e = evaluation(num_correct)
        probe = {"mean_difference": 0.0031, "tokens": 100}
        self.commit(f"rounds/{number:02d}/evaluation", {"gate": e, "test": e, "probe": probe, "seconds": 2.0})

    def promote(
        self,
        number: int,
        promoted: bool = True,
        reference: str | None = None,
        reason: str | None = None,
        best: str | None = None,
    ) -> None:
        data = {
            "round": number,
            "promoted": promoted,
            "reason": reason or ("Promoted: not significantly worse than the reference." if promoted else "Refused."),
            "rule": "not_worse",
            "alpha": 0.05,
            "p_value": 0.97 if promoted else 0.001,
            "won": 12,
            "lost": 3,
            "smallest_detectable_drop": 0.05,
            "reference": reference or f"rounds/{number:02d}/checkpoint",
        }
        self.ledger.append("promotion", data | ({"best": best} if best else {}))

    def round(self, number: int, num_correct: int) -> None:
        self.prompts(number)
        self.samples_and_verdicts(number)
        self.pairs(number)
        self.train(number)
        self.evaluate(number, num_correct)
        self.promote(number)

    def end(self, state: str = "finished", reason: str = "") -> None:
        self.ledger.append("end", {"state": state, "reason": reason})


def two_rounds(root: Path, **changes: Any) -> SampleRun:
    """A whole run: 40 % before, 60 % and 75 % after its two rounds."""
    run = SampleRun(root, **changes)
    run.claim()
    run.configure()
    run.baseline()
    run.round(1, 60)
    run.round(2, 75)
    run.end()
    return run


def prompts(split: str) -> pa.Table:
    rows = [
        {"prompt_id": f"{split}-{i}", "text": f"{i} + {i} = ?", "token_ids": [1, i + 2], "gold": str(2 * i)}
        for i in range(NUM_PROMPTS)
    ]
    return pa.Table.from_pylist(rows, schema=PROMPTS)


def graded(prompt_ids: Sequence[str], number: int) -> tuple[pa.Table, pa.Table, dict[str, int]]:
    """Samples and verdicts of some prompts; the first `number` of each are right, the last ungradable."""
    samples, verdicts = [], []
    counts = {"correct": 0, "wrong": 0, "ungradable": 0}
    for prompt_id in prompt_ids:
        for index in range(NUM_SAMPLES):
            verdict = "correct" if index < number else "ungradable" if index == NUM_SAMPLES - 1 else "wrong"
            counts[verdict] += 1
            key = {"prompt_id": prompt_id, "sample_index": index}
            answer = None if verdict == "ungradable" else str(index)
            text = f"Final answer: {answer}"
            tokens = {"token_ids": [5, 6], "finish_reason": "stop", "num_tokens": 2}
            samples.append(key | {"text": text} | tokens)
            verdicts.append(key | {"verdict": verdict, "extracted": answer, "rule": "number", "reason": None})
    return (
        pa.Table.from_pylist(samples, schema=SAMPLES),
        pa.Table.from_pylist(verdicts, schema=VERDICTS),
        counts,
    )


def training_metrics() -> dict[str, list[float]]:
    """A table of metrics as a trainer writes it: a row a step."""
    steps = list(range(1, NUM_STEPS + 1))
    return {
        "step": steps,
        "loss": [math.log(2) + 1 / step for step in steps],
        "dpo_loss": [math.log(2) - 0.01 * (step - 1) for step in steps],
        "nll_loss": [1 / step for step in steps],
        "margin": [0.1 * step for step in steps],
        "reward_accuracy": [min(1.0, 0.5 + 0.04 * step) for step in steps],
        "chosen_logprob": [-20.0 + 0.1 * step + 0.3 * (step % 2) for step in steps],
        "rejected_logprob": [-22.0 - 0.5 * step for step in steps],
        "grad_norm": [1.0] * NUM_STEPS,
        "learning_rate": [1e-5] * NUM_STEPS,
    }
