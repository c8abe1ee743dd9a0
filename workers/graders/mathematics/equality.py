"""Whether two expressions have one value, as numbers with many digits at a few points.

`simplify` may take for ever and proves little that a few points do not: two expressions of school mathematics that
agree to 240 digits at several points are one. They are tried at real points first; where an expression has no real
value, at whole ones, and then over the complex numbers.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from enum import Enum
from fractions import Fraction
from functools import lru_cache
from typing import Any

import sympy

from workers.graders.mathematics.arguments import closed
from workers.graders.mathematics.evaluation import (
    NoValue,
    Number,
    context,
    evaluate,
    is_complex,
    is_infinite,
    names,
    points,
    prepared,
)
from workers.graders.mathematics.sympy_reader import read, read_matrix

DIGITS = (60, 260)
_SLACK = 18
"""Digits that rounding may cost."""
_ENOUGH = 2
"""Points that must have a value."""
_AMBIGUOUS = re.compile(r"(?<![0-9.])([0-9]+)/([0-9]+)(?=\s*(?:[A-Za-z(]|\\(?:pi|sqrt|ln|log|sin|cos|tan|theta)))")
"""1/2x, which the parser takes for 1/(2x), and many a writer for x/2."""


class Outcome(Enum):
    """What a comparison came to."""

    EQUAL = "equal"
    DIFFERENT = "different"
    UNCLEAR = "unclear"


@lru_cache(maxsize=1024)
def expression(latex: str, loose: bool = False) -> Any:
    """The SymPy expression of `latex`, or None where it is none or is not solved; `loose` is that of `read`."""
    try:
        return prepared(read(latex, loose))
    except MemoryError:
        raise
    except Exception as error:  # ANTLR and SymPy raise whatever they like, and a bare Exception among it
        if type(error).__name__ == "Refused":
            raise
        return None


def matrix(latex: str) -> list[list[Any]] | None:
    """The entries of a matrix that is computed, as SymPy expressions; None where it is none."""
    try:
        return [list(row) for row in read_matrix(latex).doit().tolist()]
    except MemoryError:
        raise
    except Exception as error:
        if type(error).__name__ == "Refused":
            raise
        return None


def is_constant(latex: str) -> bool:
    """Whether `latex` is read and has no variable."""
    made = expression(latex)
    return made is not None and not names(made)


def same_value(gold: str, answer: str) -> Outcome:
    """Whether two LaTeX expressions are equal wherever both are defined."""
    one = expression(gold)
    outcome = Outcome.UNCLEAR if one is None else same_expression(one, expression(answer))
    if outcome is not Outcome.EQUAL and (other := _AMBIGUOUS.sub(r"\\frac{\1}{\2}", answer)) != answer:
        return Outcome.EQUAL if same_value(gold, other) is Outcome.EQUAL else outcome
    if outcome is not Outcome.EQUAL and (other := _AMBIGUOUS.sub(r"\\frac{\1}{\2}", gold)) != gold:
        return same_value(other, answer)
    return _loosely(gold, answer) if outcome is Outcome.DIFFERENT else outcome


def _loosely(gold: str, answer: str) -> Outcome:
    """Of two that differ: unclear where they agree once a function takes all that is multiplied behind it."""
    for one, other in ((gold, answer), (answer, gold)):
        if closed(one) != one and same_expression(expression(one, loose=True), expression(other)) is Outcome.EQUAL:
            return Outcome.UNCLEAR
    return Outcome.DIFFERENT


def same_expression(one: Any, other: Any) -> Outcome:
    """As `same_value`, of two SymPy expressions; None is one that is not read."""
    if other is None:
        return Outcome.UNCLEAR
    if one == other:
        return Outcome.EQUAL
    if is_infinite(one) or is_infinite(other):
        return _infinite(one, other)
    variables = _variables(one, other)
    try:
        outcome = agree(
            lambda *at: evaluate(one, *at),
            lambda *at: evaluate(other, *at),
            variables,
            is_complex(one) or is_complex(other),
        )
    except NoValue:
        return Outcome.UNCLEAR
    # With |x| in sight, x may be negative.
    return Outcome.DIFFERENT if outcome is Outcome.UNCLEAR and (one.has(sympy.Abs) or other.has(sympy.Abs)) else outcome


def _infinite(one: Any, other: Any) -> Outcome:
    one, other = one.doit(), other.doit()
    if one == other:
        return Outcome.EQUAL
    return Outcome.UNCLEAR if sympy.nan in (one, other) else Outcome.DIFFERENT


def _variables(one: Any, other: Any) -> frozenset[str]:
    """In small letters, since 2X is 2x, unless one side has a letter in both cases (r/R)."""
    for side in (one, other):
        found = names(side)
        if len({name.lower() for name in found}) < len(found):
            return names(one) | names(other)
    return frozenset(name.lower() for name in names(one) | names(other))


Evaluation = Callable[[dict[str, Fraction], int, bool], Number]


def agree(one: Evaluation, other: Evaluation, variables: frozenset[str], over_complex: bool = False) -> Outcome:
    """Whether two functions of a point, a number of digits, and of whether to stay real, agree.

    Raises:
        NoValue: one of them has no value where it is tried.
    """
    if not variables:
        for real in (True, False)[over_complex:]:
            try:
                return _near(one, other, {}, real)
            except NoValue:
                if not real:
                    raise
    for kind, real in (("real", True), ("whole", True), ("real", False)):
        if over_complex and real:
            continue
        outcomes = _tried(one, other, variables, kind, real)
        if len(outcomes) >= _ENOUGH:
            return _decided(outcomes, one, other, variables)
    return Outcome.UNCLEAR


def _tried(
    one: Evaluation, other: Evaluation, variables: frozenset[str], kind: str, real: bool
) -> list[tuple[bool, Outcome]]:
    """Whether each point with a value is positive, and what came out there."""
    outcomes = []
    for point in points(variables, kind):
        try:
            outcomes.append((min(point.values()) > 0, _near(one, other, point, real)))
        except NoValue:
            continue
    return outcomes


def _decided(
    outcomes: list[tuple[bool, Outcome]], one: Evaluation, other: Evaluation, variables: frozenset[str]
) -> Outcome:
    found = {outcome for _, outcome in outcomes}
    if found == {Outcome.EQUAL}:
        return Outcome.EQUAL
    at_positive = {outcome for positive, outcome in outcomes if positive}
    if at_positive == {Outcome.EQUAL}:
        return Outcome.UNCLEAR  # such as sqrt(x^2) for x, where x may be a length
    if variables <= frozenset("nkmjl"):  # whole numbers, as in cos(n pi) and (-1)^n
        whole = {outcome for _, outcome in _tried(one, other, variables, "whole", real=False)}
        if whole == {Outcome.EQUAL}:
            return Outcome.UNCLEAR
    return Outcome.DIFFERENT


def _near(one: Evaluation, other: Evaluation, point: dict[str, Fraction], real: bool) -> Outcome:
    rough = (one(point, DIGITS[0], real), other(point, DIGITS[0], real))
    if all(isinstance(value, Fraction) for value in rough):
        return Outcome.EQUAL if rough[0] == rough[1] else Outcome.DIFFERENT
    if not _close(*rough, DIGITS[0]) and not all(_tiny(value) for value in rough):
        return Outcome.DIFFERENT
    fine = (one(point, DIGITS[1], real), other(point, DIGITS[1], real))
    zeros = all(_vanishes(*values) for values in zip(rough, fine, strict=True))
    return Outcome.EQUAL if zeros or _close(*fine, DIGITS[1]) else Outcome.DIFFERENT


def _tiny(value: Number) -> bool:
    return not value or (not isinstance(value, Fraction) and abs(value) < context(DIGITS[0]).mpf(10) ** -30)


def _vanishes(rough: Number, fine: Number) -> bool:
    """Whether a value is zero, or a rounding error that more digits make smaller."""
    return not fine or (not isinstance(fine, Fraction) and abs(fine) < abs(rough) * context(DIGITS[1]).mpf(10) ** -100)


def _close(one: Number, other: Number, digits: int) -> bool:
    if isinstance(one, Fraction) and isinstance(other, Fraction):
        return one == other
    mp = context(digits)
    one, other = _float(one, mp), _float(other, mp)
    scale = max(abs(one), abs(other))
    return bool(abs(one - other) <= scale * mp.mpf(10) ** (_SLACK - digits))


def _float(value: Number, mp: Any) -> Any:
    return mp.mpf(value.numerator) / value.denominator if isinstance(value, Fraction) else value
