"""The job files with the paper's settings: the settings, and what they make of a row as the Hub has it."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import pytest

from orchestrator.config.load import load_job
from orchestrator.inputs.problems import read_problems
from orchestrator.records.rows import Problem

JOBS = Path(__file__).parents[3] / "jobs"


@pytest.mark.parametrize(
    ("name", "rounds", "samples", "pairs", "temperature", "steps"),
    [
        ("gsm8k", 4, 30, 10, [0.8, 0.8, 1.3, 1.3], 5000),
        ("arc", 3, 30, 20, [0.8, 0.8, 1.3], 4000),
        ("math", 3, 20, 15, [0.8, 0.8, 1.0], 5000),
    ],
)
def test_settings_are_the_papers(
    name: str, rounds: int, samples: int, pairs: int, temperature: list[float], steps: int
) -> None:
    job = load_job(JOBS / f"irpo-{name}.yaml").job
    assert (job.rounds, job.generate.samples, job.pairs.per_prompt) == (rounds, samples, pairs)
    assert (job.generate.temperature, job.train.max_steps) == (temperature, steps)
    assert (job.train.select, job.train.retrain) == ("best", True)
    assert (job.loss.beta, job.loss.dpo, job.loss.nll, job.loss.nll_normalisation) == (0.1, 1.0, 1.0, "sequence")
    assert (job.train.learning_rate, job.train.batch_pairs, job.data.prompts) == (7e-7, 16, "same")
    assert (job.init, job.reference, job.promotion.rule) == ("previous", "previous", "always")
    assert job.pairs.gold_as_chosen == (name == "gsm8k")
    assert job.grade.unreadable == "wrong"


def problem_of(name: str, row: dict[str, Any], folder: Path) -> Problem:
    rows = folder / "rows.jsonl"
    rows.write_text(json.dumps(row) + "\n")
    data = load_job(JOBS / f"irpo-{name}.yaml", [f"data.train={{path: {rows}}}"]).job.data
    [problem] = read_problems(data, "train", {"train": rows})
    return problem


def test_a_row_of_gsm8k(tmp_path: Path) -> None:
    row = {
        "question": "Q?",
        "answer": "Two and two are <<2+2=4>>4.\nAnd a thousand more is <<4+1000=1004>>1,004.\n#### 1,004",
    }
    problem = problem_of("gsm8k", row, tmp_path)
    assert problem.gold == "1,004"
    assert problem.solution == "Two and two are 4.\nAnd a thousand more is 1,004.\nFinal answer: 1,004"
    assert problem.text.endswith("\n\nQ?")


def test_a_row_of_arc(tmp_path: Path) -> None:
    prepare = runpy.run_path(str(JOBS / "arc/prepare.py"))
    choices = {"text": ["a stone", "a bird"], "label": ["A", "B"]}
    row = prepare["problem"]({"id": "x1", "question": "Which can fly?", "choices": choices, "answerKey": "B"})
    problem = problem_of("arc", row, tmp_path)
    assert problem.text.endswith("\n\nWhich can fly?\n(A) a stone\n(B) a bird")
    assert (problem.prompt_id, problem.gold) == ("x1", "B")


def test_a_row_of_math(tmp_path: Path) -> None:
    row = {"problem": "What is $\\frac{1}{2}+1$?", "solution": "...", "answer": "\\frac{3}{2}"}
    problem = problem_of("math", row, tmp_path)
    assert problem.gold == "\\frac{3}{2}"
    assert problem.text.count("Final answer: $\\boxed{") == 4
    assert problem.text.endswith("Problem: What is $\\frac{1}{2}+1$?")
    assert "{{" not in problem.text
