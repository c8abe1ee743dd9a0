"""How much a round of a job samples, answers and trains on: counts and tokens. Pure.

The counts of samples and pairs are the most that there can be, but where an earlier run tells how many prompts make
pairs. A text is as long as it was in that run; else as the data's worked solutions are; else as long as it may be.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from orchestrator.commands.plan.earlier import Earlier
from orchestrator.config import Job
from orchestrator.rounds.context import evaluation_tokens
from orchestrator.rounds.space import Sizes, prompted, rejected_of_row
from orchestrator.sources.source import Source

EVALUATED = ("evaluation", "selection", "repeated")
READ = ("reference", "policy", "train")
"""Phases that answer held-out problems, and that read pairs; the others draw samples for pairs."""
Lengths = Mapping[str, Mapping[str, float]]
"""Mean tokens, as preview.Preview has them."""


@dataclass(frozen=True)
class Texts:
    """Lengths of texts in tokens, and on what they rest."""

    prompt: float
    sample: float
    answer: float
    pair: float | None
    """Of a pair in training, with its prompt; None: two samples and a prompt."""
    pairs: float | None
    """Pairs of a prompt; None: as many as there may be."""
    rests_on: str


@dataclass(frozen=True)
class Amount:
    """What a phase of a round handles."""

    phase: str
    samples: int = 0
    """Texts that are written, or pairs that are read."""
    read: int = 0
    """Tokens that go through the model at once, as prompts and pairs do."""
    written: int = 0
    """Tokens that are drawn, one after the other."""


def texts(job: Job, lengths: Lengths, earlier: Earlier | None) -> Texts:
    """How long a job's texts are."""
    prompt = _prompt(lengths)
    most, answer = float(job.generate.max_tokens), float(evaluation_tokens(job))
    given = _mean(lengths, "chosen")
    pair = (
        None
        if given is None
        else given + (_mean(lengths, "rejected") or 0.0) + (_mean(lengths, "prompt", "stages") or 0.0)
    )
    if earlier is not None and (earlier.sample_tokens or earlier.answer_tokens):
        own = earlier.sample_tokens or earlier.answer_tokens
        sample, answer = min(most, own), min(answer, earlier.answer_tokens or own)
        return Texts(
            prompt,
            sample,
            answer,
            pair or earlier.pair_tokens or None,
            earlier.pairs or None,
            f"the run {earlier.name}",
        )
    if (worked := _mean(lengths, "solution")) is not None:
        return Texts(prompt, min(most, worked), min(answer, worked), pair, None, "the data's worked solutions")
    return Texts(prompt, most, answer, pair, None, "the longest that they may be (generate.max_tokens)")


def _prompt(lengths: Lengths) -> float:
    found = [said["prompt"] for key, said in lengths.items() if key.startswith("data.") and "prompt" in said]
    return sum(found) / max(1, len(found))


def _mean(lengths: Lengths, part: str, of: str = "") -> float | None:
    found = [said[part] for key, said in lengths.items() if key.startswith(of) and part in said]
    return sum(found) / len(found) if found else None


def baseline(job: Job, sizes: Sizes, said: Texts) -> list[Amount]:
    """What is done before round 1."""
    return _evaluations(job, sizes, said)


def of_round(job: Job, number: int, sizes: Sizes, source: Source, said: Texts) -> list[Amount]:
    """The phases of a round, in order."""
    drawn = source.drawn(job, number, sizes)
    found = [
        Amount(
            one.phase,
            one.samples,
            int(one.prompts * said.prompt),
            int(one.samples * min(one.max_tokens, said.sample)),
        )
        for one in drawn
    ]
    found += _rewards(job, sum(one.samples for one in drawn), said)
    pairs, tokens = num_pairs(job, number, sizes, source, said), _pair_tokens(job, said)
    if job.loss.of_round(number).reads_reference:
        found.append(Amount("reference", pairs, int(pairs * tokens)))
    times = trained(job, number, pairs, tokens)
    found.append(Amount("train", pairs, int(pairs * tokens * times * (2 if job.train.retrain else 1))))
    if source.scores_policy:
        found.append(Amount("policy", pairs, int(pairs * tokens)))
    if job.train.eval_every is not None:
        gate = {"gate": sizes.get("gate", (0, 0.0))}
        exports = math.ceil(updates(job, number, pairs, tokens) / job.train.eval_every)
        found += [
            Amount("selection", a.samples * exports, a.read * exports, a.written * exports)
            for a in _evaluations(job, gate, said)
        ]
    return [*found, *_evaluations(job, sizes, said)]


def _rewards(job: Job, samples: int, said: Texts) -> list[Amount]:
    """What each reward model reads."""
    phases = job.reward.phases() if job.reward else []
    return [Amount(phase, samples, int(samples * (said.prompt + said.sample))) for phase in phases]


def num_pairs(job: Job, number: int, sizes: Sizes, source: Source, said: Texts) -> int:
    """Pairs of a round: at most, or as many a prompt as an earlier run had. Stages share the preference data out."""
    most, _ = source.disk.rows(job, number, sizes)
    if source.disk.prompts_of == "stages":
        return min(most, math.ceil(sizes.get("stages", (0, 0.0))[0] / job.rounds))
    if said.pairs is None:
        return most
    prompts, _ = prompted(job, number, sizes)
    return min(most, round(prompts * said.pairs))


def _pair_tokens(job: Job, said: Texts) -> float:
    if said.pair is not None:
        return said.pair
    return said.prompt + said.sample * (1 if job.source.imitates or job.pairs.imitates else 2)


def trained(job: Job, number: int, pairs: int, tokens: float) -> float:
    """Passes over a round's pairs."""
    passes = float(job.train.epochs)
    if job.train.token_budget is not None:
        passes = job.train.token_budget / max(1.0, pairs * tokens)
    if job.train.max_steps is not None:
        passes = min(passes, job.train.max_steps * _pairs_an_update(job, number) / max(1, pairs))
    return passes


def updates(job: Job, number: int, pairs: int, tokens: float) -> int:
    """Updates of a round's training."""
    return math.ceil(trained(job, number, pairs, tokens) * pairs / _pairs_an_update(job, number))


def _pairs_an_update(job: Job, number: int) -> int:
    """At most, where groups are counted."""
    return job.train.batch_pairs * rejected_of_row(job, number)


def _evaluations(job: Job, sizes: Sizes, said: Texts) -> list[Amount]:
    """The evaluation of one model, and the answers that are drawn besides."""
    held_out = {split: count for split, (count, _) in sizes.items() if split not in ("train", "stages")}
    counts = {"evaluation": sum(held_out.values())}
    if job.evaluate.samples and "test" in held_out:
        counts["repeated"] = job.evaluate.samples * sum(n for split, n in held_out.items() if split != "gate")
    return [
        Amount(phase, count, int(count * said.prompt), int(count * said.answer))
        for phase, count in counts.items()
        if count
    ]


def total(rounds: Sequence[Sequence[Amount]], phases: Sequence[str]) -> Amount:
    """The sum of some phases over rounds."""
    of = [amount for each in rounds for amount in each if amount.phase in phases]
    return Amount(phases[0], sum(a.samples for a in of), sum(a.read for a in of), sum(a.written for a in of))
