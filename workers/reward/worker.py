"""A process that holds a reward model: shards of answers in, files of rewards out. It knows nothing of Ray."""

from __future__ import annotations

import gc
import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from orchestrator.records.parquet import Rows, read_table
from orchestrator.records.rewards import REWARD_CAUSES, REWARDS, RewardCause, RewardPlan, RewardTask
from workers.files import write_table
from workers.logs import at_work
from workers.reward.model import RewardModel
from workers.reward.reading import Question, Reader


class Rewarder:
    """Scores shards of answers on one device ("cpu", "cuda"). The model of a plan is loaded with its first shard."""

    def __init__(self, device: str) -> None:
        self._device = device
        self._held: tuple[RewardPlan, Reader, RewardModel] | None = None
        self.rows = 0
        """How many answers were looked at so far: it moves while there is progress."""

    def rest(self) -> None:
        """Give the model's memory back; the next shard loads it again."""
        if self._held is not None and self._device == "cpu":
            self._held = None
            gc.collect()

    def score(self, plan: RewardPlan, task: RewardTask) -> dict[str, Any]:
        """Score all rows of `task.samples` and write them (schema REWARDS) to `task.written`, fsynced. Returns the
        facts of a shard, as `orchestrator.rounds.sampling.Rewarders` says.

        Raises:
            UnusableModel: it is no such reward model, or cannot be asked in the plan's form.
            ValueError: rows, or the prompt of one, are missing.
        """
        with at_work(task.output, task.index):
            started = time.monotonic()
            reader, model = self._ready(plan)
            questions, answers = _questions(task), read_table(task.samples)
            prompt_ids, indices = _column(answers, "prompt_id"), _column(answers, "sample_index")
            of_outcome = plan.kind == "outcome"
            texts = [[text] for text in _column(answers, "text")] if of_outcome else _column(answers, "steps")
            rows = []
            for prompt_id, index, text in zip(prompt_ids, indices, texts, strict=True):
                if prompt_id not in questions:
                    raise ValueError(f"{task.samples}: prompt {prompt_id!r} is not in the rows given of {task.prompts}")
                if not text:
                    raise ValueError(f"{task.samples}: sample {index} of prompt {prompt_id!r} has no steps")
                rows.append({"prompt_id": prompt_id, "sample_index": index})
                rows[-1] |= _scored(plan, reader, model, questions[prompt_id], text)
                self.rows += 1
            file = write_table(pa.Table.from_pylist(rows, REWARDS), task.written)
            facts = counted(rows) | {"form": reader.form if of_outcome else "steps"}
            return facts | {"seconds": round(time.monotonic() - started, 4), "file": file}

    def _ready(self, plan: RewardPlan) -> tuple[Reader, RewardModel]:
        if self._held is None or self._held[0] != plan:
            self._held = None  # two of them are not held at once
            reader, model = Reader(plan), RewardModel(plan, self._device)
            if model.longest is not None:
                reader.longest = min(reader.longest, model.longest)
            self._held = plan, reader, model
        return self._held[1:]


def counted(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What there is to count of rows of schema REWARDS: how many, how many with a reward, the others by their cause,
    the mean reward (null where there is none), and tokens."""
    rewards = [row["reward"] for row in rows if row["cause"] is None]
    causes = Counter(row["cause"] for row in rows)
    facts: dict[str, Any] = {"answers": len(rows), "rewarded": len(rewards)}
    facts |= {cause: causes[cause] for cause in REWARD_CAUSES}
    mean = sum(rewards) / len(rewards) if rewards else None
    return facts | {"mean_reward": mean, "tokens": sum(row["num_tokens"] for row in rows)}


def _scored(
    plan: RewardPlan, reader: Reader, model: RewardModel, question: Question, texts: Sequence[str]
) -> dict[str, Any]:
    """An answer's rewards, or why it has none."""
    row = reader.answer(question, texts[0]) if plan.kind == "outcome" else reader.steps(question, texts)
    cause: RewardCause | None = "special_token" if reader.spells_special(texts) else None
    if cause is None and row.num_tokens > reader.longest:
        cause = "too_long"
    numbers = [] if cause else model.numbers(row)
    if cause is None and not all(map(math.isfinite, numbers)):
        cause = "not_finite"
    found: dict[str, Any] = {"num_tokens": row.num_tokens, "cause": cause, "reward": None, "step_rewards": None}
    if cause is None:
        found |= {"reward": min(numbers), "step_rewards": numbers if plan.kind == "process" else None}
    return found


def _questions(task: RewardTask) -> dict[str, Question]:
    """The prompts of the shard, by id."""
    names = ["prompt_id", "text"]
    if "messages" in pq.read_schema(task.prompts).names:
        names.append("messages")
    table = Rows(task.prompts, names).between(task.start, task.stop)
    columns = [table[name].to_pylist() for name in table.column_names]
    return {prompt_id: Question(text, *messages) for prompt_id, text, *messages in zip(*columns, strict=True)}


def _column(table: pa.Table, name: str) -> list[Any]:
    found: list[Any] = table[name].to_pylist()
    return found
