"""From verdicts to preference pairs. Pure and seeded: the same samples and verdicts give the same pairs."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from orchestrator.records import Verdict

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Candidate:
    """A completion that may join a pair. `sample_index` is None for the gold solution.

    Example: Candidate(3, "Final answer: 7", "correct")
    """

    sample_index: int | None
    text: str
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class PairChoice:
    """Which candidates of a prompt make a pair; `number` counts the prompt's pairs from 0."""

    prompt_id: str
    number: int
    chosen: Candidate
    rejected: Candidate

    def __post_init__(self) -> None:
        if self.chosen.verdict != "correct" or self.rejected.verdict != "wrong":
            raise ValueError(f"{self.pair_id}: the chosen must be correct and the rejected wrong")
        if self.chosen.text == self.rejected.text:
            raise ValueError(f"{self.pair_id}: both sides are the same text")

    @property
    def pair_id(self) -> str:
        return f"{self.prompt_id}/{self.number}"


def walk_together(winners: Sequence[T], losers: Sequence[T], count: int) -> Iterator[tuple[T, T]]:
    """Walk both lists together, each wrapping to its start when it ends, until `count` pairs
    (arXiv 2404.19733, section 2). Nothing when a list is empty. Duplicates from wrapping are kept."""
    if winners and losers:
        for k in range(count):
            yield winners[k % len(winners)], losers[k % len(losers)]


def pair_prompt(prompt_id: str, candidates: Sequence[Candidate], per_prompt: int) -> list[PairChoice]:
    """At most `per_prompt` pairs of one prompt, from its candidates in the order of their sample index.

    Ungradable candidates (truncated ones among them) and empty ones join neither side; pairs of
    identical texts are left out.
    """
    usable = [c for c in candidates if c.text.strip()]
    winners = [c for c in usable if c.verdict == "correct"]
    losers = [c for c in usable if c.verdict == "wrong"]
    pairs = (p for p in walk_together(winners, losers, per_prompt) if p[0].text != p[1].text)
    return [PairChoice(prompt_id, number, *pair) for number, pair in enumerate(pairs)]


def random_subset(count: int, cap: int | None, seed: int) -> list[int] | None:
    """Indices, ascending, of a random subset of `cap` out of `count`; None when all are kept."""
    if cap is None or count <= cap:
        return None
    return sorted(random.Random(seed).sample(range(count), cap))
