"""What a fork can know beforehand of the steps that it is offered. Fingerprints decide when they are asked for; this
only tells people what to expect, and claims no more than the changed settings say."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Literal

from orchestrator.config import Job, at_round, only_executes
from orchestrator.config.forms import FORMS
from orchestrator.config.load import changed_keys
from orchestrator.config.words import schedule_at
from orchestrator.ledger.ledger import State
from orchestrator.records.shards import SHARDS
from orchestrator.reports.rounds import round_and_phase

Fit = Literal["taken", "anew", "perhaps", "later"]
"""It will be taken over; it cannot be, since its own inputs are others; it will be if what it is made from, which is
made anew, comes out as it was; it is of a round beyond the fork's, which may be given more before it is finished."""

_EVALUATIONS = frozenset({"evaluation", "selection", "repeated"})
_TRAININGS = frozenset({"train", "retrain"})
_SCORED = frozenset({"reference", "reference_again", "policy"})


def _shards_by(*sections: str) -> frozenset[str]:
    """The kinds of shards that a section of the job is an input of."""
    return frozenset(kind.name for kind in SHARDS.values() if kind.inputs & {*sections})


# Settings that are inputs of certain steps, as they stand; see rounds/.
_INPUTS: tuple[tuple[tuple[str, ...], frozenset[str]], ...] = (
    (("loss", "train"), _TRAININGS),
    (("grade",), _EVALUATIONS | _shards_by("grade")),
    (
        tuple(f"generate.{key}" for key in ("samples", "temperature", "temperature_mix")),
        _shards_by("generate"),
    ),
    (("generate.top_p", "generate.top_k"), _shards_by("generate") | {"repeated", "drift"}),
)
# Settings that may touch these steps, and no others but through them; any other setting may touch every step.
_REACH: tuple[tuple[tuple[str, ...], frozenset[str]], ...] = (
    (("name", "promotion"), frozenset()),
    (("train.max_tokens", "train.precision"), _TRAININGS | _SCORED | {"chunks", "ranking", "choice"}),
    (("train.select",), _TRAININGS | {"choice"}),
    (("init", "reference"), _TRAININGS | _SCORED | {"pairs"}),
    (("pairs",), frozenset({"pairs", "replay", "chunks"})),
    (("reward.verdict_weight", "reward.normalisation"), frozenset({"scores"})),
    (("reward",), frozenset({"reward", "rewards", "scores"})),
    (("generate.wave_samples",), _shards_by("generate")),
    (("generate.adapt_temperature",), frozenset({"temperature"}) | _shards_by("generate")),
    (("data.curriculum",), frozenset({"curriculum", "prompts"})),
    (("regrade",), _shards_by("regrade")),
    (
        tuple(f"generate.{key}" for key in ("shard_prompts", "seeding", "stop", "dtype", "engine")),
        _EVALUATIONS | {"drift", "harness"} | _shards_by("generate"),
    ),
    (("evaluate.samples", "evaluate.temperature"), frozenset({"repeated", "drift"})),
    (("evaluate.harness",), frozenset({"harness"})),
    (("evaluate",), _EVALUATIONS | {"prompts"}),
)
_LEAVES = frozenset({"evaluation", "policy", "repeated", "drift", "harness"})
"""Steps that no other one is made from."""


def outlook(state: State, before: Job, after: Job, steps: Collection[str], kept: Collection[str]) -> dict[str, Fit]:
    """How each of the offered steps fits a fork whose job is `after`; `kept` are sources that it has taken already."""
    changed = changed_keys(before.model_dump(mode="json"), after.model_dump(mode="json"))
    changed = [change for change in changed if not only_executes(*change)]
    scored, scoring = (FORMS[job.loss.form].reads_scores for job in (before, after))
    if scored != scoring:  # pairs keep the scores that the loss reads
        changed.append(("pairs", scored, scoring))
    order = [*state.commits, *(step for step in state.shards if step not in state.commits)]
    fit_by_step: dict[str, Fit] = {}
    certain = True  # so far everything comes out as it was
    for step in order:
        if step not in steps:  # it is made anew, or not at all
            certain = certain and _kind(step) in _LEAVES
            continue
        number, _ = round_and_phase(step)
        touching = [key for key, old, new in changed if _differs(key, old, new, number)]
        drawn = after.data.curriculum is not None and number > 1  # by verdicts of the rounds before
        plain = (step == f"rounds/{number:02d}/prompts" and not drawn) or step.startswith("baseline/")
        if step in kept:
            fit_by_step[step] = "taken"
        elif number > after.rounds:
            fit_by_step[step] = "later"
        elif any(_is_input(key, step, after) for key in touching):
            fit_by_step[step] = "anew"
        elif any(_may_touch(key, step) for key in touching) or not (certain or plain):
            fit_by_step[step] = "perhaps"
        else:
            fit_by_step[step] = "taken"
        certain = certain and (fit_by_step[step] == "taken" or _kind(step) in _LEAVES)
    return fit_by_step


def _kind(step: str) -> str:
    """The name of a step, whichever part of a round it belongs to: "selection/000020" is "selection"."""
    parts = [part for part in step.split("/") if not part.isdigit()]
    return parts[-1]


def _differs(key: str, old: object, new: object, number: int) -> bool:
    """Whether a key's values differ in a round; the baseline, round 0, knows no schedules."""
    if not schedule_at(key.split(".")):
        return True
    return bool(number) and at_round(old, number) != at_round(new, number)


def _is_below(key: str, prefixes: Sequence[str]) -> bool:
    return any(key == prefix or key.startswith(f"{prefix}.") for prefix in prefixes)


def _is_input(key: str, step: str, job: Job) -> bool:
    """Whether a setting certainly is an input of the step, as it stands."""
    number, phase = round_and_phase(step)
    if phase not in (*SHARDS, "train", "retrain", "evaluation", "repeated"):
        return False  # a part of a round has settings of its own
    if phase == "verdicts" and key.startswith("grade.") and job.regrade and number >= job.regrade.round:
        return False
    if key == "generate.temperature" and job.generate.adapt_temperature and number > 1:
        return False  # the round before decides
    if key == "generate.samples" and job.generate.wave_samples:
        return False  # the first wave may be as it was
    return any(_is_below(key, prefixes) and phase in kinds for prefixes, kinds in _INPUTS)


def _may_touch(key: str, step: str) -> bool:
    kind = _kind(step)
    if "/wave/" in step:
        return True  # which prompts it has follows from verdicts and from how they are paired
    for prefixes, kinds in (*_REACH, *_INPUTS):
        if _is_below(key, prefixes):
            return kind in kinds
    return True
