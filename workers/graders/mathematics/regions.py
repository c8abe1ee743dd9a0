"""Sets of real numbers: intervals, unions, and what inequalities say, compared by what they contain.

A region knows where it may change, and whether it contains a number. Two regions are equal when they agree at each
of these places and between them.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import Any

import sympy
from sympy.core.function import AppliedUndef

from workers.graders.mathematics.equality import expression
from workers.graders.mathematics.evaluation import NoValue, context, evaluate, is_infinite
from workers.graders.mathematics.kinds import Definition, Group, Kind, NumberSet, Relation, Scalar, Together

DIGITS = 50
MAX_DEGREE = 20
MAX_ABSOLUTES = 3
_MP = context(DIGITS)
_CLOSE = _MP.mpf(10) ** -30
_SIGNS: dict[str, Callable[[int], bool]] = {
    "<": lambda sign: sign < 0,
    ">": lambda sign: sign > 0,
    "\\le": lambda sign: sign <= 0,
    "\\ge": lambda sign: sign >= 0,
    "\\ne": lambda sign: sign != 0,
}
_INFINITE = re.compile(r"[-+]?\s*\\infty\s*")
_MARKED = {"+": ">", "-": "<", ">0": ">", "<0": "<", "*": "\\ne", "\\ge0": "\\ge", "\\le0": "\\le", "\\ne0": "\\ne"}
_FULL_MARKS = {**_MARKED, "0": "", "^+": ">"}


@dataclass(frozen=True)
class Region:
    """A set of real numbers, which may change at `breaks` alone."""

    breaks: tuple[Any, ...]
    contains: Callable[[Any], bool]

    def is_empty(self) -> bool:
        """Whether nothing is in it."""
        return not any(self.contains(place) for place in _places(self.breaks))


def same_region(one: Region, other: Region) -> bool:
    """Whether both contain the same numbers."""
    return all(one.contains(place) == other.contains(place) for place in _places(one.breaks + other.breaks))


def _places(breaks: tuple[Any, ...]) -> list[Any]:
    """The breaks, and a number in each gap between them and beyond them."""
    ordered: list[Any] = []
    for place in sorted(place for place in breaks if _MP.isfinite(place)):
        if not ordered or not _same(ordered[-1], place):
            ordered.append(place)
    if not ordered:
        return [_MP.mpf(0)]
    between = [(one + other) / 2 for one, other in pairwise(ordered)]
    return [ordered[0] - 1, *ordered, *between, ordered[-1] + 1]


def _same(one: Any, other: Any) -> bool:
    if not _MP.isfinite(one) or not _MP.isfinite(other):
        return bool(one == other)
    return bool(abs(one - other) <= _CLOSE * max(1, abs(one), abs(other)))


def region(kind: Kind) -> Region | None:
    """What `kind` contains, where it is a set of real numbers that is read as one; else None."""
    if isinstance(kind, Definition):
        return region(kind.value)
    if isinstance(kind, NumberSet):
        return _number_set(kind)
    if isinstance(kind, Relation):
        return _relation(kind)
    if isinstance(kind, Together):
        return _together(kind)
    if isinstance(kind, Group):
        if kind.marks == "{}":
            return _points(kind)
        return _interval(kind) if len(kind.items) == 2 and kind.marks and kind.marks != "<>" else None
    return None


def bounds(kind: Group) -> tuple[Any, Any] | None:
    """The two ends of what may be an interval, as numbers; None where one is no real number."""
    ends = [_end(item) for item in kind.items]
    return None if len(ends) != 2 or ends[0] is None or ends[1] is None else (ends[0], ends[1])


def _end(kind: Kind) -> Any | None:
    if not isinstance(kind, Scalar):
        return None
    made = expression(kind.latex)
    if made is None:
        return None
    if is_infinite(made):
        made = made.doit()
        return {sympy.oo: _MP.inf, -sympy.oo: -_MP.inf}.get(made)
    return _real(made, {})


def _real(made: Any, point: dict[str, Any]) -> Any | None:
    try:
        value = evaluate(made, point, DIGITS)
    except NoValue:
        return None
    if isinstance(value, Fraction):
        return _MP.mpf(value.numerator) / value.denominator
    return None if isinstance(value, _MP.mpc) else value


def _points(kind: Group) -> Region | None:
    places = tuple(_end(item) for item in kind.items)
    if None in places:
        return None
    return Region(places, lambda x: any(_same(x, place) for place in places))


def _interval(kind: Group) -> Region | None:
    ends = bounds(kind)
    if ends is None:
        return None
    low, high = ends
    if low > high:
        return None
    low_in, high_in = kind.marks[0] == "[" and _MP.isfinite(low), kind.marks[1] == "]" and _MP.isfinite(high)

    def contains(x: Any) -> bool:
        if _same(x, low):
            return low_in and (high_in or not _same(low, high))
        if _same(x, high):
            return high_in
        return bool(low < x < high)

    return Region((low, high), contains)


def _number_set(kind: NumberSet) -> Region | None:
    if kind.letter != "R":
        return None
    if not kind.mark:
        return Region((), lambda x: True)
    sign = _FULL_MARKS.get(kind.mark.replace(" ", ""))
    return _relation(Relation(("x", "0"), (sign,))) if sign else None


def _together(kind: Together) -> Region | None:
    parts = [region(part) for part in kind.parts]
    known = [part for part in parts if part is not None]
    if len(known) < len(parts):
        return None
    breaks = tuple(place for part in known for place in part.breaks)
    if kind.how == "setminus":
        first, *rest = known
        return Region(breaks, lambda x: first.contains(x) and not any(part.contains(x) for part in rest))
    all_of = Region(breaks, lambda x: all(part.contains(x) for part in known))
    any_of = Region(breaks, lambda x: any(part.contains(x) for part in known))
    if kind.how == "":  # "x > 1, x < 3" is both, "x < 1, x > 3" either
        return any_of if all_of.is_empty() else all_of
    return any_of if kind.how == "cup" else all_of


def _relation(kind: Relation) -> Region | None:
    pairs = [
        (left, sign, right)
        for left, sign, right in zip(kind.sides, kind.signs, kind.sides[1:], strict=False)
        if not _INFINITE.fullmatch(left) and not _INFINITE.fullmatch(right)
    ]
    if not pairs:  # -\\infty < x < \\infty
        return Region((), lambda x: True)
    parts = [_inequality(left, sign, right) for left, sign, right in pairs]
    known = [part for part in parts if part is not None]
    if len(known) < len(parts):
        return None
    if len({part.variable for part in known}) != 1:
        return None
    breaks = tuple(place for part in known for place in part.breaks)
    return Region(breaks, lambda x: all(part.contains(x) for part in known))


@dataclass(frozen=True)
class _Inequality:
    """difference SIGN 0 in one variable."""

    variable: str
    difference: Any
    sign: str
    breaks: tuple[Any, ...]

    def contains(self, x: Any) -> bool:
        value = _real(self.difference, {self.variable: x})
        if value is None:
            return False
        scale = max(1, abs(x))
        return _SIGNS[self.sign](0 if abs(value) <= _CLOSE * scale**2 else 1 if value > 0 else -1)


def _inequality(left: str, sign: str, right: str) -> _Inequality | None:
    one, other = expression(left), expression(right)
    if one is None or other is None or sign not in _SIGNS or is_infinite(one) or is_infinite(other):
        return None
    difference = sympy.Add(one, sympy.Mul(-1, other, evaluate=False), evaluate=False)
    functions = difference.atoms(AppliedUndef)  # 0 < f(x) < 1 is about f(x)
    difference = difference.xreplace({function: sympy.Symbol(str(function)) for function in functions})
    symbols = [symbol for symbol in difference.free_symbols if symbol.name not in ("e", "i")]
    if len(symbols) != 1:
        return None
    try:
        breaks = _breaks(difference, symbols[0])
    except (sympy.PolynomialError, ValueError, TypeError, ZeroDivisionError, NotImplementedError, AttributeError):
        return None
    return _Inequality(symbols[0].name, difference, sign, breaks)


def _breaks(difference: Any, symbol: Any) -> tuple[Any, ...]:
    """Where a rational function of `symbol`, with absolute values in it, may change its sign."""
    absolutes = list(difference.atoms(sympy.Abs))
    if len(absolutes) > MAX_ABSOLUTES:
        raise ValueError("too many absolute values")
    cases = [difference]
    for absolute in absolutes:
        inner = absolute.args[0]
        cases = [case.xreplace({absolute: sign}) for case in cases for sign in (inner, -inner)] + [inner]
    places: list[Any] = []
    for case in cases:
        numerator, denominator = sympy.fraction(sympy.together(case.doit()))
        places += _real_roots(numerator, symbol) + _real_roots(denominator, symbol)
    return tuple(places)


def _real_roots(made: Any, symbol: Any) -> list[Any]:
    return [_MP.re(root) for root in roots(made, symbol) if abs(_MP.im(root)) <= _CLOSE * max(1, abs(root))]


def roots(made: Any, symbol: Any) -> list[Any]:
    """The complex roots of a polynomial in `symbol` with numbers as coefficients; none for a constant.

    Raises:
        ValueError: it is no such polynomial, or its degree is too high.
    """
    if not made.has(symbol):
        return []
    try:
        polynomial = sympy.Poly(made, symbol)
    except sympy.PolynomialError as error:
        raise ValueError(str(error)) from None
    if polynomial.degree() > MAX_DEGREE or polynomial.free_symbols - {symbol}:
        raise ValueError("no polynomial that is solved here")
    coefficients = [evaluate(coefficient, {}, DIGITS, real=False) for coefficient in polynomial.all_coeffs()]
    if len(coefficients) < 2:
        return []
    numbers = [_MP.mpf(c.numerator) / c.denominator if isinstance(c, Fraction) else c for c in coefficients]
    return list(_MP.polyroots(numbers, maxsteps=200, extraprec=400))
