"""What a report says of rewards: how they are spread, how far they agree with verdicts, and whether they are gamed."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from orchestrator.reports.columns import Column, Section, count
from orchestrator.reports.evidence import Evidence
from orchestrator.reports.symptoms import Check, Past

QUANTILES = ("5", "25", "50", "75", "95")
Figures = Mapping[str, Any]
"""Of one reward model in a round: see rounds/scoring.figures."""


def rewards(evidence: Evidence) -> list[Figures]:
    """The figures of each reward model, in the job's order; none of a round without."""
    found: list[Figures] = evidence.round.facts.get("scores", {}).get("rewards", [])
    return found


def health_figures(evidence: Evidence) -> Iterator[tuple[str, float]]:
    """The figures of each model by the names of health.health: those of a second one end in `_2`, and so on."""
    for number, said in enumerate(rewards(evidence), 1):
        end = f"_{number}" if number > 1 else ""
        named = {name: said.get(name) for name in ("mean", "right", "wrong", "agreement")}
        named |= {f"q{share}": said.get("quantiles", {}).get(share) for share in QUANTILES}
        yield from ((f"reward_{name}{end}", float(value)) for name, value in named.items() if value is not None)


def words(figures: Mapping[str, float]) -> Iterator[str]:
    """Of health's figures those of the first model, for people."""
    if "reward_mean" in figures:
        agreed = figures.get("reward_agreement")
        told = "" if agreed is None else f", right above wrong in {100 * agreed:.0f} %"
        spread = f"{figures['reward_q5']:.2f} to {figures['reward_q95']:.2f}"
        yield f"reward {figures['reward_mean']:.2f} ({spread}){told}"


def _each(evidence: Evidence, key: str, form: str, times: int = 1) -> str:
    """A figure of each model."""
    values = (said.get(key) for said in rewards(evidence))
    return " / ".join("–" if value is None else format(times * value, form) for value in values)


def _quantiles(evidence: Evidence) -> str:
    spread = (said.get("quantiles", {}) for said in rewards(evidence))
    return " / ".join(", ".join(f"{of[share]:.2f}" for share in QUANTILES if share in of) or "–" for of in spread)


def _combined(evidence: Evidence) -> str:
    """The agreement of what is made of several models."""
    agreed = evidence.round.facts.get("scores", {}).get("combined", {}).get("agreement")
    return "" if agreed is None else f"{100 * agreed:.1f}"


REWARDS = Section(
    "Rewards",
    (
        Column("round", lambda e: str(e.round.number)),
        Column("scored", lambda e: count(e, "scores", "scored")),
        Column("reward", lambda e: _each(e, "mean", ".3f")),
        Column("5, 25, 50, 75, 95 %", _quantiles),
        Column("of right samples", lambda e: _each(e, "right", ".3f")),
        Column("of wrong ones", lambda e: _each(e, "wrong", ".3f")),
        Column("agreement, %", lambda e: _each(e, "agreement", ".1f", 100)),
        Column("± %", lambda e: _each(e, "error", ".1f", 100)),
        Column("prompts", lambda e: _each(e, "prompts", ",")),
        Column("agreement of all together, %", _combined),
    ),
    "Of samples that ended by themselves, as each reward model gives them, in the order of `reward.models`: the mean, "
    "and below which so many per cent of them lie. Agreement: of the pairs of a right and a wrong sample of a prompt, "
    "the share in which the right one has the higher reward (the area under the ROC curve, 50 is chance), averaged "
    "over the prompts that have both, with its standard error. A reward that rises while agreement or accuracy falls "
    "is gamed.",
    lambda e: bool(rewards(e)),
)


def _gamed(evidence: Evidence, past: Past) -> Iterator[str]:
    """A reward that rises while what it stands for falls."""
    before = rewards(past.before) if past.before else []
    for number, (then, now) in enumerate(zip(before, rewards(evidence), strict=False)):
        fallen = [*_fallen(then, now), *_fallen_accuracy(evidence, past)]
        if fallen and _rose(then, now):
            yield (
                f"the mean reward of reward.models.{number} rose from {then['mean']:.3f} to {now['mean']:.3f} while "
                f"{' and '.join(fallen)}: the model may have learned what the reward model likes, and not what it "
                "stands for. Read samples of high reward (`ratchet inspect`); give the verdict or another model a "
                "weight (`reward.verdict_weight`, `reward.models`), or stay closer to the reference (`loss.beta`, "
                "`reference: base`)."
            )


def _rose(then: Figures, now: Figures) -> bool:
    """Whether the mean rose by more than two standard errors."""
    if "mean" not in then or "mean" not in now:
        return False
    error = math.hypot(*(said["deviation"] / math.sqrt(said["rewarded"]) for said in (then, now)))
    return bool(now["mean"] - then["mean"] > 2 * error)


def _fallen(then: Figures, now: Figures) -> Iterator[str]:
    if "agreement" not in then or "agreement" not in now:
        return
    if then["agreement"] - now["agreement"] > max(2 * math.hypot(then["error"], now["error"]), 0.01):
        shares = (f"{100 * said['agreement']:.1f}" for said in (then, now))
        yield f"its agreement with verdicts fell from {' to '.join(shares)} %"


def _fallen_accuracy(evidence: Evidence, past: Past) -> Iterator[str]:
    """By the round's samples, and by the answers to the test problems."""
    before = past.before
    if before and before.pass_one is not None and evidence.pass_one is not None and before.graded and evidence.graded:
        ones = (before.pass_one, evidence.pass_one)
        error = math.sqrt(sum(p * (1 - p) / e.graded for p, e in zip(ones, (before, evidence), strict=True)))
        if ones[0] - ones[1] > max(2 * error, 0.01):
            yield f"the share of right samples fell from {100 * ones[0]:.1f} to {100 * ones[1]:.1f} %"
    start, now = (before or past.base).figures("test"), evidence.figures("test")
    if start and now and now["accuracy"] < start["low"]:
        yield f"test accuracy fell from {100 * start['accuracy']:.1f} to {100 * now['accuracy']:.1f} %"


def _prefers_wrong(evidence: Evidence, past: Past) -> Iterator[str]:
    for number, said in enumerate(rewards(evidence)):
        if "agreement" in said and said["agreement"] + 2 * said["error"] < 0.5:
            yield (
                f"reward.models.{number} gives the right one of a right and a wrong sample the higher reward in only "
                f"{100 * said['agreement']:.1f} % of cases, less than chance: it prefers wrong answers. Look at how it "
                "reads them (`reward.models[].form`), and at whether it knows such prompts."
            )


def _unrewarded(evidence: Evidence, past: Past) -> Iterator[str]:
    answers = evidence.round.count("rewards", "answers")
    for cause, what, cure in (
        ("too_long", "are longer than the reward model may read", "raise `reward.models[].max_tokens`"),
        ("special_token", "spell one of the reward model's special tokens", "look at them"),
        ("not_finite", "get no finite number from the reward model", "see `reward.models[].dtype`"),
    ):
        number = evidence.round.count("rewards", cause)
        if number > 0.05 * max(answers, 1):
            yield f"{100 * number / answers:.0f} % of the samples {what}, and join no pair: {cure}."


GAMED: Sequence[Check] = (_gamed, _prefers_wrong, _unrewarded)
"""Ways in which loops that go by rewards go wrong."""
