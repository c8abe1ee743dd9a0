"""The stand-in for reward models keeps to what the real one writes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from orchestrator.records.rewards import ANSWER_STEPS, REWARDS, RewardKind, RewardPlan, RewardTask, RewardWorkers
from orchestrator.records.rows import PROMPTS, SAMPLES
from tests.support.stand_ins import StandIns
from workers.files import write_table


def task_of(folder: Path, kind: RewardKind) -> RewardTask:
    prompts = [{"prompt_id": f"p{i}", "text": f"question {i}?", "token_ids": [1], "gold": "1"} for i in range(3)]
    write_table(pa.Table.from_pylist(prompts, PROMPTS), folder / "prompts.parquet")
    rows: list[dict[str, Any]] = [
        {"prompt_id": f"p{i}", "sample_index": j, "text": f"answer {j}" * (j + 1), "token_ids": [1]}
        | {"finish_reason": "stop", "num_tokens": 1, "steps": [f"step {k}" for k in range(j + 1)]}
        for i in (1, 2)
        for j in range(3)
    ]
    write_table(pa.Table.from_pylist(rows, SAMPLES if kind == "outcome" else ANSWER_STEPS), folder / "answers.parquet")
    files = (str(folder / name) for name in ("prompts.parquet", "answers.parquet", "rewards.parquet"))
    prompts_file, answers, output = files
    return RewardTask(0, prompts_file, 1, 3, answers, output)


@pytest.mark.parametrize("kind", ["outcome", "process"])
def test_rewards_follow_from_the_texts_alone(tmp_path: Path, kind: RewardKind) -> None:
    plan, task = RewardPlan("m", kind), task_of(tmp_path, kind)
    [(done, facts)] = StandIns().rewarders(plan, RewardWorkers()).score([task])
    table = pq.read_table(task.output)
    assert done == task and table.schema == REWARDS
    assert (facts["answers"], facts["rewarded"], facts["too_long"]) == (6, 6, 0)
    rewards = table["reward"].to_pylist()
    assert len(set(rewards)) > 2 and facts["mean_reward"] == pytest.approx(sum(rewards) / 6)
    steps = table["step_rewards"].to_pylist()
    assert [found and len(found) for found in steps] == ([1, 2, 3] * 2 if kind == "process" else [None] * 6)
    again = replace(task, output=str(tmp_path / "again.parquet"))
    list(StandIns().rewarders(plan, RewardWorkers()).score([again]))
    assert pq.read_table(again.output).equals(table)


def test_what_is_too_long_has_no_reward(tmp_path: Path) -> None:
    task = task_of(tmp_path, "outcome")
    [(_, facts)] = StandIns().rewarders(RewardPlan("m", "outcome", max_tokens=30), RewardWorkers()).score([task])
    assert (facts["rewarded"], facts["too_long"]) == (4, 2)
    assert pq.read_table(task.output)["cause"].to_pylist() == [None, None, "too_long"] * 2
