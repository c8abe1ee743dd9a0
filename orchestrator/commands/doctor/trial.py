"""What `ratchet doctor` has trainers try: made-up pairs as long as those that a job may train on, and their plan."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pyarrow as pa

from orchestrator.config import Job
from orchestrator.records.groups import FURTHER, GROUP, further
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


def made_up_pairs(vocabulary: int, prompt: int, completion: int, count: int, rejected: int = 1) -> pa.Table:
    """`count` rows of a training of random token ids (schema pairs_schema, with scores), no two of which share
    anything: pairs, or groups of so many rejected completions."""
    source, rows = random.Random(0), list[dict[str, Any]]()
    for number in range(count):
        name, shared = f"doctor-{number}", {"prompt": prompt, "chosen": completion}
        ids = {f"{side}_token_ids": made_up_ids(source, vocabulary, length) for side, length in shared.items()}
        for other in range(rejected):
            pair = {"pair_id": f"{name}/{other}", "prompt_id": name, "prompt": "", "chosen": "", "rejected": ""} | ids
            pair["rejected_token_ids"] = made_up_ids(source, vocabulary, completion)
            rows.append(pair | {GROUP: name, "chosen_score": 1.0, "rejected_score": 0.0})
    return pa.Table.from_pylist(rows, schema=further(pairs_schema(conversational=False), FURTHER))


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
    config: dict[str, Any] = json.loads((Path(model) / "config.json").read_bytes())
    text: dict[str, Any] = config.get("text_config") or {}
    return config | text
