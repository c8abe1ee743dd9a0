"""Judgements that the demo's base model learns from to score its own answers (jobs/self_rewarding-seed.yaml).

    python jobs/demo/make_judgements.py            # rewrites judgements.jsonl beside this file

Half of the rows are problems with answers in the model's own two ways, worked and direct, so that it goes on answering
as it did. The others show a problem and a response, and ask how good it is: "Score: 5" for a worked solution that is
right, "Score: 3" for a right answer without any working, "Score: 1" for a wrong answer. A model this small cannot
check a response it did not work out; it learns which way of answering tends to be right.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from problems import HERE, VALUES, Problem, problems

NUM_ROWS = 1200
QUESTION = "{question}\n{response}\nHow good is it?"
DIRECT_CHANCE = (0.9, 0.5, 0.1)  # by the index of the closing question, as in make_base.py
# How often a response that is judged is of a kind, out of 100.
KINDS = {"worked": 45, "slip": 10, "direct": 10, "wrong": 35}
SCORES = {"worked": 5, "slip": 1, "direct": 3, "wrong": 1}


def response(problem: Problem, kind: str, rng: random.Random) -> str:
    """An answer to a problem of one of the KINDS."""
    if kind == "worked":
        return problem.solution
    if kind == "direct":
        return problem.direct
    others = [value for value in VALUES if value != problem.answer]
    wrong = others[int(rng.random() * len(others))]
    if kind == "wrong":
        return f"Final answer: {wrong}"
    *lines, last, _ = problem.solution.split("\n")
    return "\n".join([*lines, f"{last.rpartition(' ')[0]} {wrong}", f"Final answer: {wrong}"])


def rows() -> Iterator[dict[str, str]]:
    rng = random.Random("ratchet demo judgements")
    kinds = [kind for kind, weight in KINDS.items() for _ in range(weight)]
    for number, problem in enumerate(islice(problems("seed"), NUM_ROWS)):
        row = {"id": f"judgement-{number:04d}", "question": problem.question, "answer": str(problem.answer)}
        if number % 2:
            direct = rng.random() < DIRECT_CHANCE[problem.closing]
            yield row | {"solution": problem.direct if direct else problem.solution}
            continue
        kind = kinds[int(rng.random() * len(kinds))]
        question = QUESTION.format(question=problem.question, response=response(problem, kind, rng))
        score = str(SCORES[kind])
        yield row | {"question": question, "answer": score, "solution": f"Score: {score}"}


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the demo's judgements.")
    parser.add_argument("--out", type=Path, default=HERE, help="folder (default: beside this file)")
    out = parser.parse_args().out
    (out / "judgements.jsonl").write_bytes("".join(json.dumps(row) + "\n" for row in rows()).encode())


if __name__ == "__main__":
    main()
