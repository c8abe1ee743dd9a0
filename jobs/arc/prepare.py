"""ARC-Challenge from the Hugging Face Hub as problems: python jobs/arc/prepare.py writes train, gate and test here.

The Hub's rows hold the options as lists. Here each question is written out with its options, as a job does by itself
where `data.choices` names their field. Gate is the data set's validation split.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

SPLITS = {"train": "train", "gate": "validation", "test": "test"}


def problem(row: Mapping[str, Any]) -> dict[str, str]:
    """A problem whose answer is an option's letter (a few questions have numbers instead)."""
    options = zip(row["choices"]["label"], row["choices"]["text"], strict=True)
    question = "\n".join([row["question"], *(f"({label}) {text}" for label, text in options)])
    return {"id": row["id"], "question": question, "answer": row["answerKey"]}


def main() -> None:
    from datasets import load_dataset

    for name, split in SPLITS.items():
        rows = load_dataset("allenai/ai2_arc", "ARC-Challenge", split=split)
        lines = [json.dumps(problem(row), ensure_ascii=False) for row in rows]
        (Path(__file__).parent / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        print(f"{name}.jsonl: {len(lines)} problems")


if __name__ == "__main__":
    main()
