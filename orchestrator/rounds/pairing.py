"""From scored samples to preference pairs. Pure and seeded: the same samples and scores give the same pairs."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Literal, TypeVar

from orchestrator.config.learning import GROUPING, IMITATING
from orchestrator.records.rows import Verdict

T = TypeVar("T")

CORRECT, WRONG = 1.0, 0.0
EARLY = ("zip", *IMITATING)
"""Rules that take the first samples of each side, so that pairs can be decided before all samples are drawn."""
SCORES: Mapping[Verdict, float | None] = {"correct": CORRECT, "wrong": WRONG, "ungradable": None}


@dataclass(frozen=True, slots=True)
class Candidate:
    """A completion that may join a pair. `sample_index` is None for the gold solution; a `score` of None joins
    neither side.

    Example: Candidate(3, "Final answer: 7", CORRECT, num_tokens=5)
    """

    sample_index: int | None
    text: str
    score: float | None
    num_tokens: int = 0
    unreadable: bool = False
    """Whether there is no score because the answer could not be read."""
    ended: bool = True
    """Whether it ended by itself, and was not cut off."""


@dataclass(frozen=True, slots=True)
class PairChoice:
    """Which candidates of a prompt make a pair; `number` counts the prompt's pairs from 0. Without `rejected` the
    chosen one is to be imitated."""

    prompt_id: str
    number: int
    chosen: Candidate
    rejected: Candidate | None
    group: str | None = None
    """The id of the first pair of the group that it is in (records/groups.py)."""

    def __post_init__(self) -> None:
        if self.rejected is None:
            return
        if self.chosen.text == self.rejected.text:
            raise ValueError(f"{self.pair_id}: both sides are the same text")
        if self.chosen.sample_index is not None and (self.chosen.score or 0) <= (self.rejected.score or 0):
            raise ValueError(f"{self.pair_id}: the chosen must have a higher score than the rejected")

    @property
    def pair_id(self) -> str:
        return f"{self.prompt_id}/{self.number}"


@dataclass(frozen=True, slots=True)
class PairingPlan:
    """How a round's pairs are made; see config.Pairs."""

    per_prompt: int
    rule: Literal["zip", "best_worst", "margin", "longest_correct", "correct", "unfiltered", "best_rest", "best"] = (
        "zip"
    )
    margin: float = 1.0
    gold_as_chosen: bool | Literal["only"] = False
    rejected: Literal["wrong", "any"] = "wrong"
    distinct: Literal["none", "text", "equations"] = "none"
    max_pairs: int | None = None
    seed: int = 0
    scores: bool = False
    """Keep the scores of both sides beside the pairs, for a loss that goes by them."""


@dataclass(frozen=True, slots=True)
class _Sides:
    """A prompt's candidates as the rules see them."""

    scored: Sequence[Candidate]
    winners: Sequence[Candidate]
    """Those that may be chosen; by a rule that goes by no verdict, all that ended by themselves."""
    losers: Sequence[Candidate]
    plan: PairingPlan
    rng: random.Random


def pair_prompt(prompt_id: str, candidates: Sequence[Candidate], plan: PairingPlan) -> list[PairChoice]:
    """The pairs of one prompt, from its candidates in the order of their sample index.

    Candidates without a score (truncated ones among them; with `rule: unfiltered` these alone) and empty ones join
    neither side; pairs of identical texts are left out.
    """
    sides = _sides_of(prompt_id, candidates, plan)
    pairs = (p for p in _RULES[plan.rule](sides) if p[1] is None or p[0].text != p[1].text)
    group = f"{prompt_id}/0" if plan.rule in GROUPING else None
    return [PairChoice(prompt_id, number, *pair, group) for number, pair in enumerate(pairs)]


def is_decided(candidates: Sequence[Candidate], gold: Sequence[Candidate], plan: PairingPlan) -> bool:
    """Whether no further sample of a prompt could change its pairs; `gold` stands behind all samples. Never so by the
    rules that choose among all samples of a prompt (EARLY has the others)."""
    if plan.rule not in EARLY:
        return False
    only = plan.gold_as_chosen == "only"
    sides = _sides_of("", [*candidates, *gold] if only else candidates, plan)
    if only:  # of the winners all is known, and without any there is no pair
        return plan.rule in IMITATING or not sides.winners or len(sides.losers) >= plan.per_prompt
    # The first of each side are taken, and again where there are too few. A gold solution comes behind all samples.
    needed = [sides.winners] if plan.rule in IMITATING else [sides.winners, sides.losers]
    return all(len(side) >= plan.per_prompt for side in needed)


def _sides_of(prompt_id: str, candidates: Sequence[Candidate], plan: PairingPlan) -> _Sides:
    said = [c for c in candidates if c.text.strip()]
    scored = [c for c in said if c.score is not None]
    winners = [c for c in scored if c.score == CORRECT]
    if plan.rule == "unfiltered":
        winners = [c for c in said if c.ended]
    losers = [c for c in scored if c.score == WRONG]
    if plan.gold_as_chosen == "only":
        winners = [c for c in winners if c.sample_index is None]
    if plan.rejected == "any":
        losers = [c for c in scored if c.sample_index is not None]
    winners, losers = (_distinct(side, plan.distinct) for side in (winners, losers))
    return _Sides(scored, winners, losers, plan, random.Random(f"{plan.seed}/{prompt_id}"))


def walk_together(winners: Sequence[T], losers: Sequence[T], count: int) -> Iterator[tuple[T, T]]:
    """Walk both lists together, each wrapping to its start when it ends, until `count` pairs
    (arXiv 2404.19733, section 2). Nothing when a list is empty. Duplicates from wrapping are kept."""
    if winners and losers:
        for k in range(count):
            yield winners[k % len(winners)], losers[k % len(losers)]


_Pairs = Iterable[tuple[Candidate, Candidate | None]]


def _zip(sides: _Sides) -> _Pairs:
    return walk_together(sides.winners, sides.losers, sides.plan.per_prompt)


def _best_worst(sides: _Sides) -> _Pairs:
    """The highest score against the lowest, of equals a random one; nothing where all are equal (arXiv 2401.10020,
    section 2.4; arXiv 2405.07863)."""
    texts = _by_text(sides.scored)
    scores = [c.score or 0.0 for c in texts]
    if not scores or max(scores) == min(scores):
        return []
    best, worst = ([c for c in texts if c.score == limit] for limit in (max(scores), min(scores)))
    return [(sides.rng.choice(best), sides.rng.choice(worst))]


def _best(sides: _Sides) -> _Pairs:
    """The highest score alone, of equals a random one (RAFT, arXiv 2304.06767, algorithm 1)."""
    texts = _by_text(sides.scored)
    highest = max((c.score or 0.0 for c in texts), default=0.0)
    best = [c for c in texts if c.score == highest]
    return [(sides.rng.choice(best), None)] if best else []


def _best_rest(sides: _Sides) -> _Pairs:
    """The highest score, of equals a random one, each time against another random lower one: what S-DPO takes for a
    group (arXiv 2406.09215); nothing where all are equal."""
    texts = _by_text(sides.scored)
    highest = max((c.score or 0.0 for c in texts), default=0.0)
    lower = [c for c in texts if (c.score or 0.0) < highest]
    if not lower:
        return []
    best = sides.rng.choice([c for c in texts if (c.score or 0.0) == highest])
    return [(best, other) for other in sides.rng.sample(lower, min(sides.plan.per_prompt, len(lower)))]


def _by_text(candidates: Sequence[Candidate]) -> list[Candidate]:
    """One candidate a text, with the mean of the scores that were given to it: a judge may waver."""
    groups: dict[str, list[Candidate]] = {}
    for candidate in candidates:
        groups.setdefault(candidate.text, []).append(candidate)
    return [replace(same[0], score=fmean(c.score or 0.0 for c in same)) for same in groups.values()]


def _margin(sides: _Sides) -> _Pairs:
    """Any two whose scores are at least so far apart; of more than wanted a random choice, in order."""
    texts = _by_text(sides.scored)
    apart = [(a, b) for a in texts for b in texts if (a.score or 0.0) - (b.score or 0.0) >= sides.plan.margin]
    kept = random_subset(len(apart), sides.plan.per_prompt, sides.rng.getrandbits(32))
    return apart if kept is None else [apart[i] for i in kept]


def _longest_correct(sides: _Sides) -> _Pairs:
    """The longest correct one, each time against another random wrong one (DPO-VP, arXiv 2503.12854)."""
    if not sides.winners or not sides.losers:
        return []
    longest = max(sides.winners, key=lambda c: c.num_tokens)
    count = min(sides.plan.per_prompt, len(sides.losers))
    return [(longest, loser) for loser in sides.rng.sample(list(sides.losers), count)]


def _imitated(sides: _Sides) -> _Pairs:
    return [(winner, None) for winner in sides.winners[: sides.plan.per_prompt]]


_RULES: Mapping[str, Callable[[_Sides], _Pairs]] = {
    "zip": _zip,
    "best_worst": _best_worst,
    "margin": _margin,
    "longest_correct": _longest_correct,
    "correct": _imitated,
    "unfiltered": _imitated,
    "best_rest": _best_rest,
    "best": _best,
}

_NUMBER = r"-?\$?\d[\d,]{0,40}(?:\.\d{1,40})?%?"
_OPERAND = rf"\({{0,3}}{_NUMBER}\){{0,3}}"
_BLANK = r"[ \t]{0,9}"  # an equation stands on one line
_EQUATION = re.compile(rf"{_OPERAND}(?:{_BLANK}[-+*/×÷^x]{_BLANK}{_OPERAND}){{1,20}}{_BLANK}={_BLANK}{_NUMBER}")


def equations(text: str) -> tuple[str, ...]:
    """The equations of a solution between numbers, in order, without spaces: "3 + 2 = 5" is "3+2=5".

    Two solutions with the same list reckon the same way (arXiv 2308.01825, section 3.3)."""
    return tuple(re.sub(r"[\s,$]", "", found) for found in _EQUATION.findall(text))


def _distinct(candidates: Sequence[Candidate], by: str) -> list[Candidate]:
    """The first of those that are the same."""
    if by == "none":
        return list(candidates)
    found: dict[object, Candidate] = {}
    for candidate in candidates:
        key = (equations(candidate.text) or candidate.text) if by == "equations" else candidate.text
        found.setdefault(key, candidate)
    return list(found.values())


def random_subset(count: int, cap: int | None, seed: int) -> list[int] | None:
    """Indices, ascending, of a random subset of `cap` out of `count`; None when all are kept."""
    if cap is None or count <= cap:
        return None
    return sorted(random.Random(seed).sample(range(count), cap))
