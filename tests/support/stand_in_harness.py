"""A harness that knows one task, of six documents: three prompts that are completed and three that are scored."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from orchestrator.records.harness import HARNESS, REQUESTS, RESULTS, SAMPLES, Asked, TasksPlan
from workers.files import write_table

SAMPLING = {"temperature": 0.0, "top_p": 1.0, "top_k": 0, "max_tokens": 5, "stop": ["\n\n"]}


class StandInHarness:
    """`words` are in front of each prompt: with others, the data have changed."""

    def __init__(self, call: Callable[[str], None], words: str = "what?") -> None:
        self.call, self.words = call, words
        self.plans = list[TasksPlan]()
        self.known = {"lm_eval": "0.4.13", "include": None}

    def identity(self) -> dict[str, Any]:
        return self.known

    def check(self) -> None:
        self.call("tasks")

    def evaluate(self, plan: TasksPlan, work: Path, output: Path, answer: Callable[[Asked], list[Path]]) -> None:
        self.call("harness")
        self.plans.append(plan)
        texts = self._asked(answer, work / "requests-1.parquet", SAMPLING, [])
        greedy = self._asked(answer, work / "requests-2.parquet", None, [7, 8])
        right = [text["text"].endswith("right") for text in texts] + [said["greedy"] for said in greedy]
        rows = [
            {"task": task, "doc_id": number, "filter": "none", "prompt": self.words, "target": "right"}
            | {"answers": json.dumps([[said]]), "figures": json.dumps({"acc": said})}
            for task in plan.tasks
            for number, said in enumerate(right)
        ]
        write_table(pa.Table.from_pylist(rows, HARNESS), output / SAMPLES)
        figures = {
            "acc,none": sum(right) / len(right),
            "acc_stderr,none": 0.1,
            "f1,strict": 0.5,
            "f1_stderr,strict": "N/A",
        }
        found = {
            "results": {task: {"alias": task, "sample_len": len(right), **figures} for task in plan.tasks},
            "n-shot": dict.fromkeys(plan.tasks, plan.num_fewshot or 0),
            "versions": dict.fromkeys(plan.tasks, 1.0),
            "lm_eval_version": self.known["lm_eval"],
        }
        (output / RESULTS).write_text(json.dumps(found))

    def _asked(
        self, answer: Callable[[Asked], list[Path]], file: Path, sampling: dict[str, Any] | None, completion: list[int]
    ) -> list[dict[str, Any]]:
        rows = [(str(number), [1, number], completion) for number in range(3)]
        columns = dict(zip(REQUESTS.names, map(list, zip(*rows, strict=True)), strict=True))
        write_table(pa.table(columns, schema=REQUESTS), file)
        answers = [row for found in answer(Asked(str(file), 3, sampling)) for row in pq.read_table(found).to_pylist()]
        assert [row["prompt_id"] for row in answers] == ["0", "1", "2"]
        return answers
