"""Stand-ins for Step-DPO: a model that adds 1 in every step, and may slip in any.

A problem with gold answer n takes n steps: "Step 1: 1", "Step 2: 2", ..., and the last one's line "Final answer: n". A
slip makes a step's number negative, and every number after it. So the first wrong step can be seen in the text, and no
continuation of it is right. The skill is the chance that an answer, or a continuation of right steps, has no slip.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from orchestrator.records.reasoning_steps import StepItem, StepJudgement
from orchestrator.records.rewards import RewardPlan, RewardWorkers
from orchestrator.records.rows import SAMPLES, SamplingPlan, Shard
from tests.support.stand_ins import EOS, StandInEngines, StandInRewarders, StandIns, chance, with_masks
from workers.files import write_table
from workers.judge.client import JudgeClient
from workers.judge.reasoning_steps import judge_steps

STEPS: dict[str, Any] = {"opening": "Let's think.\nStep 1:", "rollouts": 8, "rectifications": 10, "threshold": 0.25}


def first_slip(text: str) -> int | None:
    """The truth about an answer: the number of the first step that is wrong."""
    values = [int(value) for value in re.findall(r"Step \d+: (-?\d+)", text)]
    return next((number for number, value in enumerate(values, start=1) if value != number), None)


class StepStandIns(StandIns):
    client: JudgeClient | None = None
    """Asks the judge, where a test has one."""

    def judge_steps(self, items: Sequence[StepItem]) -> tuple[list[StepJudgement], dict[str, Any]]:
        self.call("judge_steps")
        assert self.client is not None
        return judge_steps(self.client, items), self.client.facts()

    def rewarders(self, plan: RewardPlan, how: RewardWorkers) -> StepRewarders:
        return StepRewarders(self, plan)

    def engines(self, model: str, probe: Path | None = None) -> StepEngines:
        return StepEngines(self, super().engines(model).skill)


class StepRewarders(StandInRewarders):
    """A process reward model that sees every slip."""

    def _row(self, prompt: str, row: dict[str, Any]) -> dict[str, Any]:
        found = super()._row(prompt, row)
        if found["step_rewards"] is not None:
            likely = [0.1 if text.startswith("-") else 0.9 for text in row["steps"]]
            found |= {"step_rewards": likely, "reward": min(likely)}
        return found


class StepEngines(StandInEngines):
    def generate(self, shards: list[Shard], plan: SamplingPlan) -> Iterator[tuple[Shard, dict[str, Any]]]:
        for shard in shards:
            self.workers.call("generate")
            prompts = pq.read_table(shard.source).slice(shard.start, shard.stop - shard.start).to_pylist()
            rows = [self._answer(p, i, plan) for p in prompts for i in range(plan.samples)]
            file = write_table(with_masks(rows, SAMPLES), shard.output)
            tokens = sum(row["num_tokens"] for row in rows)
            yield shard, {"samples": len(rows), "tokens": tokens, "truncated": 0, "seconds": 0.0, "file": file}

    def _answer(self, prompt: dict[str, Any], index: int, plan: SamplingPlan) -> dict[str, Any]:
        before, gold = bytes(prompt["token_ids"]).decode(), int(prompt["gold"])
        begun = [int(number) for number in re.findall(r"Step (\d+):", before)]
        start, key = begun[-1] if begun else 1, (prompt["prompt_id"], index, plan.seed)
        slip = start + int(chance("where", *key) * (gold + 1 - start)) if chance(*key) >= self.skill else gold + 1
        slip = start if first_slip(before) else slip
        parts = [f" {-number if number >= slip else number}" for number in range(start, gold + 1)]
        text = "".join(f"\nStep {start + i}:{part}" if i or not begun else part for i, part in enumerate(parts))
        text += f"\nFinal answer: {-gold if gold >= slip else gold}"
        ids = [*text.encode(), EOS]
        found = {"prompt_id": prompt["prompt_id"], "sample_index": index, "text": text, "token_ids": ids}
        return found | {"finish_reason": "stop", "num_tokens": len(ids)}
