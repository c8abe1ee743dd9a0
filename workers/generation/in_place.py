"""Engines take the weights of the next model in place of those that they serve, where that can be believed.

Loading weights anew costs a tenth of what a new engine does, and an engine that kept some of the old ones would answer
as if nothing were the matter. So it is done only where the trainer's own log-probabilities of some completions are
known under both models, and these are further apart than engine and trainer are anyway:

    slope    what the change did to the engine's log-probabilities follows what it did to the trainer's, in nats
    digests  the first time, new engines are made after it, and must hold the very same: parameters that are fused or
             tied, packed copies of them, what was made of them when they were loaded

An engine that sleeps has given its weights up, so that there is no slope: it takes those of the next model when it
wakes, and the first time new engines must hold the very same. Where one of these fails, weights are not loaded in place
again, and new engines are made as always. What is evaluated is compared with the trainer afterwards in any case
(orchestrator.rounds.evaluation.check_probe).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from orchestrator.records.executed import ANEW
from orchestrator.records.parquet import read_table

SLOPE = 0.2
"""How far from 1 a slope may be, and three times how far noise may move one that counts."""

_Tokens = tuple[int, ...]
Probe = dict[tuple[_Tokens, _Tokens], tuple[float, float | None]]
"""Log-probabilities of completions, in nats, by prompt and completion: under the model that was trained, and under the
reference of its training, where the trainer knows that."""


@dataclass(frozen=True)
class Served:
    """A model, as it is given to engines."""

    model: str
    """Its folder."""
    digest: str
    """Of its files."""
    probe: Probe = field(default_factory=dict)
    """What its trainer says of it."""


class Pool(Protocol):
    """Engines that serve one model (pool.GeneratorPool)."""

    model: str | None
    resting: bool
    num_starts: int

    @property
    def asleep(self) -> bool:
        """Whether every engine rests and can take weights in place."""

    @property
    def complete(self) -> bool:
        """Whether every engine serves, as far as is known."""

    def logprobs(self, prompts: list[list[int]], completions: list[list[int]]) -> list[list[float | None]]:
        """By engine, of each completion, in nats; None for what does not fit its context."""

    def load_weights(self, model: str) -> str:
        """Have the engines take the weights of another model. Returns why one could not; empty where all have."""

    def held(self) -> list[dict[str, str]]:
        """By engine, a digest of each piece that it computes with; nothing of one that does not say it."""

    def rename(self, model: str) -> None:
        """What the engines serve is what is in this folder."""


class InPlace:
    """What is known of the engines of a run: whom they serve, and whether they may take weights in place. `say` is told
    what is found out about that."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._served: Served | None = None
        self._trusted: dict[bool, bool] = {}  # by whether engines slept before; nothing until it was tried
        self._slept = False  # those that were tried last
        self._tried: list[dict[str, str]] | None = None  # what engines held after the first change, before new ones
        self.told = ""
        """How the last model came into the engines, where it was loaded in place or could not be; else empty."""

    def change(self, pool: Pool, new: Served) -> bool:
        """Have engines serve another model without making new ones. Returns whether they do; where they do not, they
        may be asked nothing before new ones are made, which `made` is to be told of."""
        old, self._tried, self.told, self._slept = self._served, None, "", pool.asleep
        if self._slept:
            if not self._woken(pool, new):
                return False
        elif pool.resting or old is None or pool.model != old.model:
            return False
        elif new.digest == old.digest:
            pool.rename(new.model)
        elif self._trusted.get(False) is False or not pool.complete or not self._loaded(pool, old, new):
            return False
        self._served = new
        return True

    @property
    def may_sleep(self) -> bool:
        """Whether engines that rest may wait for weights: nowhere has it failed to load them in place."""
        return False not in self._trusted.values()

    def made(self, pool: Pool, new: Served) -> None:
        """New engines serve this model now."""
        tried, self._tried, self._served = self._tried, None, new
        if tried is None:
            return
        if why := _differ(tried, pool.held()):
            self._refuse(f"what engines hold after it is not what new ones hold: {why}")
        else:
            self._trusted[self._slept] = True
            self._say(f"weights   are loaded in place from now on ({self.told}, and as in new engines)")
            self.told = f"anew, the same as in place, {self.told}"

    def _loaded(self, pool: Pool, old: Served, new: Served) -> bool:
        trainer = _under_old(old.probe, new.probe)
        prompts, completions = [list(p) for p, _ in trainer], [list(c) for _, c in trainer]
        change = [new.probe[key][0] - logprob for key, logprob in trainer.items()]
        if not any(change):
            return False
        starts, before = pool.num_starts, pool.logprobs(prompts, completions)
        if not all(_told_apart(change, list(trainer.values()), sums) for sums in before):
            return False
        if why := pool.load_weights(new.model):
            return self._refuse(why)
        after = pool.logprobs(prompts, completions)
        if pool.num_starts != starts or len(after) != len(before):
            return self._refuse("an engine was lost after it")
        slopes = [_slope(change, sums, then) for sums, then in zip(after, before, strict=True)]
        if far := [slope for slope in slopes if not abs(slope - 1.0) <= SLOPE]:
            return self._refuse(f"engines follow the trainer with a slope of {far[0]:.3f} instead of 1")
        return self._proved(pool, f"slope {max(slopes, key=lambda slope: abs(slope - 1.0)):.3f}")

    def _woken(self, pool: Pool, new: Served) -> bool:
        if why := pool.load_weights(new.model):
            return self._refuse(why)
        return self._proved(pool, "after a sleep")

    def _proved(self, pool: Pool, how: str) -> bool:
        """Whether engines that took weights in place need not be compared with new ones; else `made` does it."""
        if self._slept not in self._trusted:
            self.told, self._tried = how, pool.held()
            return False
        self.told = f"in place, {how}"
        return True

    def _refuse(self, why: str) -> bool:
        self._trusted[self._slept], self.told = False, f"{ANEW}{why}"
        self._say(f"weights   cannot be loaded in place, and engines are made anew: {why}")
        return False


def read_probe(file: Path) -> Probe:
    """A trainer's log-probabilities, from a file of schema PROBE."""
    rows = read_table(file).to_pydict()
    texts = [(tuple(p), tuple(c)) for p, c in zip(rows["prompt_token_ids"], rows["completion_token_ids"], strict=True)]
    reference = rows.get("reference_logprob", [None] * len(texts))
    return dict(zip(texts, zip(rows["logprob"], reference, strict=True), strict=True))


def _under_old(old: Probe, new: Probe) -> dict[tuple[_Tokens, _Tokens], float]:
    """The trainer's log-probabilities under the model before, of completions that it has scored under the new one: of a
    candidate of the same training; else those under the reference. That this is the model before shows in what the
    engines say of it."""
    return {key: old[key][0] for key in new if key in old} or {
        key: reference for key, (_, reference) in new.items() if reference is not None
    }


def _differ(tried: Sequence[dict[str, str]], new: Sequence[dict[str, str]]) -> str:
    """In what engines after a change in place and new ones differ; empty where they do not."""
    if len(tried) != len(new) or not all((*tried, *new)):
        return "not every engine could say it"
    names = {
        name for a, b in zip(tried, new, strict=True) for name in a.keys() | b.keys() if a.get(name) != b.get(name)
    }
    return f"{len(names)} tensors differ, such as {min(names)}" if names else ""


def _told_apart(change: Sequence[float], trainer: Sequence[float], engine: Sequence[float | None]) -> bool:
    """Whether noise as large as the difference of engine and trainer under the old weights would leave the slope of
    this change where it is."""
    rows = [(d, e - t) for d, t, e in zip(change, trainer, engine, strict=True) if e is not None]
    signal = math.sqrt(sum(d * d for d, _ in rows))
    # Of each completion there are two such errors, one under each model.
    noise = math.sqrt(2.0 * sum(error * error for _, error in rows) / max(1, len(rows)))
    return bool(signal) and 3.0 * noise <= SLOPE * signal  # false for NaN


def _slope(change: Sequence[float], after: Sequence[float | None], before: Sequence[float | None]) -> float:
    """By least squares, through the origin: the engine's change by the trainer's."""
    rows = [(d, a - b) for d, a, b in zip(change, after, before, strict=True) if a is not None and b is not None]
    return sum(d * e for d, e in rows) / sum(d * d for d, _ in rows)
