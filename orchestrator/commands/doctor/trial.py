"""What `ratchet doctor` has trainers try: made-up pairs as long as those that a job may train on, and their plan."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pyarrow as pa

from orchestrator.config import Job
from orchestrator.records.rows import TrainingPlan, pairs_schema


def made_up_ids(random_: random.Random, vocabulary: int, count: int) -> list[int]:
    """`count` random token ids of a vocabulary."""
    return [random_.randrange(vocabulary) for _ in range(count)]


def pair_lengths(job: Job, context: int | None) -> tuple[int, int]:
    """Tokens of a prompt and of a completion: the longest pair that the job may train on.

    Where neither train.max_tokens nor generate.max_model_len says, prompts count as long as completions may be.
    """
    longest = job.train.max_tokens or job.generate.max_model_len or 2 * job.generate.max_tokens
    longest = max(2, min(longest, context or longest))
    completion = min(job.generate.max_tokens, longest - 1)
    return longest - completion, completion


def made_up_pairs(vocabulary: int, prompt: int, completion: int, count: int) -> pa.Table:
    """Pairs of random token ids (schema pairs_schema), no two of which share anything."""
    source = random.Random(0)
    sides = {"prompt": prompt, "chosen": completion, "rejected": completion}
    rows = [
        {"pair_id": f"doctor-{number}", "prompt_id": f"doctor-{number}", "prompt": "", "chosen": "", "rejected": ""}
        | {f"{side}_token_ids": made_up_ids(source, vocabulary, length) for side, length in sides.items()}
        for number in range(count)
    ]
    return pa.Table.from_pylist(rows, schema=pairs_schema(conversational=False))


def trial_plan(job: Job, model: str, folder: Path) -> TrainingPlan:
    """A training on the made-up pairs in `folder`, whose files stay there; a learning rate of 0 keeps the weights."""
    return TrainingPlan(
        init=model,
        reference=model,
        pairs=(str(folder / "pairs.parquet"),),
        loss=job.loss.of_round(1),
        learning_rate=0.0,
        seed=job.seed,
        state_dir=str(folder / "state"),
        failure_file=str(folder / "not_finite.json"),
        metrics_file=str(folder / "metrics.parquet"),
        probe_file=str(folder / "probe.parquet"),
        checkpoint_dir=str(folder / "checkpoint"),
    )


def model_config(model: str) -> dict[str, Any]:
    """The config.json of a model folder, with those of its text part at the top.

    Raises:
        OSError: there is none.
        ValueError: it is no JSON.
    """
    config: dict[str, Any] = json.loads((Path(model) / "config.json").read_text())
    text: dict[str, Any] = config.get("text_config") or {}
    return config | text
