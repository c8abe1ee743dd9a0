"""Answers of many kinds with the verdict that each must get (grading_kinds.jsonl), graded as a job would.

"label" is what a person says. Where "verdict" stands beside it, the graders say nothing of an answer that a person can
judge; every other one gets its label. Labels that are "ungradable" are of answers that may be right or wrong.
"""

from __future__ import annotations

import json
from pathlib import Path

from orchestrator.config import Grade
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
