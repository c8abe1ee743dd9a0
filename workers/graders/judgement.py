"""What a grader says about one answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # records.py brings pyarrow, which a grader's process has no use for
    from orchestrator.records import Verdict


@dataclass(frozen=True, slots=True)
class Judgement:
    """A verdict, with its reason unless it is "correct".

    `final` marks a "wrong" that no other grader may overrule, `failed` an "ungradable" that no other
    grader's "wrong" makes up for.

    Example: Judgement("wrong", "70 is not 7", final=True)
    """

    verdict: Verdict
    reason: str | None = None
    final: bool = False
    failed: bool = False


CORRECT = Judgement("correct")


def short(text: str, length: int = 40) -> str:
    """`text` cut to `length` characters, for reasons that people read."""
    return text if len(text) <= length else text[: length - 1] + "…"
