"""Prompts of which most have no gold answer, for jobs/reward.yaml.

    python jobs/demo/make_prompts.py            # rewrites prompts.jsonl beside this file

They are the problems of train.jsonl without solution and answer. Every fifth one keeps its answer: by these, a run
tells how far its reward can be trusted.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from problems import HERE

KEPT = 5


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the demo's prompts without gold answers.")
    parser.add_argument("--out", type=Path, default=HERE, help="folder to write into")
    arguments = parser.parse_args()
    rows = [json.loads(line) for line in (HERE / "train.jsonl").read_text().splitlines()]
    with open(arguments.out / "prompts.jsonl", "w", encoding="utf-8") as file:
        for number, row in enumerate(rows):
            keys = ("id", "question", "answer") if number % KEPT == 0 else ("id", "question")
            file.write(json.dumps({key: row[key] for key in keys}) + "\n")
    print(f"{arguments.out}: prompts.jsonl written")


if __name__ == "__main__":
    main()
