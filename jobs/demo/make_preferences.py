"""Preference data for the demo, from its training problems: two sources, the same bytes every time.

    python jobs/demo/make_preferences.py        # rewrites the two preferences-*.jsonl beside this file

The chosen side is the worked solution. In `preferences-slip.jsonl` the rejected side is a worked solution with one step
that slips, and goes on from there; in `preferences-direct.jsonl` it is a wrong answer without any working, which the
base model likes to give. No problem is in both.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
NUM_PAIRS = 400
SLIPS = (-2, -1, 1, 2)


def solution(operations: list[str], slipped: int | None = None, slip: int = 0) -> str:
    """The worked answer to a chain of operations; step `slipped` (from 1) is wrong by `slip`, and what follows goes on
    from there. ValueError where the chain then has no whole, positive number."""
    value, lines = int(operations[0]), []
    for number, operation in enumerate(operations[1:], 1):
        sign, k = operation[0], int(operation[1:])
        if sign == "/" and value % k:
            raise ValueError("not whole")
        after = {"+": value + k, "-": value - k, "*": value * k, "/": value // k}[sign]
        after += slip if number == slipped else 0
        if after < 1:
            raise ValueError("not positive")
        lines.append(f"Step {number}: {value} {sign} {k} = {after}")
        value = after
    return "\n".join([*lines, f"Final answer: {value}"])


def slipped(rng: random.Random, problem: dict[str, Any]) -> str:
    """A worked answer with one wrong step."""
    operations = problem["operations"]
    while True:
        step, slip = 1 + int(rng.random() * (len(operations) - 1)), SLIPS[int(rng.random() * len(SLIPS))]
        try:
            return solution(operations, step, slip)
        except ValueError:
            continue


def direct(rng: random.Random, problem: dict[str, Any]) -> str:
    """A wrong answer without any working, not far from the right one."""
    while True:
        answer = int(problem["answer"]) + int(rng.random() * 7) - 3
        if answer > 0 and answer != int(problem["answer"]):
            return f"Final answer: {answer}"


def rows(problems: list[dict[str, Any]], kind: str) -> Iterator[dict[str, str]]:
    """The rows of one source, as they are written."""
    rng = random.Random(f"ratchet demo preferences {kind}")  # only random() gives the same in every version of Python
    reject = {"slip": slipped, "direct": direct}[kind]
    for problem in problems:
        chosen = solution(problem["operations"])
        yield {"prompt": f"{problem['question']}\n", "chosen": chosen, "rejected": reject(rng, problem)}


def write(folder: Path) -> None:
    """Write both sources into a folder, with the same bytes every time."""
    problems = [json.loads(line) for line in (HERE / "train.jsonl").read_text().splitlines()]
    folder.mkdir(parents=True, exist_ok=True)
    for number, kind in enumerate(("slip", "direct")):
        text = "".join(json.dumps(row) + "\n" for row in rows(problems[number::2][:NUM_PAIRS], kind))
        (folder / f"preferences-{kind}.jsonl").write_bytes(text.encode())


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the demo's preference data.")
    parser.add_argument("--out", type=Path, default=HERE, help="folder (default: beside this file)")
    write(parser.parse_args().out)


if __name__ == "__main__":
    main()
