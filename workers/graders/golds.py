"""What a gold answer says: a worked solution is its last box or what follows its last `####`; a list is any of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache

from orchestrator.records.golds import SEPARATOR, accepted
from workers.graders.extraction.extraction import boxed
from workers.graders.judgement import CORRECT, Judgement

_MARKER = "####"


@lru_cache(maxsize=1024)
def unwrapped(gold: str) -> str:
    """The answer of a gold answer that is a worked solution; any other is itself.

    Example: "3 + 4 = 7\\n#### 7", "so it is $\\boxed{7}$." and "7" are all "7"
    """
    _, marker, end = gold.rpartition(_MARKER)
    line = end.strip().partition("\n")[0].strip() if marker else ""
    return boxed(end if marker else gold) or line or boxed(gold) or gold


def any_accepted(grader: Callable[[str, str], Judgement]) -> Callable[[str, str], Judgement]:
    """A grader of gold answers that may be lists: correct where one accepted answer is, wrong where the answer is none
    of them for certain."""

    def grade(gold: str, answer: str) -> Judgement:
        if SEPARATOR not in gold:
            return grader(gold, answer)
        judgements: list[Judgement] = []
        for one in accepted(gold):
            judgements.append(grader(one, answer))
            if judgements[-1].verdict == "correct":
                break
        return best_of(judgements)

    return grade


def best_of(judgements: Sequence[Judgement]) -> Judgement:
    """What is to be said of an answer, of what was said of it beside each accepted one."""
    if len(judgements) == 1:
        return judgements[0]
    if any(judgement.verdict == "correct" for judgement in judgements):
        return CORRECT
    reason = "; ".join(dict.fromkeys(judgement.reason or "" for judgement in judgements))
    if all(judgement.verdict == "wrong" for judgement in judgements):
        final, weak = (all(getattr(one, name) for one in judgements) for name in ("final", "weak"))
        return Judgement("wrong", reason, final=final, weak=weak)
    flags = {name: any(getattr(one, name) for one in judgements) for name in ("failed", "unreadable", "gold_unread")}
    return Judgement("ungradable", reason, **flags)
