"""The judge as localiser of the first wrong step, against a server that knows arithmetic."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator.config import Judge
from orchestrator.records.reasoning_steps import StepItem, StepJudgement
from tests.support.judge_server import Asked, JudgeServer, refusal, serve
from workers.judge.client import JudgeBudgetSpent, JudgeClient
from workers.judge.reasoning_steps import judge_steps, question

ITEM = StepItem("What is (2 + 3) * 4?", "2 + 3 = 5, and 5 * 4 = 20.", "20", ("2 + 3 = 5", "5 * 4 = 20", "20 = 20"))
WRONG = replace(ITEM, steps=("2 + 3 = 5", "5 * 4 = 25", "25 = 25"))


def client(server: JudgeServer, cache: Path | None = None, **changes: Any) -> JudgeClient:
    settings = Judge(model="judge-1", base_url=server.address, retries=1).model_copy(update=changes)
    return JudgeClient(settings, cache, pause=0.001)


def verdict(number: int, step: str) -> dict[str, Any]:
    found = re.fullmatch(r"(\d+) ([+*]) (\d+) = (\d+)", step)
    if not found:
        repeats = "=" in step and len(set(step.split(" = "))) == 1
        return {"step": number, "reason": "", "verdict": "correct" if repeats else "neutral"}
    a, b = int(found[1]), int(found[3])
    result = a + b if found[2] == "+" else a * b
    right = result == int(found[4])
    return {"step": number, "reason": f"it is {result}", "verdict": "correct" if right else "incorrect"}


def arithmetic(asked: Asked, stops: bool = True) -> dict[str, Any]:
    """A judge that calculates; with `stops` it ends at the first step that is not correct, as it was told."""
    steps = re.findall(r"\[Step \d+\]\n(.*)", asked.question)
    verdicts = [verdict(number, step) for number, step in enumerate(steps, start=1)]
    wrong = next((index for index, one in enumerate(verdicts) if one["verdict"] != "correct"), len(verdicts))
    return {"steps": verdicts[: wrong + 1] if stops else verdicts}


@pytest.mark.parametrize("stops", [True, False])
def test_the_first_wrong_step_is_found(stops: bool) -> None:
    items = [
        ITEM,
        WRONG,
        replace(ITEM, steps=("2 + 3 = 6", "6 * 4 = 24")),
        replace(ITEM, steps=("2 + 3 = 5", "Let us think", "5 * 4 = 21")),
        replace(ITEM, solution=None, steps=("2 + 3 = 5",)),
    ]
    with serve(lambda asked: arithmetic(asked, stops)) as server:
        found = judge_steps(client(server), items)
    assert [judgement.first_wrong for judgement in found] == [None, 1, 0, 1, None]
    assert [judgement.failed for judgement in found] == [None] * 5
    assert found[1] == StepJudgement(1, None, (("correct", "it is 5"), ("incorrect", "it is 20")))
    assert [len(judgement.verdicts) for judgement in found] == [3, 2, 1, 2, 1]
    assert found[3].verdicts[1] == ("neutral", "")


def test_a_right_answer_with_a_wrong_step_is_found_out() -> None:
    lucky = replace(ITEM, steps=("2 + 3 = 4", "4 * 4 = 20", "20 = 20"))
    with serve(arithmetic) as server:
        assert [j.first_wrong for j in judge_steps(client(server), [lucky, ITEM])] == [0, None]


def test_what_the_judge_is_shown() -> None:
    shown = question(ITEM)
    assert shown.startswith("Problem:\nWhat is (2 + 3) * 4?\n\nCorrect final answer: 20\n\nWorked solution:\n2 + 3 = 5")
    assert shown.endswith("in 3 steps:\n\n[Step 1]\n2 + 3 = 5\n\n[Step 2]\n5 * 4 = 20\n\n[Step 3]\n20 = 20")
    assert "Worked solution" not in question(replace(ITEM, solution=None))
    with serve(arithmetic) as server:
        judge_steps(client(server), [ITEM])
    schema = server.asked[0].body["response_format"]["json_schema"]["schema"]
    assert (schema["properties"]["steps"]["minItems"], schema["properties"]["steps"]["maxItems"]) == (1, 3)


RIGHT = [verdict(number, step) for number, step in enumerate(ITEM.steps, start=1)]
MALFORMED = {
    "none": [],
    "too few": RIGHT[:2],
    "too many": [*RIGHT, RIGHT[2] | {"step": 4}],
    "one left out": [RIGHT[0], RIGHT[2]],
    "from 0": [step | {"step": step["step"] - 1} for step in RIGHT],
    "another order": RIGHT[::-1],
    "another word": [RIGHT[0], RIGHT[1] | {"verdict": "wrong"}],
    "no reason": [{"step": 1, "verdict": "incorrect"}],
}


@pytest.mark.parametrize("steps", MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_reply_is_asked_again_and_given_up_then(steps: list[dict[str, Any]]) -> None:
    with serve(lambda asked: {"steps": steps} if asked.number == 0 else arithmetic(asked)) as server:
        assert judge_steps(client(server), [ITEM])[0].first_wrong is None
        assert len(server.asked) == 2
    with serve(lambda asked: {"steps": steps} if "[Step 3]" in asked.question else arithmetic(asked)) as server:
        short = replace(ITEM, steps=ITEM.steps[:2])
        lost, kept = judge_steps(client(server), [ITEM, short])
    assert (lost.first_wrong, lost.verdicts) == (None, ()) and lost.failed and "another form" in lost.failed
    assert kept == StepJudgement(None, None, (("correct", "it is 5"), ("correct", "it is 20")))


def test_an_answer_without_steps_is_not_asked_about() -> None:
    with serve(arithmetic) as server:
        found = judge_steps(client(server), [replace(ITEM, steps=()), WRONG, replace(ITEM, steps=())])
        assert judge_steps(client(server), []) == []
    assert [judgement.failed for judgement in found] == ["no steps", None, "no steps"] and found[1].first_wrong == 1
    assert len(server.asked) == 1


def test_a_question_that_the_endpoint_refuses_is_one_judgement_less() -> None:
    with serve(lambda asked: refusal(400, "too long") if "25" in asked.question else arithmetic(asked)) as server:
        found = judge_steps(client(server), [WRONG, ITEM])
    assert found[0].failed is not None and found[0].failed.endswith("HTTP 400: too long")
    assert found[1].failed is None


def test_judgements_survive_a_spent_budget(tmp_path: Path) -> None:
    items = [replace(WRONG, problem=f"{n}: {WRONG.problem}") for n in range(6)]
    with serve(arithmetic) as server:
        with pytest.raises(JudgeBudgetSpent):
            judge_steps(client(server, tmp_path, max_requests=4, concurrency=1), items)
        again = client(server, tmp_path, max_requests=6)
        assert [judgement.first_wrong for judgement in judge_steps(again, items)] == [1] * 6
        assert again.facts()["cached"] == 4 and len(server.asked) == 6
