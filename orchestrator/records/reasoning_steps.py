"""What is asked about an answer's reasoning steps, and what comes back."""

from __future__ import annotations

from dataclasses import dataclass

STEP_PROMPT = 1
"""Version of what the judge is asked about steps (workers.judge.reasoning_steps)."""


@dataclass(frozen=True, slots=True)
class StepItem:
    """An answer whose steps are to be judged."""

    problem: str
    solution: str | None
    """A worked solution that is right, where there is one."""
    gold: str
    """The right final answer."""
    steps: tuple[str, ...]
    """Without their markers."""


@dataclass(frozen=True, slots=True)
class StepJudgement:
    """What a judge says of one answer.

    Example: StepJudgement(1, None, (("correct", "it adds up"), ("incorrect", "6 * 7 is 42")))
    """

    first_wrong: int | None
    """Index (from 0) of the first step that is not correct; None where all are, or where there is no judgement."""
    failed: str | None
    """Why there is no judgement; None where there is one."""
    verdicts: tuple[tuple[str, str], ...]
    """`correct`, `neutral` or `incorrect`, and the reason, a step each, up to the first that is not correct."""
