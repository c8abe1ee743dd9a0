"""The section `reward`: what makes no sense is refused, with the cure."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from orchestrator.config import Job
from orchestrator.config.idle import idle
from orchestrator.config.reward import needs_golds

MODELS = [{"model": "reward"}]
DATA = {"train": "t.jsonl", "gate": "g.jsonl", "test": "e.jsonl"}
JOB: dict[str, Any] = {"name": "r", "model": "m", "data": DATA, "loss": {"nll": 0}}
IMITATE = {"pairs": {"rule": "best"}, "loss": {"dpo": 0, "nll": 1}}


def job(**changes: Any) -> Job:
    return Job.model_validate(JOB | {"reward": {"models": MODELS}, "pairs": {"rule": "best_worst"}} | changes)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            {"pairs": {"rule": "zip"}},
            "so that nothing reads it: set `pairs.rule` to `best_worst`",
        ),
        ({"pairs": {"rule": "longest_correct"}}, "goes by verdicts"),
        ({"source": "gold", "loss": {"dpo": 0, "nll": 1}, "data": DATA | {"solution": "s"}}, "nothing reads it"),
        ({"source": "judge"}, "`source: judge` nothing reads it: leave one of the two out"),
        (
            {"data": DATA | {"solution": "s"}, "pairs": {"rule": "best_worst", "gold_as_chosen": True}},
            "a gold solution has no score",
        ),
        ({"train": {"eval_every": 1, "select": "best", "retrain": True}}, "`reward` scores none of these"),
        ({"reward": {"models": MODELS * 2}}, "has 'reward' twice: give it once, with the sum of the weights"),
        ({"reward": {"models": []}}, "at least 1 item"),
        ({"reward": {"models": [{"model": "reward", "weight": 0}]}}, "0 counts nothing"),
        ({"reward": {"models": [{"model": "reward", "weight": -1e300}]}}, "sums are no numbers any more"),
        ({"reward": {"models": [{"model": "run:sft"}]}}, "name a folder or a model on the Hub"),
        ({"pairs": {"rule": "best"}}, "none to imitate gold solutions or samples: set `loss.dpo: 0` and `loss.nll: 1`"),
        (IMITATE | {"reward": None}, "give `reward`, or set `pairs.rule: correct`"),
        (IMITATE | {"generate": {"samples": 1}}, "the best of one sample is no choice"),
        ({"generate": {"wave_samples": 2}}, "stops asking a prompt once no further sample could"),
        ({"data": {"train": "t.jsonl", "test": "e.jsonl"}}, "needs `data.gate`"),
        (
            {"data": {"train": "t.jsonl"}, "promotion": {"rule": "always"}, "reward": None},
            "needs `data.test`, held-out problems",
        ),
        (
            {"data": {"train": "t.jsonl"}, "promotion": {"rule": "always"}}
            | {"reward": {"models": MODELS, "verdict_weight": 1}},
            "needs `data.test`, held-out problems",
        ),
    ],
)
def test_what_makes_no_sense_is_refused(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError) as refused:
        job(**changes)
    assert told in str(refused.value)


def test_what_makes_sense_is_taken() -> None:
    assert job().reward is not None and Job.model_validate(JOB).reward is None
    assert job(pairs={"rule": "margin", "margin": 3.0}).pairs.margin == 3.0, "scores have no bounds"
    assert job(**IMITATE).pairs.rule == "best"
    assert job(data={"train": "t.jsonl"}, promotion={"rule": "always"}).data.sources.keys() == {"train"}
    assert job(pairs={"rule": "best_rest"}, loss={"form": "softmax", "nll": 0}).reward is not None


def test_only_what_verdicts_decide_needs_gold_answers() -> None:
    assert not needs_golds(job()) and needs_golds(job(), "gate") and needs_golds(job(), "tests.math")
    assert needs_golds(Job.model_validate(JOB))
    assert needs_golds(job(reward={"models": MODELS, "verdict_weight": 0.5}))
    assert needs_golds(job(generate={"adapt_temperature": {}}))
    drawn = {"prompts": "split", "prompts_per_round": 4, "curriculum": {}}
    assert needs_golds(job(data=DATA | drawn))


def test_steps_are_named_by_the_models_number() -> None:
    reward = job(reward={"models": [{"model": "a"}, {"model": "b", "weight": -1}]}).reward
    assert reward is not None
    assert reward.phases() == ["rewards", "reward/2/rewards"]
    assert {step: model.model for step, model in reward.kept().items()} == {
        "baseline/reward/1": "a",
        "baseline/reward/2": "b",
    }


def test_one_pair_a_prompt_reads_no_number_of_them() -> None:
    assert any("`pairs.per_prompt`" in line for line in idle(job(pairs={"rule": "best_worst", "per_prompt": 2})))
    assert idle(job(pairs={"rule": "margin", "per_prompt": 2})) == []
