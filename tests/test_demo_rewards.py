"""The demo's two reward models: small and plain, and better than chance at what they are for."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from orchestrator.records.rewards import RewardKind, RewardPlan
from tests.support.reward_models import reward_task
from workers.reward.worker import Rewarder

DEMO = Path(__file__).resolve().parents[1] / "jobs" / "demo"
NUM_PAIRS = 40


def pairs() -> list[tuple[str, str, str]]:
    """Problems that neither model was trained on, with a worked solution and a wrong answer without any working."""
    lines = (DEMO / "preferences-direct.jsonl").read_text().splitlines()[:NUM_PAIRS]
    rows = [json.loads(line) for line in lines]
    return [(row["prompt"].rstrip("\n"), row["chosen"], row["rejected"]) for row in rows]


def scored(folder: Path, kind: RewardKind, answers: dict[str, list[Any]]) -> Iterator[tuple[dict[str, Any], ...]]:
    """The rows of the answers to each prompt."""
    task = reward_task(folder, answers)
    facts = Rewarder("cpu").score(RewardPlan(str(DEMO / {"outcome": "reward"}.get(kind, kind)), kind), task)
    assert facts["rewarded"] == facts["answers"] == sum(map(len, answers.values()))
    rows = iter(pq.read_table(task.output).to_pylist())
    for given in answers.values():
        yield tuple(next(rows) for _ in given)


@pytest.mark.parametrize("name", ["reward", "process"])
def test_they_are_small_and_plain(name: str) -> None:
    files = {path.name: path.stat().st_size for path in (DEMO / name).iterdir()}
    assert set(files) == {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    assert sum(files.values()) < 10 * 2**20
    assert (DEMO / name / "tokenizer.json").read_bytes() == (DEMO / "base/tokenizer.json").read_bytes()


@pytest.mark.parametrize(("kind", "least"), [("outcome", 0.9), ("process", 0.6)])
def test_right_answers_have_higher_rewards(tmp_path: Path, kind: RewardKind, least: float) -> None:
    answers: dict[str, list[Any]] = {prompt: [right, wrong] for prompt, right, wrong in pairs()}
    if kind == "process":
        answers = {prompt: [answer.split("\n") for answer in found] for prompt, found in answers.items()}
    found = [right["reward"] > wrong["reward"] for right, wrong in scored(tmp_path, kind, answers)]
    assert len(found) == NUM_PAIRS and sum(found) >= least * NUM_PAIRS
