"""Answers of many kinds with the verdict that each must get (grading_kinds.jsonl), graded as a job would.

"label" is what a person says. Where "verdict" stands beside it, the graders say nothing of an answer that a person can
judge; every other one gets its label. Labels that are "ungradable" are of answers that may be right or wrong.
"""

from __future__ import annotations

import json
from pathlib import Path

from orchestrator.config import Grade
from workers.graders import choice
from workers.grading.pool import GraderPool

CASES = [json.loads(line) for line in (Path(__file__).parent / "grading_kinds.jsonl").read_text("utf-8").splitlines()]


def test_each_answer_gets_its_verdict() -> None:
    with GraderPool(Grade()) as pool:
        graded = pool.grade([(case["gold"], case["text"], "stop") for case in CASES])
    other = [
        (case["kind"], case["gold"], case["text"], one.verdict, one.reason)
        for case, one in zip(CASES, graded, strict=True)
        if one.verdict != case.get("verdict", case["label"])
    ]
    assert other == []


def test_few_answers_that_a_person_can_judge_are_left_without_a_verdict() -> None:
    silent = [case for case in CASES if case.get("verdict", case["label"]) != case["label"]]
    assert all(case["verdict"] == "ungradable" for case in silent)
    assert len(silent) <= 0.05 * len(CASES)


ALSO_RIGHT_AS_AN_OPTION = {("(A)(x+1)", "A"), ("3/4", "1 - 3/4"), ("7", "7 over 2")}
"""Cases that a grader of options takes for something else."""


def test_a_grader_of_options_takes_no_other_kind_of_wrong_answer_for_right() -> None:
    folder = Path(__file__).parent
    files = ("grading_kinds.jsonl", "grading_math.jsonl", "grading_numbers.jsonl")
    cases = [json.loads(line) for file in files for line in (folder / file).read_text("utf-8").splitlines()]
    wrong = [
        (case["gold"], case.get("answer") or case["text"].removeprefix("Final answer: "))
        for case in cases
        if case["label"] == "wrong"
    ]
    assert len(wrong) > 1000
    taken = {one for one in wrong if choice.grade(*one).verdict == "correct"}
    assert taken <= ALSO_RIGHT_AS_AN_OPTION
