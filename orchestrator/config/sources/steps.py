"""Pairs of single reasoning steps of the model's own samples (Step-DPO, arXiv 2406.18629)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import field_validator

from orchestrator.config.base import Count, Fraction, NonEmpty, compiled
from orchestrator.config.reward import ProcessModel
from orchestrator.config.sources.base import (
    PROBLEMS,
    SAMPLING,
    Condition,
    SourceSettings,
    no_correct_samples,
    same_samples,
)

if TYPE_CHECKING:
    from orchestrator.config.job import Job


class Steps(SourceSettings):
    """Pairs of single reasoning steps (Step-DPO, arXiv 2406.18629); for `source: steps`."""

    type: Literal["steps"] = "steps"

    section: ClassVar[str] = "steps"
    what: ClassVar[str] = "single reasoning steps"
    reads: ClassVar[frozenset[str]] = frozenset({*PROBLEMS, *SAMPLING})
    compares_golds: ClassVar[bool] = True
    names_data: ClassVar[bool] = True
    conditions: ClassVar[Sequence[Condition]] = (
        Condition(
            ("steps.rollouts", "steps.threshold"),
            "`steps.localiser: rollouts`",
            lambda steps: steps.localiser == "rollouts",
        ),
        Condition(("steps.verdicts",), "`steps.localiser: file`", lambda steps: steps.localiser == "file"),
        Condition(("steps.process",), "`steps.localiser: process`", lambda steps: steps.localiser == "process"),
    )
    judged_by: ClassVar[Mapping[str, str]] = {"located": "localiser", "pairs": "filter"}

    opening: str = "Let's think step by step.\nStep 1:"
    """Text that opens the answer, so that it comes in reasoning steps; the prompt ends in it."""
    split: str = "markers"
    """What begins a reasoning step: `markers` ("Step 2:" at the start of a line), `lines` (a line is a step), or
    `pattern:REGEX`."""
    localiser: Literal["rollouts", "judge", "file", "process"] = "rollouts"
    """Who finds the first wrong reasoning step: `rollouts` (a prefix is right when enough continuations reach the
    gold answer; binary search over the steps), `judge` (see `judge`), `file` (questions are written as JSONL, and
    people's verdicts read), or `process` (a reward model for steps)."""
    process: ProcessModel | None = None
    """The process reward model, for `localiser: process`: its `model` (a folder, or a model on the Hub) and how it is
    asked, see below."""
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

    @property
    def opens_with(self) -> str:
        return self.opening

    @property
    def evaluation_opens_with(self) -> str:
        return self.opening if self.open_evaluation else ""

    @property
    def process_model(self) -> ProcessModel | None:
        return self.process if self.localiser == "process" else None

    def asks_judge(self) -> bool:
        return "judge" in (self.localiser, self.filter)

    def templates(self, job: Job) -> Mapping[str, str]:
        return {**super().templates(job), "steps.opening": self.opening}

    def paths_in_run(self) -> Iterator[tuple[str, str]]:
        yield "steps.verdicts", self.verdicts or "verdicts"

    def contradictions(self, job: Job) -> Iterator[str]:
        """Pairs that nothing compares, a judge or verdicts that are missing, and samples that cannot differ."""
        yield from no_correct_samples(job)
        dpo = job.loss.dpo if isinstance(job.loss.dpo, list) else [job.loss.dpo]
        if not any(dpo):
            yield (
                "`source: steps` makes pairs of reasoning steps, which `loss.dpo: 0` would not use: the rejected ones "
                "are the point"
            )
        if job.pairs.gold_as_chosen:
            yield (
                "`pairs.gold_as_chosen` puts whole gold solutions into pairs, and those of `source: steps` are of "
                "single reasoning steps: leave it out"
            )
        if self.asks_judge() and job.judge is None:
            yield "`steps.localiser: judge` and `steps.filter: judge` need `judge.model`, the model that judges"
        if self.localiser == "process" and self.process is None:
            yield "`steps.localiser: process` needs `steps.process.model`, the reward model that judges steps"
        if self.localiser == "file" and self.verdicts is not None and job.rounds > 1:
            yield (
                f"`steps.verdicts` is one file, and each of {job.rounds} rounds asks about other answers: leave it "
                "out, and write verdicts/round-01.jsonl and so on in the run's folder"
            )
        yield from same_samples(job)
