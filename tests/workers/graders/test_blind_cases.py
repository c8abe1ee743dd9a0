"""Answers that were labelled without a look at the graders (grading_blind.jsonl), graded as a job would."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

from orchestrator.config import Grade
from workers.grading.pool import Graded, GraderPool

CASES = [json.loads(line) for line in (Path(__file__).parent / "grading_blind.jsonl").read_text().splitlines()]


def graded_by(graders: str) -> list[tuple[dict[str, str], Graded]]:
    """The cases for these graders, without those whose label goes against a convention of docs/grading.md."""
    cases = [case for case in CASES if case["graders"] == graders and not case.get("convention")]
    with GraderPool(Grade() if graders == "default" else Grade(graders=[graders])) as pool:
        graded = pool.grade([(case["gold"], case["text"], "stop") for case in cases])
    return list(zip(cases, graded, strict=True))


def test_no_verdict_contradicts_its_label_and_few_say_nothing() -> None:
    judged = [one for graders in ("default", "choice", "exact") for one in graded_by(graders)]
    contrary = [
        (case["gold"], case["text"], one) for case, one in judged if one.verdict not in (case["label"], "ungradable")
    ]
    assert contrary == []
    labels = Counter(case["label"] for case, _ in judged)
    silent = Counter(case["label"] for case, one in judged if one.verdict == "ungradable")
    assert silent["correct"] <= 0.05 * labels["correct"]
    assert silent["wrong"] <= 0.25 * labels["wrong"]
