"""What only one source of pairs reads."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from orchestrator.config.base import (
    Count,
    Fraction,
    NonEmpty,
    NonNegative,
    Number,
    Settings,
    compiled,
)
from orchestrator.config.data import SourceOrPath


class Stages(Settings):
    """Preference data, trained on chunk by chunk, one a round (sDPO, arXiv 2403.19270); for `source: dataset`."""

    sources: list[SourceOrPath] = Field(min_length=1)
    """Preference data, one chunk each: rows with `chosen`, `rejected` and `prompt`, as plain text or as lists of
    messages with `role` and `content`. The prompt may also be `question`, `query`, `problem`, `instruction` (followed
    by `input`, if there is one) or `input`, with the system message in `system`. Where the sides of every row repeat
    it, they are taken without it; where most but not all do, the data are refused. Where no column may be it, it is
    what both sides begin with (as in TRL). With `initial_reason_steps` (Step-DPO's data), the sides are single steps
    that follow these; that needs `pairs.append_eos: false`. A row that is none of these is refused; one with an empty
    or equal sides, or that is too long, is left out and counted. Messages need a model with a chat template; plain text
    becomes messages where `data.chat` is true."""
    template: str = "{prompt}"
    """Text of a prompt where the rows have plain text; `{prompt}` is the row's own, `{system}` its column `system`."""
    split: Count | None = None
    """Cut a single source into so many chunks, at random; rows with the same prompt stay together."""
    order: Literal["easy_first", "given", "random"] = "easy_first"
    """Order of the chunks: `easy_first` begins with the one of which the seed model ranks most pairs right, that is,
    finds the chosen side likelier than the rejected one."""
    drop_seen: bool = False
    """A stage's reference must not know the stage's data. Pairs with a completion that the reference has been trained
    on are refused, or, with this, left out and counted."""

    @field_validator("template")
    @classmethod
    def _has_the_prompt(cls, value: str) -> str:
        if "{prompt}" not in value:
            raise ValueError("it has no {prompt}, where the row's own prompt stands")
        return value

    @property
    def chunks(self) -> int:
        """Number of chunks, which is the number of stages."""
        return self.split or len(self.sources)

    @model_validator(mode="after")
    def _one_source(self) -> Stages:
        if self.split is not None and len(self.sources) > 1:
            raise ValueError("`split` cuts a single source; several sources are a chunk each")
        return self


class Steps(Settings):
    """Pairs of single steps (Step-DPO, arXiv 2406.18629); for `source: steps`."""

    opening: str = "Let's think step by step.\nStep 1:"
    """Text that opens the answer, so that it comes in steps; the prompt ends in it."""
    split: str = "markers"
    """What begins a step: `markers` ("Step 2:" at the start of a line), `lines` (a line is a step), or
    `pattern:REGEX`."""
    localiser: Literal["rollouts", "judge", "file"] = "rollouts"
    """Who finds the first wrong step: `rollouts` (a prefix is right when enough continuations reach the gold answer;
    binary search over the steps), `judge` (see `judge`), or `file` (questions are written as JSONL, and people's
    verdicts read)."""
    rollouts: Count = 8
    """Continuations of a prefix."""
    threshold: Fraction = 0.25
    """Share of a prefix's rollouts that must reach the gold answer for the prefix to be right; at least one must."""
    rectifications: Count = 20
    """Continuations from the last right step, for a right step to be chosen from; the rollouts from there are among
    them."""
    filter: Literal["none", "judge"] = "none"
    """`judge` leaves out pairs whose right answer has a step that the judge does not call correct, or that it gives no
    verdict on."""
    verdicts: NonEmpty | None = None
    """JSONL file with the verdicts for `localiser: file`, in the run's folder unless it is absolute: one line an
    answer, with its `id` and `first_wrong`, a number or null. For jobs of one round; null is `verdicts/round-01.jsonl`,
    and so on by round."""
    open_evaluation: bool = False
    """Open the answers to gate and test in the same way."""

    @field_validator("split")
    @classmethod
    def _splits(cls, value: str) -> str:
        name, _, pattern = value.partition(":")
        if value in ("markers", "lines"):
            return value
        if name != "pattern":
            raise ValueError(f"{value!r} must be `markers`, `lines` or `pattern:REGEX`")
        if compiled(pattern).match(""):
            raise ValueError(f"{value!r} matches no text at all, so every place in an answer would begin a step")
        return value


class SelfJudge(Settings):
    """The model's own judgement as score (Self-Rewarding, arXiv 2401.10020); for `source: judge`."""

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
    def _has_a_scale(self) -> SelfJudge:
        if self.lowest >= self.highest:
            raise ValueError(f"`lowest` ({self.lowest:g}) must be below `highest` ({self.highest:g})")
        return self

    @field_validator("pattern")
    @classmethod
    def _one_group(cls, value: str) -> str:
        if (groups := compiled(value).groups) != 1:
            raise ValueError(f"{value!r} has {groups} groups and needs one; write (?:...) for the others")
        return value
