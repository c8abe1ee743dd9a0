"""The model's own samples, scored by the model itself (Self-Rewarding, arXiv 2401.10020)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import field_validator, model_validator

from orchestrator.config.base import Count, NonNegative, Number, compiled
from orchestrator.config.learning import BY_SCORE
from orchestrator.config.sources.base import (
    PAIRING,
    PROBLEMS,
    SAMPLING,
    SourceSettings,
    no_correct_samples,
    same_samples,
    single_samples,
)

if TYPE_CHECKING:
    from orchestrator.config.job import Job


class SelfRewarding(SourceSettings):
    """The model's own judgement as score (Self-Rewarding, arXiv 2401.10020); for `source: judge`."""

    type: Literal["judge"] = "judge"

    section: ClassVar[str] = "self_judge"
    what: ClassVar[str] = "its own samples, scored by the model itself"
    reads: ClassVar[frozenset[str]] = frozenset({*PROBLEMS, *SAMPLING, *PAIRING})

    template: str = ""
    """Text of a prompt for a judgement: `{prompt}` is the prompt, `{response}` the completion to be judged. Sent as a
    user message where `data.chat` is true. Empty takes the paper's additive 5-point prompt."""
    pattern: str = r"(?i:score):\s*(\d+(?:\.\d+)?)"
    """Regular expression with one group, the score; the last match counts."""
    lowest: Number = 0.0
    """Lowest score; one outside the scale is no judgement."""
    highest: Number = 5.0
    """Highest score."""
    samples: Count = 3
    """Judgements a completion, which are averaged; those without a score are left out."""
    temperature: NonNegative = 1.0
    """Sampling temperature of a judgement."""
    max_tokens: Count = 512
    """Longest judgement, in tokens."""

    @field_validator("template")
    @classmethod
    def _shows_the_response(cls, value: str) -> str:
        if value and "{response}" not in value:
            raise ValueError("it has no {response}, where the completion to be judged stands")
        return value

    @model_validator(mode="after")
    def _has_a_scale(self) -> SelfRewarding:
        if self.lowest >= self.highest:
            raise ValueError(f"`lowest` ({self.lowest:g}) must be below `highest` ({self.highest:g})")
        return self

    @field_validator("pattern")
    @classmethod
    def _one_group(cls, value: str) -> str:
        if (groups := compiled(value).groups) != 1:
            raise ValueError(f"{value!r} has {groups} groups and needs one; write (?:...) for the others")
        return value

    @property
    def scores(self) -> tuple[float, float]:
        return self.lowest, self.highest

    def lengths(self) -> Mapping[str, int]:
        return {"self_judge.max_tokens": self.max_tokens}

    def templates(self, job: Job) -> Mapping[str, str]:
        return {**super().templates(job), "self_judge.template": self.template}

    def has_scores(self, job: Job) -> bool:
        return True

    def contradictions(self, job: Job) -> Iterator[str]:
        """Rules that need verdicts, judgements without room, and samples that cannot differ."""
        yield from no_correct_samples(job)
        if job.pairs.rule not in BY_SCORE:
            yield "`source: judge` gives scores, no verdicts: set `pairs.rule: best_worst`, `margin` or `best_rest`"
        if job.pairs.gold_as_chosen:
            yield "`pairs.gold_as_chosen` needs verdicts: with `source: judge` a gold solution has no score"
        longest = job.generate.max_model_len
        if longest is not None and self.max_tokens >= longest:
            yield (
                f"`self_judge.max_tokens` ({self.max_tokens}) leaves no room for a prompt in "
                f"`generate.max_model_len` ({longest})"
            )
        yield from single_samples(job)
        yield from same_samples(job)
