"""Rows of preference data as tests write and read them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from orchestrator.config import Job
from orchestrator.inputs.preferences import Preferences, read_preferences


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def job(data: dict[str, Any] | None = None, pairs: dict[str, Any] | None = None, **stages: Any) -> Job:
    sources = stages.pop("sources", ["rows.jsonl"])
    return Job.model_validate(
        {"name": "p", "model": "m", "source": "dataset", "rounds": 1, "promotion": {"rule": "always"}}
        | {"loss": {"dpo": 1.0, "nll": 0.0}, "data": data or {}, "pairs": pairs or {}}
        | {"stages": {"sources": sources} | stages}
    )


def read(folder: Path, *rows: Any, **settings: Any) -> Preferences:
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    [found] = read_preferences(job(**settings), lambda path, key: folder / path)
    return found


def parts(folder: Path, *rows: Any, **settings: Any) -> tuple[Any, Any, Any]:
    """Prompt and sides of the first row."""
    row = read(folder, *rows, **settings).rows[0]
    return row.prompt, row.chosen, row.rejected


STEP = {
    "dataset": "made up",
    "prompt": "2 + 2 + 2?",
    "initial_reason_steps": "Let's think step by step.\nStep 1: 2 + 2 = 4\nStep 2:",
    "chosen": " 4 + 2 = 6",
    "rejected": " 4 + 2 = 7",
    "full_chosen": " 4 + 2 = 6\nFinal answer: 6",
    "full_rejected": " 4 + 2 = 7\nFinal answer: 7",
    "answer": "6",
}
