"""Figures within the facts of steps, as typed models, and the numbers that facts are made of; see step_facts.py."""

from __future__ import annotations

from typing import Annotated, Required

from pydantic import ConfigDict, Field, with_config
from typing_extensions import TypedDict

Count = Annotated[int, Field(ge=0, lt=2**63)]
Version = Annotated[int, Field(ge=1, le=10**6)]
Seconds = Annotated[float, Field(ge=0, le=1e10)]
Rate = Annotated[float, Field(ge=0, le=1e15)]
Share = Annotated[float, Field(ge=0, le=1)]
Nats = Annotated[float, Field(ge=-1e15, le=1e15)]


CONFIG = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)
"""No conversions, and facts of other versions are let be."""


@with_config(CONFIG)
class Trend(TypedDict, total=False):
    """What became of a metric in training: see counts.trend."""

    first: Required[Nats]
    last: Required[Nats]
    error: Annotated[float, Field(ge=0, le=1e15)]


@with_config(CONFIG)
class RewardFigures(TypedDict, total=False):
    """What a reward model gives the samples of a round: see rounds/scoring.figures."""

    rewarded: Required[Count]
    mean: Nats
    deviation: Annotated[float, Field(ge=0, le=1e15)]
    quantiles: dict[str, Nats]
    right: Nats
    wrong: Nats
    agreement: Share
    error: Annotated[float, Field(ge=0, le=1)]
    prompts: Count


@with_config(CONFIG)
class Figures(TypedDict, total=False):
    """A split's figures in an evaluation."""

    problems: Required[Count]
    correct: Required[Count]
    accuracy: Required[Share]
    low: Required[Share]
    high: Required[Share]
    mean_tokens: Rate
    truncated: Count
    unreadable: Count
    failed: Count
    gold: Count
    changed: Count


@with_config(CONFIG)
class Probe(TypedDict, total=False):
    """How engine and trainer agree, in nats a token."""

    mean_difference: Required[Annotated[float, Field(ge=0, le=1e15)]]
    tokens: Count
    completions: Count


@with_config(CONFIG)
class ShareFacts(TypedDict):
    """A share of problems, with its interval."""

    share: Share
    low: Share
    high: Share


@with_config(CONFIG)
class RepeatedFigures(TypedDict, total=False):
    """A set that was answered several times; `pass_at` is by the number of samples."""

    problems: Required[Count]
    samples: Required[Count]
    truncated: Count
    unreadable: Count
    failed: Count
    gold: Count
    mean_tokens: Rate
    majority: Required[ShareFacts]
    pass_at: Required[dict[str, ShareFacts]]


@with_config(CONFIG)
class HarnessFigure(TypedDict, total=False):
    """A figure with its standard error."""

    value: Required[float]
    error: float


@with_config(CONFIG)
class HarnessTask(TypedDict, total=False):
    """A task or group; see rounds/harness.py."""

    figures: Required[dict[str, HarnessFigure]]
    documents: Count
    shots: Count
    version: str
    within: str
    asked: str
