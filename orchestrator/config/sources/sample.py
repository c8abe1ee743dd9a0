"""The model's own samples, scored against gold answers (arXiv 2404.19733)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, ClassVar, Literal

from orchestrator.config.base import at_round
from orchestrator.config.sources.base import (
    PAIRING,
    PROBLEMS,
    SAMPLING,
    SourceSettings,
    rounds_that_differ,
    same_samples,
    single_samples,
)

if TYPE_CHECKING:
    from orchestrator.config.job import Job


class Sample(SourceSettings):
    """The model's own samples; how they are drawn and paired is in `generate` and `pairs`."""

    type: Literal["sample"] = "sample"

    what: ClassVar[str] = "its own samples, scored against gold answers"
    reads: ClassVar[frozenset[str]] = frozenset({*PROBLEMS, *SAMPLING, *PAIRING})
    only: ClassVar[Mapping[str, str]] = {
        "generate.hint": "`generate.hint` needs `source: sample` and `data.hint_template`, the prompt that gives the "
        "answer away",
        "data.curriculum": "`data.curriculum` goes by how many samples of a prompt are right, with `source: sample` "
        "only",
        "generate.adapt_temperature": "`generate.adapt_temperature` goes by which prompts have right and wrong "
        "samples, with `source: sample` only",
        "generate.wave_samples": "`generate.wave_samples` goes by which pairs the verdicts decide, with "
        "`source: sample` only",
        "train.retrain": "`train.retrain` makes pairs of the gate problems as of the others, with `source: sample` "
        "only",
    }
    compares_golds: ClassVar[bool] = True
    takes_rewards: ClassVar[bool] = True

    def has_scores(self, job: Job) -> bool:
        """Those that reward models give."""
        return job.reward is not None

    def templates(self, job: Job) -> Mapping[str, str]:
        """With that of the hint, where one is given."""
        hint = {"data.hint_template": job.data.hint_template or ""} if job.generate.hint else {}
        return {**super().templates(job), **hint}

    def contradictions(self, job: Job) -> Iterator[str]:
        """Hints that nothing imitates, and samples that cannot differ."""
        pairs = job.pairs
        if job.generate.hint:
            if job.data.hint_template is None:
                yield self.only["generate.hint"]
            if pairs.rule != "correct":
                yield (
                    "`generate.hint` gives further correct samples to imitate: set `pairs.rule: correct` and "
                    "`loss.dpo: 0`"
                )
            if pairs.gold_as_chosen:
                yield (
                    "`generate.hint` is for prompts without a solution to imitate, and `pairs.gold_as_chosen` gives "
                    "all one"
                )
        yield from _waves(job)
        if job.generate.adapt_temperature and (pairs.imitates or pairs.gold_as_chosen):
            key = "gold_as_chosen" if pairs.gold_as_chosen else f"rule: {pairs.rule}"
            yield (
                "`generate.adapt_temperature` looks for prompts with right and wrong samples, and with "
                f"`pairs.{key}` others give pairs as well: leave one of the two out"
            )
        if (not pairs.imitates and not pairs.gold_as_chosen) or pairs.rule == "best":
            yield from single_samples(job)
            yield from same_samples(job)


def _waves(job: Job) -> Iterator[str]:
    """Waves after which no prompt can be decided."""
    wave, pairs = job.generate.wave_samples, job.pairs
    if wave is None:
        return
    if pairs.rule != "zip" and not pairs.imitates:
        yield (
            "`generate.wave_samples` stops asking a prompt once no further sample could change its pairs, and "
            f"`pairs.rule: {pairs.rule}` chooses among all samples: set `pairs.rule` to `zip`, `correct` or "
            "`unfiltered`, or leave `wave_samples` out"
        )
        return
    sides = 1 if pairs.imitates or pairs.gold_as_chosen == "only" else 2
    for number in rounds_that_differ(job, pairs.per_prompt):
        least, samples = sides * at_round(pairs.per_prompt, number), at_round(job.generate.samples, number)
        if math.ceil(least / wave) * wave < samples:
            return
    yield (
        f"`generate.wave_samples: {wave}` saves nothing: no wave before the last of `generate.samples` ({samples}) can "
        f"decide the pairs of a prompt, which takes {least} samples (`pairs.per_prompt`, on {sides} side"
        f"{'s' if sides > 1 else ''}). Draw more samples, or make fewer pairs or waves of fewer samples"
    )
