"""Questions that stand more than once in one set are told before a run starts, and do not hold it up."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.inputs.repeated import repeated_lines
from orchestrator.records.rows import Problem
from tests.orchestrator.test_cli import ratchet
from tests.support.stand_ins import StandIns, make_project, run_job


def problems(*said: tuple[str, str]) -> Sequence[Problem]:
    return [Problem(f"p{number}", text, gold, None) for number, (text, gold) in enumerate(said)]


def test_what_is_repeated_is_told_with_an_example() -> None:
    rows = problems(("a", "1"), ("b", "2"), ("a", "1"), ("b", "3"), ("c", "4"), ("a", "1"))
    (said,) = repeated_lines({"gate": rows})
    assert said.startswith(
        "data.gate: 3 of 6 problems have the very text of an earlier one, 1 of them with another gold"
    )
    assert "('p3' that of 'p1')" in said and "counts" not in said and "count each as a problem of its own" in said
    (said,) = repeated_lines({"train": problems(("a", "1"), ("a", "1")), "test": problems(("a", "1"), ("b", "1"))})
    assert said.startswith("data.train: 1 of 2 problems") and "gold" not in said and "sampled as often" in said


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("12"))))
def test_as_counting_one_by_one_has_it(said: list[tuple[str, str]]) -> None:
    first: dict[str, str] = {}
    again = [gold != first[text] for text, gold in said if first.setdefault(text, gold) is not None]
    number = len(said) - len(first)
    lines = repeated_lines({"gate": problems(*said)})
    assert bool(lines) == bool(number)
    if lines:
        assert f": {number} of {len(said)} problems" in lines[0]
        assert (f", {sum(again)} of them with another gold answer" in lines[0]) == any(again)


@pytest.mark.parametrize("rows", [[], problems(("a", "1")), problems(("a", "1"), ("b", "1"))])
def test_nothing_is_told_where_nothing_is_repeated(rows: Sequence[Problem]) -> None:
    assert repeated_lines({"train": rows, "gate": rows}) == []


def test_validate_and_a_new_run_tell_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    job, file = make_project(tmp_path, rounds=1), tmp_path / "gate.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    again = {**rows[0], "id": "again"} if "id" in rows[0] else rows[0]
    file.write_text("".join(json.dumps(row) + "\n" for row in (*rows, again)))
    said = f"repeated  data.gate: 1 of {len(rows) + 1} problems have the very text of an earlier one"
    assert ratchet("validate", job) == 0
    assert said in " ".join(capsys.readouterr().out.split()).replace("repeated ", "repeated  ")
    told = run_job(job, StandIns())
    assert sum(line.startswith(said) for line in told) == 1
    assert not any(line.startswith("repeated") for line in run_job(job, StandIns()))
