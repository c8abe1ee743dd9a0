"""What a grader says about one answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # records.rows brings pyarrow, which a grader's process has no use for
    from orchestrator.records.rows import Verdict


@dataclass(frozen=True, slots=True)
class Judgement:
    """A verdict, with its reason unless it is "correct".

    "wrong" needs evidence: both sides were read as the gold's kind and differ, or the answer is no single answer
    (several values, a refusal, a denial). `final` marks a "wrong" that no other grader may overrule; `weak` one that
    only says that the texts differ: it stands where no other grader abstained. Of the "ungradable" ones, `failed` marks
    a grader that broke or ran out of bounds, whose "correct" might be missing, and `unreadable` an answer that is there
    and cannot be read as the gold's kind. With neither, the gold answer is not of the grader's kind;
    `gold_unread` says that it is, and could not be read: other text is then no evidence either.

    Example: Judgement("wrong", "70 is not 7", final=True)
    """

    verdict: Verdict
    reason: str | None = None
    final: bool = False
    failed: bool = False
    weak: bool = False
    unreadable: bool = False
    gold_unread: bool = False


CORRECT = Judgement("correct")


def unreadable(reason: str) -> Judgement:
    """An answer that was found and cannot be read as the gold's kind: no evidence that it is wrong."""
    return Judgement("ungradable", reason, unreadable=True)


def short(text: str, length: int = 40) -> str:
    """`text` cut to `length` characters, for reasons that people read."""
    return text if len(text) <= length else text[: length - 1] + "…"
