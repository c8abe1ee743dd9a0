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

    Otherwise the answer is wrong if any grader could judge it, for the reason that the last such
    grader gave, and ungradable if none could, or if one failed that might have said correct. A "wrong" marked
    final ends the search: once both sides are read as numbers, their values decide. A grader that raises has
    failed; running out of memory is not caught, because the process is then no longer to be trusted.

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
        wrong: Judgement | None = None
        failures: list[Judgement] = []
        for title, grader in members:
            judgement = _asked(title, grader, gold, answer)
            if judgement.verdict == "correct" or judgement.final:
                return judgement
            if judgement.verdict == "wrong":
                wrong = judgement
            else:
                failures.append(judgement)
        failed = any(failure.failed for failure in failures)
        return wrong if wrong and not failed else _ungradable(failures)

    return any_of


def _all_of(specs: Sequence[Spec]) -> Grader:
    """Correct where all of these say so; wrong for the first one that does; else ungradable."""
    members = [(_title(spec), _member(spec)) for spec in specs]

    def all_of(gold: str, answer: str) -> Judgement:
        failures: list[Judgement] = []
        for title, grader in members:
            judgement = _asked(title, grader, gold, answer)
            if judgement.verdict == "wrong":
                return judgement
            if judgement.verdict == "ungradable":
                failures.append(judgement)
        return _ungradable(failures) if failures else CORRECT

    return all_of


def _ungradable(failures: Sequence[Judgement]) -> Judgement:
    reasons = "; ".join(failure.reason or "" for failure in failures)
    return Judgement("ungradable", reasons, failed=any(failure.failed for failure in failures))


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
    if title and judgement.reason is not None:
        return replace(judgement, reason=f"{title}: {judgement.reason}")
    return judgement
