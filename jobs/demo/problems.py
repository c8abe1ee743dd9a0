"""Arithmetic word problems for the demo: a small family, drawn the same way on every machine.

    python jobs/demo/problems.py            # rewrites train.jsonl, gate.jsonl and test.jsonl beside this file

A problem is a chain of one to three operations on small whole numbers, told as a story:

    Nora has 5 shells. Nora finds 3 more. Nora splits them into 2 equal piles and keeps one pile.
    How many shells does Nora have now?

Its key, `operations`, is the chain without the words: ["5", "+3", "/2"]. Chains of two or three operations
are dealt to four parts (seed, train, gate, test) by a hash of the key, so no chain of one part can turn up in
another. There are too few chains of one operation to share out: they belong to `seed` and `train` alike, and
to no held-out part.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

HERE = Path(__file__).resolve().parent
NUM_ROWS = {"train": 1800, "gate": 400, "test": 640}
HELD_OUT = ("gate", "test")
# Percent of the chains of two or three operations that each part owns.
SHARES = {"seed": 48, "train": 18, "gate": 13, "test": 21}
# How often a chain has one, two or three operations, out of 100.
LENGTH_WEIGHTS = {1: 54, 2: 30, 3: 16}

STARTS = range(3, 13)
OPERANDS = {"+": range(2, 10), "-": range(2, 10), "*": range(2, 6), "/": range(2, 6)}
VALUES = range(1, 21)

NAMES = ("Ada", "Ben", "Chloe", "Dan", "Elif", "Femi", "Grace", "Hugo",
         "Ines", "Jun", "Kofi", "Lena", "Mira", "Nora", "Omar", "Petra")  # fmt: skip
THINGS = ("apples", "books", "cards", "coins", "eggs", "flowers", "marbles",
          "pens", "plums", "shells", "stamps", "stones", "tickets")  # fmt: skip
STORIES = {
    "+": ("{name} finds {k} more.", "{name} buys {k} more {things}.", "A friend gives {name} {k} more.",
          "Then {k} new {things} come in the post."),
    "-": ("{name} loses {k} of them.", "{name} gives away {k} {things}.", "{name} sells {k} of the {things}.",
          "Then {k} of them break."),
    "*": ("A wizard turns them into {k} times as many.",
          "{name} works until there are {k} times as many {things}.",
          "Soon {name} has {k} times that number."),
    "/": ("{name} splits them into {k} equal piles and keeps one pile.",
          "{name} shares the {things} equally among {k} people and is one of them.",
          "After a storm only one in {k} is left."),
}  # fmt: skip
CLOSINGS = (
    "How many {things} does {name} have now?",
    "How many {things} are there in the end?",
    "What is the number of {things} that {name} ends up with?",
)


@dataclass(frozen=True)
class Problem:
    """One problem. `closing` is the index in CLOSINGS of the sentence that asks the question.

    Problem("Nora has 5 shells. Nora finds 3 more. How many shells does Nora have now?", 8, ("5", "+3"), 0)
    """

    question: str
    answer: int
    operations: tuple[str, ...]
    closing: int

    @property
    def direct(self) -> str:
        """The answer without any working."""
        return f"Final answer: {self.answer}"

    @property
    def solution(self) -> str:
        """The worked answer: one `Step k:` line an operation, then the final answer."""
        value, lines = int(self.operations[0]), []
        for number, operation in enumerate(self.operations[1:], 1):
            after = apply(value, operation)
            lines.append(f"Step {number}: {value} {operation[0]} {operation[1:]} = {after}")
            value = after
        return "\n".join([*lines, self.direct])


def apply(value: int, operation: str) -> int:
    """The value after an operation such as "+3"; ValueError for an unknown sign or an inexact division."""
    sign, k = operation[0], int(operation[1:])
    if sign == "+":
        return value + k
    if sign == "-":
        return value - k
    if sign == "*":
        return value * k
    if sign == "/" and value % k == 0:
        return value // k
    raise ValueError(f"cannot apply {operation!r} to {value}: use +, -, * or an exact /")


def part_of(operations: Sequence[str]) -> str:
    """The part that owns a chain of two or three operations: a hash decides, so it never changes."""
    ticket = int.from_bytes(hashlib.sha256(" ".join(operations).encode()).digest()[:8], "big") % 100
    for part, share in SHARES.items():
        if ticket < share:
            return part
        ticket -= share
    raise AssertionError("SHARES must add up to 100")


def problems(part: str) -> Iterator[Problem]:
    """An endless, repeatable stream of the problems of one part; no question comes twice.

    Held-out parts have no problem of one operation and no chain twice: every row tests something else.
    """
    rng = random.Random(f"ratchet demo {part}")
    seen: set[object] = set()
    while True:
        operations = _draw_operations(rng, part)
        problem = _tell(rng, operations)
        key = operations if part in HELD_OUT else problem.question
        if key not in seen:
            seen.add(key)
            yield problem


def base_problems(count: int = 20_000) -> list[Problem]:
    """The problems that the base model learns from; made on the fly, never written."""
    return list(islice(problems("seed"), count))


def _pick(rng: random.Random, items: Sequence[T]) -> T:
    # Only random() is promised to give the same numbers in every version of Python; choice() is not.
    return items[int(rng.random() * len(items))]


def _draw_operations(rng: random.Random, part: str) -> tuple[str, ...]:
    """A chain that belongs to `part`: first the length, then chains until one fits."""
    lengths = [n for n, weight in LENGTH_WEIGHTS.items() for _ in range(weight) if n > 1 or part not in HELD_OUT]
    length = _pick(rng, lengths)
    while True:
        value = _pick(rng, STARTS)
        chain = [str(value)]
        for _ in range(length):
            # The sign first, then its number: otherwise + and - would crowd out the other two.
            by_sign = [found for sign in OPERANDS if (found := _possible(value, sign))]
            operation = _pick(rng, _pick(rng, by_sign))
            chain.append(operation)
            value = apply(value, operation)
        if length == 1 or part_of(chain) == part:
            return tuple(chain)


def _possible(value: int, sign: str) -> list[str]:
    """The operations of one sign that keep the value whole and in range."""
    exact = [f"{sign}{k}" for k in OPERANDS[sign] if sign != "/" or value % k == 0]
    return [operation for operation in exact if apply(value, operation) in VALUES]


def _tell(rng: random.Random, operations: tuple[str, ...]) -> Problem:
    """Put a chain into words."""
    name, things, closing = _pick(rng, NAMES), _pick(rng, THINGS), _pick(rng, range(len(CLOSINGS)))
    value = int(operations[0])
    sentences = [f"{name} has {value} {things}."]
    for operation in operations[1:]:
        story = _pick(rng, STORIES[operation[0]])
        sentences.append(story.format(name=name, things=things, k=operation[1:]))
        value = apply(value, operation)
    sentences.append(CLOSINGS[closing].format(name=name, things=things))
    return Problem(" ".join(sentences), value, operations, closing)


def rows(part: str) -> Iterator[dict[str, object]]:
    """The rows of one of the files, as they are written."""
    for number, problem in enumerate(islice(problems(part), NUM_ROWS[part]), 1):
        yield {
            "id": f"{part}-{number:04d}",
            "question": problem.question,
            "answer": str(problem.answer),
            "solution": problem.solution,
            "operations": list(problem.operations),
        }


def write(folder: Path) -> None:
    """Write train.jsonl, gate.jsonl and test.jsonl into a folder, with the same bytes every time."""
    folder.mkdir(parents=True, exist_ok=True)
    for part in NUM_ROWS:
        text = "".join(json.dumps(row) + "\n" for row in rows(part))
        (folder / f"{part}.jsonl").write_bytes(text.encode())


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the demo's problems.")
    parser.add_argument("--out", type=Path, default=HERE, help="folder (default: beside this file)")
    write(parser.parse_args().out)


if __name__ == "__main__":
    main()
