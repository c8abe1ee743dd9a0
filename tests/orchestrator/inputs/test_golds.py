"""Gold answers that are worked solutions, or lists of accepted answers."""

from __future__ import annotations

import json

import pytest

from orchestrator.config import Grade, Judge
from orchestrator.records.golds import accepted, joined, shown
from tests.support.judge_server import Asked, serve
from workers.graders.combine import build
from workers.graders.golds import unwrapped
from workers.grading.pool import GraderPool

DEFAULT = ["exact", "number", "math"]


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        ("7", "7"),
        ("3 + 4 = <<3+4=7>>7 pens.\n#### 7", "7"),
        ("3 + 4 is 7 #### 7", "7"),
        ("####7", "7"),
        ("so it is $\\boxed{7}$.", "7"),
        ("#### \\boxed{7}", "7"),
        ("#### Answer\nThus \\boxed{7}", "7"),
        ("\\boxed{6}, no:\n#### 7", "7"),
        ("It is \\boxed{7}\n####", "7"),
        ("#### 1,234 \nand a remark", "1,234"),
        ("a # sign", "a # sign"),
    ],
)
def test_a_worked_solution_is_its_answer(gold: str, answer: str) -> None:
    assert unwrapped(gold) == answer


@pytest.mark.parametrize("gold", ["3 + 4 = 7 pens\n#### 7", "They have $\\boxed{7}$ pens"])
@pytest.mark.parametrize("graders", [DEFAULT, ["number"], ["exact"], ["math"]])
def test_boxes_and_hashes_are_unwrapped_alike(gold: str, graders: list[str]) -> None:
    grade = build(graders)
    assert (grade(gold, "7").verdict, grade(gold, "8").verdict) == ("correct", "wrong")


@pytest.mark.parametrize(
    ("golds", "answer", "verdict"),
    [
        (["18", "eighteen dollars"], "18", "correct"),
        (["Bob", "Robert"], "robert", "correct"),
        (["Bob", "Robert"], "Alice", "wrong"),
        (["1/2", "2"], "0.5", "correct"),
        (["1/2", "2"], "3", "wrong"),
        (["\\boxed{1}", "#### 2"], "2", "correct"),
    ],
)
def test_any_accepted_answer_is_right_and_what_is_none_of_them_is_wrong(
    golds: list[str], answer: str, verdict: str
) -> None:
    assert build(DEFAULT)(joined(golds), answer).verdict == verdict


def test_wrong_against_one_accepted_answer_alone_is_no_evidence() -> None:
    judgement = build(["number"])(joined(["18", "a score"]), "19")
    assert judgement.verdict == "ungradable" and "a score" in (judgement.reason or "")
    grade = build([{"all_of": ["number", "regex:(cm|m)"]}])
    assert grade(joined(["5 cm", "6 m"]), "6 m").verdict == "correct"
    assert grade(joined(["5 cm", "6 m"]), "6 cm").verdict == "wrong"


def test_a_pool_takes_lists_and_a_judge_is_asked_about_each() -> None:
    def opinion(asked: Asked) -> object:
        pair = json.loads(asked.question)
        same = pair["correct answer"][0] == pair["given answer"][0]
        return {"reason": "so", "verdict": "same" if same else "different"}

    golds = joined(["Paris", "Lutetia"])
    settings = Grade(graders=["exact", "judge"], processes=1, audit=True)
    with serve(opinion) as server:
        judge = Judge(model="judge-1", base_url=server.address, retries=0)
        with GraderPool(settings, judge) as pool:
            items = [(golds, f"\\boxed{{{answer}}}", "stop") for answer in ("lutetia", "Lyon", "Rome")]
            assert [one.verdict for one in pool.grade(items)] == ["correct", "correct", "wrong"]
        assert {json.loads(asked.question)["correct answer"] for asked in server.asked} == {"Paris", "Lutetia"}


def test_a_list_is_one_text_and_back() -> None:
    assert accepted(joined(["[1, 2]", "1 | 2", "[1, 2]"])) == ["[1, 2]", "1 | 2"]
    assert shown(joined(["a", "b"])) == "a | b" and shown("[1, 2]") == "[1, 2]"
