"""Word problems of one addition or subtraction up to 20, for a small pretrained chat model.

    python jobs/smollm2/problems.py         # rewrites train.jsonl, gate.jsonl and test.jsonl beside this file

    Nora has 8 shells. Nora finds 5 more. How many shells does Nora have now?

There are only 180 pairs of numbers, so the pairs are dealt out first, by a hash: a pair that is in `test` is in
no other part, neither added nor subtracted. The same numbers come back inside a part with another story, since
that is all the variety there is. The pair of the worked example in the prompt is in no part.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

HERE = Path(__file__).resolve().parent
NUM_ROWS = {"train": 384, "gate": 128, "test": 256}
SHARES = {"train": 50, "gate": 20, "test": 30}  # percent of the pairs of numbers
LARGEST = 20
EXAMPLE = (4, 9)  # the numbers of the worked example in the job file's template

NAMES = ("Ada", "Ben", "Chloe", "Dan", "Elif", "Femi", "Grace", "Hugo",
         "Ines", "Jun", "Kofi", "Lena", "Mira", "Nora", "Omar", "Petra")  # fmt: skip
THINGS = ("apples", "books", "cards", "coins", "eggs", "flowers", "marbles",
          "pens", "plums", "shells", "stamps", "stones", "tickets")  # fmt: skip
STORIES = {
    "+": ("{name} finds {k} more.", "{name} buys {k} more {things}.", "A friend gives {name} {k} more.",
          "Then {k} new {things} come in the post."),
    "-": ("{name} loses {k} of them.", "{name} gives away {k} {things}.", "{name} sells {k} of the {things}.",
          "Then {k} of them get lost."),
}  # fmt: skip
CLOSINGS = ("How many {things} does {name} have now?", "How many {things} are there in the end?")


def part_of(a: int, b: int) -> str | None:
    """The part that owns two numbers, in whatever order and however they are combined; None for the example's."""
    low, high = min(a, b), max(a, b)
    if (low, high) == EXAMPLE:
        return None
    ticket = int.from_bytes(hashlib.sha256(f"{low} {high}".encode()).digest()[:8], "big") % 100
    for part, share in SHARES.items():
        if ticket < share:
            return part
        ticket -= share
    raise AssertionError("SHARES must add up to 100")


def operations(part: str) -> list[tuple[int, str, int]]:
    """Every addition and subtraction that belongs to a part; all values are from 1 to LARGEST, operands from 2."""
    numbers = range(2, LARGEST + 1)
    mine = [(a, b) for a in numbers for b in numbers if part_of(a, b) == part]
    return [(a, "+", b) for a, b in mine if a + b <= LARGEST] + [(a, "-", b) for a, b in mine if a > b]


def rows(part: str) -> Iterator[dict[str, str]]:
    """The rows of one of the files: each question once, every operation used before one comes again."""
    rng = random.Random(f"ratchet smollm2 {part}")
    seen: set[str] = set()
    every = operations(part)
    while len(seen) < NUM_ROWS[part]:
        for a, sign, b in sorted(every, key=lambda _: rng.random()):
            question = _tell(rng, a, sign, b)
            if question in seen or len(seen) == NUM_ROWS[part]:
                continue
            seen.add(question)
            value = a + b if sign == "+" else a - b
            yield {
                "id": f"{part}-{len(seen):04d}",
                "question": question,
                "answer": str(value),
                "operation": f"{a} {sign} {b}",
            }


def _tell(rng: random.Random, a: int, sign: str, b: int) -> str:
    words = {"name": _pick(rng, NAMES), "things": _pick(rng, THINGS), "k": b}
    sentences = ("{name} has " + str(a) + " {things}.", _pick(rng, STORIES[sign]), _pick(rng, CLOSINGS))
    return " ".join(sentence.format(**words) for sentence in sentences)


def _pick(rng: random.Random, items: Sequence[T]) -> T:
    # Only random() is promised to give the same numbers in every version of Python; choice() is not.
    return items[int(rng.random() * len(items))]


def write(folder: Path) -> None:
    """Write train.jsonl, gate.jsonl and test.jsonl into a folder, with the same bytes every time."""
    for part in NUM_ROWS:
        text = "".join(json.dumps(row) + "\n" for row in rows(part))
        (folder / f"{part}.jsonl").write_bytes(text.encode())


if __name__ == "__main__":
    write(HERE)
    for part in NUM_ROWS:
        print(f"{part}: {NUM_ROWS[part]} rows, {len(operations(part))} operations, such as", *islice(rows(part), 1))
