"""Problems that lie in a file are a sequence as any other, and have the fingerprint of the list of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from orchestrator.config import Data
from orchestrator.errors import BadInput
from orchestrator.inputs.problem_set import ProblemSet, characters_of, digest_of_problems, selection
from orchestrator.inputs.problems import read_problems
from orchestrator.ledger import recipes
from orchestrator.ledger.recipes import Digest
from orchestrator.records.problem_files import handed_over, read_problem_file
from orchestrator.records.rows import Problem

PROBLEMS = [
    Problem(f"p{n}", f"{n}: é\n\u2028" + "x" * (n % 7 * 99_999), str(n), f"s{n}" if n % 3 else None) for n in range(40)
]
"""Of more than is read at once, with lines in their texts."""


def test_it_is_the_list_of_them() -> None:
    problems = ProblemSet(iter(PROBLEMS))
    assert list(problems) == list(problems) == PROBLEMS and len(problems) == len(PROBLEMS)
    assert [problems[n] for n in (0, 7, -1)] == [PROBLEMS[n] for n in (0, 7, -1)]
    assert list(problems[3:9:2]) == PROBLEMS[3:9:2] and not ProblemSet() and list(ProblemSet()) == []
    assert characters_of(problems) == characters_of(PROBLEMS)
    with pytest.raises(IndexError):
        problems[len(PROBLEMS)]


def test_a_selection_is_in_its_own_order() -> None:
    order = [5, 3, 3, 39, 0]
    chosen = selection(ProblemSet(PROBLEMS), order)
    assert list(chosen) == selection(PROBLEMS, order) == [PROBLEMS[n] for n in order]
    assert chosen[1] == PROBLEMS[3] and list(chosen[1:3]) == [PROBLEMS[3]] * 2 and len(chosen) == 5


@pytest.mark.parametrize("number", [0, 1, 40])
def test_fingerprints_are_those_of_lists_and_are_made_once(number: int) -> None:
    rows = PROBLEMS[:number]
    problems, asked = ProblemSet(rows), list[str]()
    problems.known.on_digest = lambda: asked.append("made")
    for of in (problems, selection(problems, range(number - 1, -1, -1))):
        now = list(of)
        for _ in range(2):
            assert recipes.fingerprint({"of": digest_of_problems(of)}) == recipes.fingerprint({"of": Digest(now)})
            assert recipes.of_recipe_1(digest_of_problems(of)) == recipes.of_recipe_1(Digest(now))
    assert len(asked) == 4
    # As earlier versions made them: of all rows at once.
    assert recipes.fingerprint({"of": Digest(rows)}) == recipes.fingerprint(
        {"of": recipes.durable.fingerprint([recipes._Recipe(recipes.RECIPE, None, {}).of(row) for row in rows])}
    )


def test_they_are_handed_over_in_a_file_that_goes(tmp_path: Path) -> None:
    (tmp_path / "prompts").mkdir()
    with handed_over(PROBLEMS, tmp_path / "prompts/train.parquet") as file:
        assert list(read_problem_file(file)) == PROBLEMS and file.name.endswith("-e0")
    assert list((tmp_path / "prompts").iterdir()) == []


def read(path: Path, *rows: Any) -> ProblemSet:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return read_problems(Data.model_validate({"train": "t"}), "train", {"train": path})


def test_of_two_errors_the_one_that_stands_above_is_told(tmp_path: Path) -> None:
    def row(name: str) -> dict[str, str]:
        return {"id": name, "question": "q", "answer": "1"}

    file = tmp_path / "train.jsonl"
    with pytest.raises(BadInput, match=r"line 3: id 'b' stands at .*line 2 too"):
        read(file, row("a"), row("b"), row("b"), "no JSON", row("a"))
    with pytest.raises(BadInput, match="line 2: not JSON"):
        read(file, row("a"), "no JSON", row("a"))
    with pytest.raises(BadInput, match=r"line 4: id 'a' stands at .*line 1 too"):
        read(file, row("a"), row("b"), row("c"), row("a"), row("b"))
