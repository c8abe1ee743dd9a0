"""One grader made of those that a job names."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from typing import Any

from workers.graders.golds import any_accepted, unwrapped
from workers.graders.judgement import CORRECT, Judgement, short

Grader = Callable[[str, str], Judgement]
"""(gold answer, extracted answer) to what is to be said of it."""
Spec = str | Mapping[str, Sequence[Any]]
"""An entry of `grade.graders`: a name, `name:argument`, or {"all_of" or "any_of": entries}."""


def build(specs: Sequence[Spec]) -> Grader:
    """The grader that asks these in order; the first "correct" wins.

    A "wrong" marked final ends the search: once both sides are read as numbers, their values decide. Another "wrong"
    stands if no grader failed that might have said correct, for the reason that the last such grader gave. A weak one,
    which only says that the texts differ, stands if besides no grader found an answer, or a gold answer, that it could
    not read. Otherwise the answer is ungradable. A grader that raises has failed; running out of memory is not caught,
    because the process is then no longer to be trusted.

    Raises:
        ValueError: a grader cannot be made; the message names it.
    """
    members = [(_title(spec), _member(spec)) for spec in specs]
    return any_accepted(_any_of(members))


def each(specs: Sequence[Spec]) -> dict[str, Grader]:
    """The graders by the name of their entry, such as "number" or "all_of: exact, number"."""
    return {name_of(spec): build([spec]) for spec in specs}


def name_of(spec: Spec) -> str:
    """An entry of `grade.graders` in words."""
    if isinstance(spec, str):
        return spec
    [(how, specs)] = spec.items()
    return f"{how}: {', '.join(map(name_of, specs))}"


def _any_of(members: Sequence[tuple[str, Grader]]) -> Grader:
    def any_of(gold: str, answer: str) -> Judgement:
        wrongs: list[Judgement] = []
        abstained: list[Judgement] = []
        for title, grader in members:
            judgement = _asked(title, grader, gold, answer)
            if judgement.verdict == "correct" or judgement.final:
                return judgement if judgement.verdict != "ungradable" else replace(judgement, final=False)
            (wrongs if judgement.verdict == "wrong" else abstained).append(judgement)
        return _standing(wrongs, abstained) or _ungradable(abstained)

    return any_of


def _standing(wrongs: Sequence[Judgement], abstained: Sequence[Judgement]) -> Judgement | None:
    """The "wrong" that stands beside these abstentions; None where none does."""
    if any(one.failed for one in abstained):
        return None
    strong = [one for one in wrongs if not one.weak]
    if strong or any(one.unreadable or one.gold_unread for one in abstained):
        return strong[-1] if strong else None
    return wrongs[-1] if wrongs else None


def _all_of(specs: Sequence[Spec]) -> Grader:
    """Correct where all of these say so; wrong for the first one that does; else ungradable.

    A weak "wrong" makes way for a stronger one, and for an answer that another grader found and could not read.
    """
    members = [(_title(spec), _member(spec)) for spec in specs]

    def all_of(gold: str, answer: str) -> Judgement:
        weak: Judgement | None = None
        abstained: list[Judgement] = []
        for title, grader in members:
            judgement = _asked(title, grader, gold, answer)
            if judgement.verdict == "wrong" and not judgement.weak:
                return judgement
            if judgement.verdict == "wrong":
                weak = weak or judgement
            elif judgement.verdict == "ungradable":
                abstained.append(judgement)
        if weak and not any(one.unreadable or one.gold_unread for one in abstained):
            return weak
        return _ungradable(abstained) if abstained else CORRECT

    return all_of


def _ungradable(abstained: Sequence[Judgement]) -> Judgement:
    return Judgement(
        "ungradable",
        "; ".join(one.reason or "" for one in abstained),
        failed=any(one.failed for one in abstained),
        unreadable=any(one.unreadable for one in abstained),
        gold_unread=any(one.gold_unread for one in abstained),
    )


def _title(spec: Spec) -> str:
    """How reasons name a grader; "" for a combination, whose members name themselves."""
    return spec.partition(":")[0] if isinstance(spec, str) else ""


def _member(spec: Spec) -> Grader:
    if not isinstance(spec, str):
        [(how, specs)] = spec.items()
        return {"all_of": _all_of, "any_of": build}[how](specs)
    name, colon, argument = spec.partition(":")
    module = import_module(f"workers.graders.{name}")
    grader: Grader = module.make(argument) if colon else _unwrapping(module.grade)
    return grader


def _unwrapping(grader: Grader) -> Grader:
    """Take a gold answer that is a worked solution for the answer in it."""

    def grade(gold: str, answer: str) -> Judgement:
        return grader(unwrapped(gold), answer)

    return grade


def _asked(title: str, grader: Grader, gold: str, answer: str) -> Judgement:
    """The grader's judgement, with its name in the reason."""
    try:
        judgement = grader(gold, answer)
    except MemoryError:
        raise
    except Exception as error:
        return Judgement("ungradable", f"{title} failed: {type(error).__name__}: {short(str(error), 100)}", failed=True)
    if not title or judgement.reason is None:
        return judgement
    if judgement.verdict == "wrong":  # made anew, since `replace` takes as long as a comparison
        return Judgement("wrong", f"{title}: {judgement.reason}", final=judgement.final, weak=judgement.weak)
    return replace(judgement, reason=f"{title}: {judgement.reason}")
