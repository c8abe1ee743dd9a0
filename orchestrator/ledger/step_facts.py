"""What steps tell of themselves (`facts` of commits, shards and offers), as typed models, by the kind of step.

A model has every fact that some command reads, most of them missing where the step's settings or its version tell
none; facts that none reads are let be. `Recorded` names the step where a fact is read that is not there.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Required

from pydantic import Field, TypeAdapter, with_config
from typing_extensions import TypedDict

from orchestrator.errors import Damaged
from orchestrator.ledger.fact_figures import (
    CONFIG,
    Count,
    Figures,
    HarnessTask,
    Nats,
    Probe,
    Rate,
    RepeatedFigures,
    RewardFigures,
    Seconds,
    Share,
    Trend,
    Version,
)

Executed = bool | int | float | str | None | list[Any] | dict[str, Any]
"""The value of a setting, by its key in the job, that says how a step was executed; or what a machine made of one that
was left to it."""


@with_config(CONFIG)
class Facts(TypedDict, total=False):
    """Of any step. A fact means the same in all steps that have it, unless their own model says otherwise."""

    seconds: Seconds
    starting: Seconds
    waited: Seconds
    wall: Seconds
    fingerprint: Annotated[str, Field(min_length=1, max_length=1000)]
    recipe: Annotated[int, Field(ge=1, le=1000)]
    graders_version: Version
    judge_prompt: Version
    step_prompt: Version
    reading: Version
    tokens_per_second: Rate
    executed: dict[str, Executed]
    engines_lost: list[str]
    graders_lost: list[str]
    quarantined: list[str]

    # samples, verdicts
    samples: Count
    tokens: Count
    truncated: Count
    correct: Count
    wrong: Count
    ungradable: Count
    unreadable: Count
    failed: Count
    gold: Count
    disputed: Count
    prompts_truncated: Count
    prompts_unreadable: Count
    prompts_failed: Count
    prompts_gold: Count
    distinct_answers: Count
    rules: dict[str, Count]
    judge: dict[str, Count]

    # pairs
    pairs: Count
    pairs_lost: Count
    prompts_lost: Count
    prompts_mixed: Count
    prompts_tied: Count
    prompts_all_correct: Count
    prompts_all_wrong: Count
    prompts_ungradable: Count
    prompts_paired: Count
    groups: Count
    pass_any: Share
    chosen_tokens: Rate
    rejected_tokens: Rate
    rounds: Count
    seen: Count
    chunk: str

    # a temperature that follows the share of mixed prompts
    temperature: Rate
    before: Rate
    mixed: Share

    # prompts that are drawn by their pass rates
    problems: Count
    fitting: Count
    new: Count
    others: Count
    filled: Count
    too_easy: Count
    too_hard: Count

    # prompts, and what is kept of preference data
    prompts: Count
    dropped: Count
    characters: Rate

    # training, reference pass
    steps: Count
    padded_tokens: Count
    resumed_from: Count | None
    restarts: Count
    completions: Count
    trend: dict[str, Trend]
    kl: Nats
    kl_error: Annotated[float, Field(ge=0, le=1e15)]
    kl_token: Nats
    gate_accuracy: Share
    ranking_accuracy: Share
    reward_accuracy: Share
    gamma: Nats
    chosen_logprob: Nats
    rejected_logprob: Nats

    # pairs of steps
    errors: Count
    repeated: Count
    located: Count
    none_wrong: Count
    undecided: Count
    probes: Count
    levels: Count
    rollout_tokens: Count
    probes_unknown: Count
    rollouts_ungradable: Count
    continuations: Count
    prefixes: Count
    drawn: Count
    rectified: Count
    questions: Count

    # judgements of the model's own samples, and rewards
    judgements: Count
    scored: Count
    mean_score: Nats | None
    answers: Count
    rewarded: Count
    too_long: Count
    special_token: Count
    not_finite: Count
    mean_reward: Nats | None
    form: str
    rewarders_lost: list[str]
    rewards: list[RewardFigures]
    combined: RewardFigures


@with_config(CONFIG)
class EvaluationFacts(Facts, total=False):
    """How a model answered the problems of each split, and how engine and trainer agree on it."""

    gate: Figures | None
    test: Figures | None
    tests: dict[str, Figures]
    probe: Probe | None


@with_config(CONFIG)
class RepeatedFacts(Facts, total=False):
    """Held-out problems that were answered several times, by the name of their set."""

    sets: Required[dict[str, RepeatedFigures]]


@with_config(CONFIG)
class HarnessFacts(Facts, total=False):
    """What lm-evaluation-harness says of a model."""

    lm_eval: Required[str]
    tasks: Required[dict[str, HarnessTask]]


@with_config(CONFIG)
class PromptsFacts(Facts, total=False):
    """Numbers of prompts, or of problems that are kept, by split."""

    train: Count
    gate: Count
    test: Count
    decided: Count
    saved: Count
    revisions: dict[str, str | None]


@with_config(CONFIG)
class LocatedFacts(Facts, total=False):
    """Of first wrong steps; most facts of this step are counts that it shares with others."""

    first_step: Count
    """Errors whose first wrong step is step 1; of a training, `first_step` is what was checked there."""


@with_config(CONFIG)
class SourceFacts(TypedDict, total=False):
    """Pairs of one source or chunk of preference data, and how many were left out, by reason."""

    name: Required[str]
    pairs: Required[Count]
    revision: str | None
    empty: Count
    equal: Count
    no_prompt: Count
    too_long: Count
    seen: Count


@with_config(CONFIG)
class PreferencesFacts(Facts, total=False):
    """Preference data as read, by source."""

    sources: list[SourceFacts]


@with_config(CONFIG)
class ChunksFacts(Facts, total=False):
    """Preference data as token ids, by chunk."""

    chunks: list[SourceFacts]


@with_config(CONFIG)
class RegradedFacts(Facts, total=False):
    """Earlier evaluations by the graders of now, by the step they are from."""

    evaluations: dict[str, Figures]


@with_config(CONFIG)
class ModelFacts(TypedDict, total=False):
    """Where a model is from that the run keeps: the Hub, or another run."""

    seconds: Seconds
    id: str
    revision: str | None
    run: str
    run_id: str
    round: Count
    digest: str


_BY_NAME: Mapping[str, type[Any]] = {
    "baseline/model": ModelFacts,
    "baseline/reference": ModelFacts,
    "baseline/process": ModelFacts,
    "baseline/data": PromptsFacts,
    "baseline/preferences": PreferencesFacts,
    "baseline/chunks": ChunksFacts,
}
_BY_PHASE: Mapping[str, type[Any]] = {
    "evaluation": EvaluationFacts,
    "selection": EvaluationFacts,
    "repeated": RepeatedFacts,
    "harness": HarnessFacts,
    "prompts": PromptsFacts,
    "located": LocatedFacts,
    "regraded": RegradedFacts,
    "reward": ModelFacts,
}


def model_of(step: str) -> type[Any]:
    """The model of a step's facts: that of its name, else of its last part that is no number, else of any step."""
    if step in _BY_NAME:
        return _BY_NAME[step]
    parts = step.split("/")
    phase = parts[-2] if parts[-1].isdigit() and len(parts) > 1 else parts[-1]
    return _BY_PHASE.get(phase, Facts)


def check(step: str, facts: dict[str, Any]) -> None:
    """Raises pydantic.ValidationError where a fact is not what a reader takes it for."""
    model = model_of(step)
    if (validate := _validators.get(model)) is None:
        validate = _validators[model] = TypeAdapter(model).validator.validate_python
    validate(facts)


_validators: dict[Any, Callable[[Any], Any]] = {}
"""By model; made when they are first needed, since that takes milliseconds."""


class MissingFact(Damaged, KeyError):
    """A fact that a reader needs, and that a record does not have."""

    __str__ = Damaged.__str__


def _one_spelling(key: str) -> str:
    """A key as one object in all records, which JSON makes anew for each: a long run has thousands of shards."""
    return sys.intern(str(key))


def recorded(data: dict[str, Any]) -> Recorded:
    """The facts of a record, by its data: made once, and shared by all who read the record."""
    facts = data["facts"]
    if not isinstance(facts, Recorded):
        data["facts"] = facts = Recorded(facts, data["step"])
    return facts


class Recorded(dict[str, Any]):
    """The facts of a record. One that is not there is named with its step.

    Example: Recorded({"pairs": 12}, "rounds/01/pairs")["steps"] raises MissingFact.
    """

    __slots__ = ("_step",)

    def __init__(self, facts: Mapping[str, Any], step: str) -> None:
        super().__init__(zip(map(_one_spelling, facts), facts.values(), strict=True))
        self._step = step

    def __missing__(self, key: str) -> Any:
        raise MissingFact(
            f"the ledger's record of {self._step} does not say `{key}`: it is damaged, or of a version that is not "
            "known here. Restore the run from a copy."
        )
