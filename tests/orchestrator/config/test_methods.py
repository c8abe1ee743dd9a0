"""The methods' settings against the papers' facts, and settings that make no sense together."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

from orchestrator.config import Job, Method, SelfRewarding, Steps
from orchestrator.config.idle import idle
from orchestrator.config.load import load_job
from orchestrator.config.methods import PRESETS
from orchestrator.errors import BadInput

DATA = {"train": "train.jsonl", "gate": "gate.jsonl", "test": "test.jsonl", "prompts_per_round": 8}
NEEDED: dict[str, dict[str, Any]] = {
    "sdpo": {"stages": {"sources": ["easy.jsonl", "hard.jsonl"]}},
    "sft": {"data": DATA | {"solution": "solution"}},
    "star": {"data": DATA | {"hint_template": "{question} Hint: {answer}\n"}},
}
"""What a method needs of the data, and cannot know."""


def job_of(tmp_path: Path, **settings: Any) -> Job:
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump({"name": "job", "model": "seed", "data": DATA} | settings))
    return load_job(path).job


def by_name(tmp_path: Path, method: str, **settings: Any) -> Job:
    return job_of(tmp_path, method=method, **(NEEDED.get(method, {}) | settings))


@pytest.mark.parametrize("split", [0, [2], "x", float("inf"), True])
def test_a_number_of_stages_that_is_none_is_refused_once(tmp_path: Path, split: Any) -> None:
    with pytest.raises(BadInput) as error:
        by_name(tmp_path, "sdpo", stages={"sources": ["a.jsonl"], "split": split})
    assert "stages.split: must be a whole number of at least 1" in str(error.value)
    assert "\n" not in str(error.value)  # nothing of `rounds`, which the file does not set


def test_every_method_has_its_settings() -> None:
    assert set(PRESETS) == set(get_args(Method))


@pytest.mark.parametrize(
    ("method", "source", "rule", "init", "reference", "dpo", "nll"),
    [
        ("irpo", "sample", "zip", "previous", "previous", 1, 1),
        ("sdpo", "dataset", None, "previous", "previous", 1, 0),
        ("step_dpo", "steps", None, "previous", "previous", 1, 0),
        ("dpo", "sample", "zip", "base", "base", 1, 0),
        ("sft", "gold", None, "base", None, 0, 1),
        ("star", "sample", "correct", "base", None, 0, 1),
        ("rft", "sample", "correct", "base", None, 0, 1),
        ("rest_em", "sample", "correct", "base", None, 0, 1),
        ("iterative_dpo", "sample", "best_worst", "previous", "base", 1, 0),
        ("self_rewarding", "judge", "best_worst", "previous", "previous", 1, 0),
    ],
)
def test_the_axes_are_those_of_the_table(
    tmp_path: Path, method: str, source: str, rule: str | None, init: str, reference: str | None, dpo: int, nll: int
) -> None:
    job = by_name(tmp_path, method)
    assert (job.source.type, job.init, job.loss.dpo, job.loss.nll) == (source, init, dpo, nll)
    assert reference in (None, job.reference)
    assert rule in (None, job.pairs.rule)


def test_the_papers_figures(tmp_path: Path) -> None:
    irpo = by_name(tmp_path, "irpo")
    assert (irpo.loss.beta, irpo.train.learning_rate, irpo.train.batch_pairs) == (0.1, 7e-7, 16)
    assert (irpo.loss.nll_scope, irpo.loss.nll_normalisation, irpo.pairs.replay) == ("response", "sequence", 0)
    sdpo = by_name(tmp_path, "sdpo")
    assert (sdpo.loss.beta, sdpo.train.learning_rate, sdpo.train.batch_pairs) == (0.1, 5e-7, 32)
    assert (sdpo.train.schedule, sdpo.train.warmup_ratio, sdpo.stages and sdpo.stages.order) == (
        "linear", 0.1, "easy_first",
    )  # fmt: skip
    step = by_name(tmp_path, "step_dpo")
    assert (step.loss.beta, step.train.learning_rate, step.train.batch_pairs) == (0.4, 5e-7, 128)
    assert (step.train.schedule, step.train.warmup_ratio, step.train.epochs) == ("cosine", 0.1, 8)
    assert (step.generate.samples, step.generate.temperature, step.generate.top_p) == (2, 0.8, 0.95)
    assert (step.train.max_tokens, Steps.of(step).rectifications, step.rounds) == (1024, 20, 1)
    rft = by_name(tmp_path, "rft")
    assert (rft.rounds, rft.generate.samples, rft.generate.temperature, rft.pairs.distinct) == (
        1,
        100,
        0.7,
        "equations",
    )
    rest = by_name(tmp_path, "rest_em")
    assert (rest.generate.samples, rest.generate.temperature, rest.pairs.per_prompt) == (32, 0.7, 10)
    iterative = by_name(tmp_path, "iterative_dpo")
    assert (iterative.generate.samples, iterative.generate.temperature_mix) == (8, [1.0, 0.7])
    assert (iterative.pairs.replay, iterative.pairs.replay_rounds, iterative.data.prompts) == (1.0, None, "new")
    rewarding = by_name(tmp_path, "self_rewarding")
    assert (rewarding.generate.samples, SelfRewarding.of(rewarding).samples, rewarding.data.prompts) == (4, 3, "new")
    assert (SelfRewarding.of(rewarding).lowest, SelfRewarding.of(rewarding).highest) == (0, 5)
    assert by_name(tmp_path, "star").generate.hint
    assert by_name(tmp_path, "dpo").rounds == 1


def test_what_the_file_says_goes_before_the_method(tmp_path: Path) -> None:
    job = by_name(tmp_path, "step_dpo", train={"warmup_steps": 5, "epochs": 2}, generate={"samples": 4})
    assert (job.train.warmup_steps, job.train.warmup_ratio, job.train.epochs) == (5, 0.0, 2)
    assert (job.generate.samples, job.generate.temperature) == (4, 0.8)
    fixed = by_name(tmp_path, "iterative_dpo", generate={"temperature": 0.9})
    assert (fixed.generate.temperature, fixed.generate.temperature_mix) == (0.9, None)


def test_a_stage_is_a_round(tmp_path: Path) -> None:
    assert by_name(tmp_path, "sdpo").rounds == 2
    assert by_name(tmp_path, "sdpo", stages={"sources": ["all.jsonl"], "split": 5}).rounds == 5
    assert by_name(tmp_path, "sdpo", rounds=1).rounds == 1


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"loss": {"dpo": 0, "nll": 0}}, "both 0 in round 1: there is nothing to learn"),
        ({"loss": {"dpo": [0, 0], "nll": 0}}, "both 0"),
        ({"pairs": {"rule": "correct"}}, "set `loss.dpo: 0`"),
        ({"source": "gold", "data": DATA | {"solution": "s"}}, "set `loss.dpo: 0`"),
        ({"method": "sft"}, "`source: gold` needs `data.solution`"),
        ({"pairs": {"gold_as_chosen": True}}, "`pairs.gold_as_chosen` needs `data.solution`"),
        ({"pairs": {"rejected": "any"}}, "`gold_as_chosen: only`"),
        ({"method": "star"}, "`data.hint_template`"),
        ({"method": "sdpo"}, "needs `stages.sources`"),
        ({"stages": {"sources": ["a.jsonl"]}}, "nothing reads it"),
        ({"method": "sdpo", "stages": {"sources": ["a.jsonl"]}, "pairs": {"replay": 0.5}}, "must not know its stage"),
        ({"method": "sdpo", "stages": {"sources": ["a.jsonl"]}, "rounds": 2}, "gives 1 chunks"),
        ({"method": "sdpo", "stages": {"sources": ["a.jsonl", "b.jsonl"], "split": 2}}, "cuts a single source"),
        ({"method": "self_rewarding", "pairs": {"rule": "zip"}}, "`pairs.rule: best_worst`, `margin` or `best_rest`"),
        ({"method": "step_dpo", "loss": {"dpo": 0, "nll": 1}}, "the rejected ones are the point"),
        ({"method": "step_dpo", "steps": {"localiser": "judge"}}, "need `judge.model`"),
        ({"data": {k: v for k, v in DATA.items() if k != "train"}}, "needs `data.train`"),
        ({"data": {k: v for k, v in DATA.items() if k != "prompts_per_round"} | {"prompts": "new"}}, "how many fresh"),
        ({"train": {"warmup_steps": 3, "warmup_ratio": 0.1}}, "not both"),
        ({"train": {"attention": "varlen", "precision": "fp32"}}, "`attention: varlen` computes in bfloat16"),
        ({"loss": {"dpo": [0, 1], "nll": 0}}, "both 0 in round 1"),
        ({"loss": {"dpo": [1, 0], "nll": [1, 1, 0]}}, "both 0 in round 3"),
        ({"generate": {"hint": True}, **NEEDED["star"]}, "set `pairs.rule: correct`"),
        (
            {"method": "star", "pairs": {"gold_as_chosen": True}}
            | {"data": NEEDED["star"]["data"] | {"solution": "solution"}},
            "`pairs.gold_as_chosen` gives all one",
        ),
        ({"method": "star", "data": DATA | {"hint_template": "{question} Hint!"}}, "no {answer}"),
        (
            {"method": "self_rewarding", "pairs": {"gold_as_chosen": True}, "data": DATA | {"solution": "s"}},
            "a gold solution has no score",
        ),
        (
            {"pairs": {"rule": "best_worst", "gold_as_chosen": "only"}, "data": DATA | {"solution": "s"}},
            "goes by scores alone",
        ),
        ({"method": "sft", "pairs": {"append_eos": False}, **NEEDED["sft"]}, "must learn to end"),
        ({"pairs": {"rule": "margin", "margin": 2}}, "no two scores from 0 to 1"),
        ({"method": "self_rewarding", "pairs": {"rule": "margin", "margin": 5.5}}, "no two scores from 0 to 5"),
        ({"self_judge": {"lowest": 5, "highest": 5}}, "must be below `highest`"),
        ({"self_judge": {"template": "{prompt}"}}, "no {response}"),
        (
            {"method": "self_rewarding", "generate": {"max_model_len": 512, "max_tokens": 64}},
            "leaves no room for a prompt",
        ),
        ({"generate": {"samples": 1}}, "`generate.samples` is 1 in round 1, and a pair takes a better and a worse"),
        ({"generate": {"samples": [8, 1]}}, "`generate.samples` is 1 in round 2"),
        ({"method": "self_rewarding", "generate": {"samples": 1}}, "`generate.samples` is 1 in round 1"),
        (
            {"generate": {"temperature": 0}},
            "`generate.temperature` is 0 in round 1: all samples of a prompt are then the same",
        ),
        ({"generate": {"temperature_mix": [0, 0]}}, "`generate.temperature_mix` is 0 in round 1"),
        ({"method": "step_dpo", "generate": {"temperature": 0}}, "`generate.temperature` is 0 in round 1"),
        (
            {"generate": {"temperature": [1, 0.9], "adapt_temperature": {}}},
            "decides the temperature of every round but the first, and `temperature` lists them",
        ),
        ({"generate": {"temperature_mix": [1, 0.9], "adapt_temperature": {}}}, "and `temperature_mix` lists them"),
        ({"generate": {"adapt_temperature": {"lowest": 1.1}}}, "must be from its `lowest` (1.1) to its `highest`"),
        ({"method": "self_rewarding", "generate": {"adapt_temperature": {}}}, "with `source: sample` only"),
        ({"method": "self_rewarding", "generate": {"wave_samples": 2}}, "with `source: sample` only"),
        (
            {"pairs": {"rule": "margin"}, "generate": {"wave_samples": 2}},
            "`pairs.rule: margin` chooses among all samples",
        ),
        (
            {"generate": {"samples": 8, "wave_samples": 2}, "pairs": {"per_prompt": [4, 4]}},
            "can decide the pairs of a prompt, which takes 8 samples (`pairs.per_prompt`, on 2 sides)",
        ),
        (
            {"method": "rft", "generate": {"samples": 4, "wave_samples": 3}, "pairs": {"per_prompt": 4}},
            "which takes 4 samples (`pairs.per_prompt`, on 1 side)",
        ),
        ({"method": "rft", "generate": {"adapt_temperature": {}}}, "with `pairs.rule: correct` others give pairs"),
        ({"judge": {"model": "m", "base_url": "localhost:8000/v1"}}, "`base_url` is no address; write one such as"),
        ({"judge": {"model": "m", "base_url": "http://[::1/v1"}}, "`base_url` is no address; write one such as"),
        ({"judge": {"model": ""}}, "judge.model: must be text that is not empty"),
        ({"regrade": {"round": 1, "grade": {"graders": ["judge"]}}}, "`judge` among `regrade.grade.graders` needs"),
        ({"self_judge": {"lowest": True}}, "self_judge.lowest: must be a number (it is true"),
        ({"data": DATA | {"answer_marker": ""}}, "data.answer_marker: must be text that is not empty"),
        ({"data": DATA | {"solution": "s", "solution_template": "x"}}, "neither {solution} nor {answer}"),
        (
            {"method": "sdpo", "stages": {"sources": ["a.jsonl"], "template": "x"}},
            "stages.template: it has no {prompt}",
        ),
        ({"generate": {"engine": {"model": "m"}}}, "`model` is the job's `model`, which is where to set it"),
        ({"generate": {"engine": {"max_model_len": 9}}}, "is the job's `generate.max_model_len`"),
        ({"generate": {"engine": {"x": b"\xff"}}}, "generate.engine: it must hold texts, numbers"),
        ({"generate": {"engine": {"x": float("nan")}}}, "generate.engine: it must hold texts, numbers"),
        ({"loss": {"form": "robust"}}, "`loss.form: robust` needs `loss.smoothing`, the share of pairs"),
        ({"loss": {"form": "softmax"}}, "of rejected ones, which only `pairs.rule: best_rest` makes, with"),
        (
            {"method": "step_dpo", "loss": {"form": "softmax"}, "pairs": {"rule": "best_rest"}},
            "`loss.form: softmax` compares a chosen completion with a group",
        ),
        (
            {"loss": {"form": "odpo"}},
            "`loss.form: odpo` goes by how far the scores of both sides are apart, and with `source: sample` samples "
            "have none, such as `source: judge` gives: take another form",
        ),
        (
            {"pairs": {"rule": "best_rest", "gold_as_chosen": "only"}, "data": DATA | {"solution": "s"}},
            "`pairs.rule: best_rest` goes by scores alone",
        ),
        ({"loss": {"score_scale": 0}}, "loss.score_scale: must be a number above 0"),
        ({"loss": {"smoothing": 0.5}}, "loss.smoothing: must be a number of at least 0 and below 0.5"),
        ({"loss": {"form": "kto"}}, "loss.form: must be `sigmoid`, `squared`, `robust`, `ipo`, `ipo_mean`, `dpop`"),
        ({"generate": {"stop": [""]}}, "generate.stop.0: must be text that is not empty"),
        ({"train": {"betas": [0.9, 1]}}, "train.betas.1: must be a number of at least 0 and below 1"),
        ({"method": "dop"}, "must be `irpo`, `sdpo`"),
        ({"method": ["irpo"]}, "must be `irpo`, `sdpo`"),
    ],
)
def test_what_makes_no_sense_is_refused_with_the_reason(tmp_path: Path, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(BadInput) as refused:
        job_of(tmp_path, **settings)
    assert said in str(refused.value)


@pytest.mark.parametrize("method", list(PRESETS))
def test_a_methods_own_row_has_no_key_without_effect(tmp_path: Path, method: str) -> None:
    data = {"data": {}, "promotion": {"rule": "always"}} if method == "sdpo" else {}
    assert idle(by_name(tmp_path, method, **data)) == []


@pytest.mark.parametrize(
    ("method", "settings", "said"),
    [
        ("irpo", {"steps": {"rollouts": 3, "opening": "So"}}, ["`steps`: read only with `source: steps`"]),
        ("irpo", {"self_judge": {"samples": 9}}, ["`self_judge`: read only with `source: judge`"]),
        ("irpo", {"judge": {"model": "m"}}, ["`judge`: read only with `judge` among `grade.graders`, or in `steps`"]),
        ("irpo", {"pairs": {"margin": 0.5}}, ["`pairs.margin`: read only with `pairs.rule: margin`"]),
        ("irpo", {"pairs": {"replay_rounds": 1}}, ["`pairs.replay_rounds`: read only with `pairs.replay` above 0"]),
        ("irpo", {"pairs": {"append_eos": False}}, ["`pairs.append_eos`: read only with `source: dataset`"]),
        (
            "irpo",
            {"train": {"token_budget": 9, "epochs": 2}},
            ["`train.epochs`: read only with `train.token_budget: null`"],
        ),
        (
            "irpo",
            {"generate": {"temperature": 0.9, "temperature_mix": [1.0]}},
            ["`generate.temperature`: read only with `generate.temperature_mix: null`"],
        ),
        (
            "sft",
            {"loss": {"beta": 0.7, "form": "squared"}},
            ["`loss.beta`, `loss.form`: read only with `loss.dpo` above 0"],
        ),
        (
            "irpo",
            {"loss": {"form": "orpo", "beta": 0.7, "smoothing": 0.1, "penalty": 9}, "reference": "base"},
            [
                "`loss.beta`: read only with another `loss.form` than `orpo`",
                "`loss.penalty`: read only with `loss.form` `dpop`",
                "`loss.smoothing`: read only with `loss.form` `sigmoid` or `robust`",
                "`reference`: read only with a `loss.form` that reads a reference or `source: dataset`",
            ],
        ),
        ("irpo", {"loss": {"form": "simpo", "target_margin": 1, "beta": 2}}, []),
        ("irpo", {"loss": {"form": "softmax", "beta": 2}, "pairs": {"rule": "best_rest", "per_prompt": 3}}, []),
        ("self_rewarding", {"loss": {"form": "reward_aware", "score_scale": 2}}, []),
        (
            "self_rewarding",
            {"loss": {"score_scale": 2}},
            ["`loss.score_scale`: read only with `loss.form` `odpo`, `reward_aware` or `scaled`"],
        ),
        (
            "sft",
            {"generate": {"samples": 4}},
            ["`generate.samples`: read only with `source: sample`, `steps` or `judge`"],
        ),
        ("dpo", {"loss": {"nll_scope": "prompt+response"}}, ["`loss.nll_scope`: read only with `loss.nll` above 0"]),
        (
            "sdpo",
            {"data": DATA},
            ["`data.prompts_per_round`, `data.train`: read only with `source: sample`, `gold`, `steps` or `judge`"],
        ),
        ("step_dpo", {"pairs": {"rule": "margin"}}, ["`pairs.rule`: read only with `source: sample` or `judge`"]),
        ("step_dpo", {"steps": {"verdicts": "v.jsonl"}}, ["`steps.verdicts`: read only with `steps.localiser: file`"]),
        (
            "self_rewarding",
            {"pairs": {"per_prompt": 3}},
            ["`pairs.per_prompt`: read only with another `pairs.rule` than `best_worst` and `best`"],
        ),
        (
            "irpo",
            {"promotion": {"rule": "always", "alpha": 0.1}},
            ["`promotion.alpha`: read only with `promotion.rule: not_worse` or `better`"],
        ),
        (
            "irpo",
            {"train": {"schedule": "constant", "final_ratio": 0.1}},
            ["`train.final_ratio`: read only with `train.schedule: linear` or `cosine`"],
        ),
        ("irpo", {"loss": {"beta": 0.7, "nll": 0.5}, "pairs": {"per_prompt": 9}, "reference": "base"}, []),
        ("irpo", {"judge": {"model": "m"}, "grade": {"graders": ["exact", "judge"]}}, []),
    ],
)
def test_what_nothing_reads_is_told(tmp_path: Path, method: str, settings: dict[str, Any], said: list[str]) -> None:
    base = {"promotion": {"rule": "always"}} if method == "sdpo" else {}
    assert idle(by_name(tmp_path, method, **(base | settings))) == said


def test_one_sample_or_no_temperature_is_enough_where_gold_or_imitation_makes_the_pairs(tmp_path: Path) -> None:
    one = {"samples": 1, "temperature": 0}
    for settings in ({"method": "rest_em"}, {"pairs": {"gold_as_chosen": True}, "data": DATA | {"solution": "s"}}):
        assert job_of(tmp_path, generate=one, **settings).generate.samples == 1
    assert job_of(tmp_path, generate={"temperature_mix": [0, 1]}).generate.temperature_mix == [0, 1]


def test_a_method_reads_as_its_settings_spelled_out(tmp_path: Path) -> None:
    spelled = dict(PRESETS["iterative_dpo"].settings)
    spelled["data"] = DATA | spelled["data"]
    named, plain = by_name(tmp_path, "iterative_dpo"), job_of(tmp_path, **spelled)
    assert named.model_copy(update={"method": "irpo"}) == plain
