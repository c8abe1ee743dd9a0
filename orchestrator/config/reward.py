"""Scores from reward models: which models, what each counts, and how it is asked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

from pydantic import Field, field_validator

from orchestrator.config.base import Count, Fraction, NonEmpty, NonNegative, Number, Seconds, Settings
from orchestrator.config.learning import BY_SCORE
from orchestrator.config.marks import Executing

if TYPE_CHECKING:
    from orchestrator.config.job import Job


def no_checkpoint(value: str) -> str:
    """A validator of the name of a reward model.

    Raises:
        ValueError: it is a run's checkpoint.
    """
    if value.startswith("run:"):
        raise ValueError("a run's checkpoint writes text and gives no reward: name a folder or a model on the Hub")
    return value


class Scoring(Settings):
    """How a reward model is executed: which processes hold it, and where."""

    workers: Executing[Count | None] = None
    """How many processes hold a model; null is one on CPU, and on accelerators as many as these have room for."""
    per_gpu: Executing[Count] = 1
    """How many of them share a GPU, of which one alone leaves much idle where the model is small."""
    cpus: Executing[Count | None] = None
    """CPU cores of each; null shares out those of a machine without accelerators."""
    device: Executing[Literal["auto", "cpu"]] = "auto"
    """`cpu` stays there even where the cluster has accelerators."""
    stall_timeout: Executing[Seconds] = 300.0
    """Seconds without a scored answer after which a process is taken for hung and replaced."""


MOST_WEIGHT = 1e30
"""Of a reward model."""


class RewardModel(Settings):
    """A reward model, and what it counts."""

    model: NonEmpty
    """A sequence classifier with one output, named as `model` is: a folder, or a model on the Hub. A run keeps it as it
    was at its start."""
    weight: Number = 1.0
    """What its rewards count beside those of the others; below 0 they count against a sample."""
    max_tokens: Count | None = None
    """Most tokens of prompt and answer together, as the model's own tokenizer counts them; null is its context. Nothing
    is cut off: what is longer has no score, and joins no pair."""
    form: Literal["chat", "pair", "join"] | None = None
    """How it reads prompt and answer: `chat`, as turns of its chat template; `pair`, as two texts of one input; `join`,
    the answer right behind the prompt. null takes the chat template where its tokenizer has one, else a pair where it
    has a token between two texts and none that ends one, else the join."""
    dtype: Literal["own", "float32", "bfloat16", "float16"] = "own"
    """Number format in which it computes; `own` is that of its weights."""

    _scores = field_validator("model")(no_checkpoint)

    @field_validator("weight")
    @classmethod
    def _counts(cls, value: float) -> float:
        if not value:
            raise ValueError("0 counts nothing: leave the model out, or give it a weight")
        if abs(value) > MOST_WEIGHT:
            raise ValueError(f"of more than {MOST_WEIGHT:g}, sums are no numbers any more: divide all weights alike")
        return value


class Reward(Scoring):
    """Scores from reward models for `source: sample`: a sample's score is the weighted sum of its rewards, and
    `pairs.rule` `best_worst`, `margin`, `best_rest` or `best` goes by it. Problems of `data.train` then need no gold
    answer. See [rewards.md](rewards.md)."""

    models: Annotated[list[Annotated[RewardModel, Field()]], Field(min_length=1)]
    """The models, such as `[{model: models/reward}, {model: models/style, weight: 0.2}]`."""
    verdict_weight: NonNegative = 0.0
    """What the verdict counts beside the rewards: 1 for correct, 0 for wrong, times this. Above 0, every problem needs
    a gold answer, and a sample without a verdict has no score."""
    normalisation: Literal["round", "none"] = "round"
    """What is done to a model's rewards before they are weighed: `round` takes off their mean over the round's samples
    and divides by their standard deviation, so that weights, and `pairs.margin`, mean the same for models of different
    scales. `none` weighs them as they are."""

    def kept(self) -> Mapping[str, RewardModel]:
        """The models by the name of the step that keeps each in the run."""
        return {f"{KEPT}/{number}": model for number, model in enumerate(self.models, 1)}

    def phases(self) -> list[str]:
        """The steps of a round with the rewards of each model: `rewards`, and of further ones `reward/2/rewards`."""
        return phases(len(self.models))


KEPT = "baseline/reward"
"""Below which a run keeps its reward models."""
KEPT_PROCESS = "baseline/process"
"""Where it keeps its process reward model."""


class ProcessModel(Scoring):
    """A process reward model, which says of each reasoning step how likely it is right (arXiv 2305.20050, 2312.08935);
    for `localiser: process`. It is a token classifier with two labels, the second of which is right, as TRL's
    PRMTrainer makes them. See [rewards.md](rewards.md#reasoning-steps)."""

    model: NonEmpty
    """Named as `model` is: a folder, or a model on the Hub. A run keeps it as it was at its start."""
    threshold: Fraction = 0.5
    """The first step that is less likely right than this is the wrong one."""
    separator: NonEmpty = "\n"
    """What it was trained to judge a step at, the text behind each."""
    max_tokens: Count | None = None
    """Most tokens of problem and steps together, as its own tokenizer counts them; null is its context. Nothing is
    known of a longer answer."""
    dtype: Literal["own", "float32", "bfloat16", "float16"] = "own"
    """Number format in which it computes; `own` is that of its weights."""

    _scores = field_validator("model")(no_checkpoint)


class Named(NamedTuple):
    """A reward model that a job names. Example: Named("reward.models.0.model", "models/reward", "outcome")"""

    key: str
    model: str
    kind: Literal["outcome", "process"]


def reward_models(job: Job) -> dict[str, Named]:
    """The reward models that a job asks, by the step that keeps each in the run."""
    found: dict[str, Named] = {}
    for number, (step, model) in enumerate(job.reward.kept().items() if job.reward else ()):
        found[step] = Named(f"reward.models.{number}.model", model.model, "outcome")
    if (process := job.source.process_model) is not None:
        found[KEPT_PROCESS] = Named("steps.process.model", process.model, "process")
    return found


def phases(models: int) -> list[str]:
    """As `Reward.phases`, of so many models."""
    return [f"reward/{number}/rewards" if number > 1 else "rewards" for number in range(1, models + 1)]


def needs_golds(job: Job, split: str = "train") -> bool:
    """Whether the problems of a set must have gold answers: held-out ones always, those to be trained on unless rewards
    alone decide."""
    reward = job.reward
    chosen_by_verdicts = job.generate.adapt_temperature is not None or job.data.curriculum is not None
    return reward is None or reward.verdict_weight > 0 or chosen_by_verdicts or split != "train"


def lacks_golds(recorded: Mapping[str, Any]) -> bool:
    """Whether problems of a job, as a run records it, may lack a gold answer since rewards alone score samples."""
    reward = recorded.get("reward") or {}
    return bool(reward) and not reward.get("verdict_weight")


def reward_contradictions(job: Job) -> Iterator[str]:
    """What makes no sense beside rewards, or without them, each with the cure."""
    pairs, scores = job.pairs, " or ".join(f"`{rule}`" for rule in BY_SCORE)
    if job.reward is None:
        if pairs.rule == "best" and job.source.takes_rewards:
            yield (
                "`pairs.rule: best` imitates the sample of the highest score, and verdicts alone leave it to chance "
                "which of the correct ones that is: give `reward`, or set `pairs.rule: correct`"
            )
        return
    if not job.source.takes_rewards:
        yield (
            f"`reward` scores samples for `source: sample`, and with `source: {job.source.type}` nothing reads it: "
            "leave one of the two out"
        )
        return
    if pairs.rule not in BY_SCORE:
        yield (
            f"`reward` gives scores, and `pairs.rule: {pairs.rule}` goes by verdicts, so that nothing reads it: set "
            f"`pairs.rule` to {scores}, or leave `reward` out"
        )
    if pairs.gold_as_chosen:
        yield "`pairs.gold_as_chosen` needs verdicts: with `reward` a gold solution has no score. Leave one of them out"
    if job.train.retrain:
        yield (
            "`train.retrain` makes pairs of the gate problems by their verdicts, and `reward` scores none of these: "
            "leave one of the two out"
        )
    named = [model.model for model in job.reward.models]
    if twice := next((name for name in named if named.count(name) > 1), None):
        yield f"`reward.models` has {twice!r} twice: give it once, with the sum of the weights"
