"""From rewards to scores, and what they are worth beside verdicts. Pure: the same rewards give the same scores."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

QUANTILES = (5, 25, 50, 75, 95)
"""In per cent, of what is told of rewards."""


class Rewarded(NamedTuple):
    """A sample with what each reward model gives it, None where one gives nothing. `right` is None without a verdict.

    Example: Rewarded("p7", 3, (0.8, -1.5), right=True)
    """

    prompt_id: str
    sample_index: int
    rewards: tuple[float | None, ...]
    right: bool | None
    ended: bool = True
    """Whether it ended by itself: what was cut joins no pair, and has no score."""


@dataclass(frozen=True, slots=True)
class ScoringRule:
    """How rewards become a score; see config.Reward."""

    weights: tuple[float, ...]
    """Of each model."""
    verdict_weight: float = 0.0
    normalisation: Literal["round", "none"] = "round"


@dataclass(frozen=True, slots=True)
class Scale:
    """What is taken off a model's rewards, and what they are divided by."""

    mean: float = 0.0
    deviation: float = 1.0

    def of(self, reward: float) -> float:
        """A reward on this scale; 0 where all are the same."""
        return (reward - self.mean) / self.deviation if self.deviation else 0.0


class Tally:
    """The rewards of a round: of each model, and beside verdicts."""

    def __init__(self, models: int) -> None:
        self.rewards = [list[float]() for _ in range(models)]
        self.beside = [dict[str, tuple[list[float], list[float]]]() for _ in range(models)]
        """By model and prompt, the rewards of right and of wrong samples."""

    def add(self, samples: Iterable[Rewarded]) -> None:
        """Count samples that ended; a reward that is not there is passed over."""
        for sample in samples:
            for number, reward in enumerate(sample.rewards):
                if reward is None or not sample.ended:
                    continue
                self.rewards[number].append(reward)
                if sample.right is not None:
                    sides = self.beside[number].setdefault(sample.prompt_id, ([], []))
                    sides[not sample.right].append(reward)

    def figures(self) -> list[dict[str, Any]]:
        """What there is to tell of each model: see `figures`."""
        return [figures(rewards, sides) for rewards, sides in zip(self.rewards, self.beside, strict=True)]

    def scales(self, rule: ScoringRule) -> list[Scale]:
        """By model."""
        if rule.normalisation == "none":
            return [Scale() for _ in self.rewards]
        return [Scale(*_spread(rewards)) if rewards else Scale() for rewards in self.rewards]


def score(sample: Rewarded, rule: ScoringRule, scales: Sequence[Scale]) -> float | None:
    """The score of a sample, the weighted sum of its rewards and of its verdict (1 for right, 0 for wrong). None, by
    which it joins no pair, where a reward is missing, a verdict that counts, or the sample's end."""
    if not sample.ended or (rule.verdict_weight and sample.right is None):
        return None
    total = rule.verdict_weight if sample.right else 0.0
    for reward, weight, scale in zip(sample.rewards, rule.weights, scales, strict=True):
        if reward is None:
            return None
        total += weight * scale.of(reward)
    return total


def figures(rewards: Sequence[float], beside: Mapping[str, tuple[Sequence[float], Sequence[float]]]) -> dict[str, Any]:
    """What there is to tell of a model's rewards: `rewarded`, how many; their `mean`, `deviation` and `quantiles` (by
    per cent). Beside verdicts: the mean reward of `right` and of `wrong` samples; `agreement`, the share of a prompt's
    pairs of a right and a wrong sample in which the right one has the higher reward, a half of those with equal ones
    (the area under the ROC curve), averaged over the prompts that have both; its standard `error`, and how many
    `prompts` these are. What cannot be told is left out."""
    if not rewards:
        return {"rewarded": 0}
    mean, deviation = _spread(rewards)
    ordered = sorted(rewards)
    found: dict[str, Any] = {
        "rewarded": len(rewards),
        "mean": mean,
        "deviation": deviation,
        "quantiles": {str(share): _quantile(ordered, share / 100) for share in QUANTILES},
    }
    for number, name in enumerate(("right", "wrong")):
        if values := [reward for sides in beside.values() for reward in sides[number]]:
            found[name] = math.fsum(values) / len(values)
    shares = [_agreement(right, wrong) for right, wrong in beside.values() if right and wrong]
    if shares:
        mean, deviation = _spread(shares)
        found |= {"agreement": mean, "prompts": len(shares), "error": deviation / math.sqrt(len(shares))}
    return found


def _agreement(right: Sequence[float], wrong: Sequence[float]) -> float:
    """The share of pairs of a right and a wrong sample in which the right one has the higher reward."""
    ordered = sorted(wrong)  # a stranger's run may say that all its samples are of one prompt
    above = sum(bisect_left(ordered, one) + bisect_right(ordered, one) for one in right) / 2
    return above / (len(right) * len(wrong))


def _spread(values: Sequence[float]) -> tuple[float, float]:
    """Mean and standard deviation of all that there are."""
    mean = math.fsum(values) / len(values)
    return mean, math.sqrt(math.fsum((value - mean) ** 2 for value in values) / len(values))


def _quantile(ordered: Sequence[float], share: float) -> float:
    """Between neighbours by the distance to each."""
    place = share * (len(ordered) - 1)
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])
