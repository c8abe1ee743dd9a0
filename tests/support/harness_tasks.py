"""Tasks for lm-evaluation-harness that need no network: one of each kind of request, made of the demo's problems."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

DEMO = Path(__file__).parents[2] / "jobs/demo"
CHOICE, WORDS, ROLLING = "tiny_choice", "tiny_words", "tiny_rolling"
TASKS = (CHOICE, WORDS, ROLLING)
NUM_DOCUMENTS = 10

_COMMON = """
dataset_path: json
dataset_kwargs:
  data_files:
    test: problems.jsonl
test_split: test
"""
_TASKS = {
    CHOICE: """output_type: multiple_choice
doc_to_text: "{{question}}\\nFinal answer:"
doc_to_choice: "{{choices}}"
doc_to_target: 0
metric_list:
  - metric: acc
  - metric: acc_norm
""",
    WORDS: """output_type: generate_until
doc_to_text: "{{question}}\\n"
doc_to_target: "{{answer}}"
num_fewshot: 0
generation_kwargs:
  until: ["Step 3"]
  max_gen_toks: 40
filter_list:
  - name: answer
    filter:
      - function: regex
        regex_pattern: "Final answer: (-?[0-9]+)"
      - function: take_first
metric_list:
  - metric: exact_match
""",
    ROLLING: """output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: !function texts.text
metric_list:
  - metric: word_perplexity
  - metric: bits_per_byte
""",
}

needs_harness = pytest.mark.skipif(
    importlib.util.find_spec("lm_eval") is None, reason="the extra `harness` is not installed"
)


def make_tasks(folder: Path) -> Path:
    """A folder of the tasks, whose data stand in it; returns it."""
    folder.mkdir(parents=True)
    rows = [json.loads(line) for line in (DEMO / "test.jsonl").read_text().splitlines()[:NUM_DOCUMENTS]]
    for row in rows:
        row["choices"] = [row["answer"], str(int(row["answer"]) + 1), f"{row['answer']}0"]
    (folder / "problems.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "texts.py").write_text('def text(doc):\n    return doc["question"] + "\\n" + doc["solution"]\n')
    for name, text in _TASKS.items():
        (folder / f"{name}.yaml").write_text(f"task: {name}{_COMMON}{text}metadata:\n  version: 1.0\n")
    return folder


def by_transformers(tasks: Path, model: Path, max_length: int, **settings: Any) -> dict[str, Any]:
    """What lm-evaluation-harness says of a model by its own backend. The current folder must be that of the tasks."""
    import lm_eval
    from lm_eval.tasks import TaskManager

    found: dict[str, Any] = lm_eval.simple_evaluate(
        model="hf",
        model_args={"pretrained": str(model), "dtype": "float32", "max_length": max_length},
        tasks=list(TASKS),
        task_manager=TaskManager(include_path=str(tasks), include_defaults=False),
        device="cpu",
        batch_size=8,
        bootstrap_iters=10,
        **settings,
    )
    return found


def responses(samples: dict[str, list[dict[str, Any]]]) -> dict[tuple[str, int], list[Any]]:
    """By task and document what came of each request."""
    return {
        (task, row["doc_id"]): json.loads(json.dumps(row["resps"])) for task, rows in samples.items() for row in rows
    }


def told_responses(file: Path) -> dict[tuple[str, int], list[Any]]:
    """The same of a step's file."""
    rows = pq.read_table(file).to_pylist()
    return {(row["task"], row["doc_id"]): json.loads(row["answers"]) for row in rows}


def assert_alike(ours: dict[tuple[str, int], list[Any]], theirs: dict[tuple[str, int], list[Any]], nats: float) -> None:
    """The same texts, the same words on what is the likeliest, and log-probabilities to rounding."""
    assert ours.keys() == theirs.keys()
    for key, theirs_of in theirs.items():
        for (one,), (other,) in zip(ours[key], theirs_of, strict=True):
            if key[0] == WORDS:
                assert one == other, key
            elif key[0] == CHOICE:
                assert one[0] == pytest.approx(other[0], abs=nats), key
                assert one[1] is other[1], key
            else:
                assert one == pytest.approx(other, abs=nats), key
