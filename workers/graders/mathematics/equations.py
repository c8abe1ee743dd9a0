"""Whether two equations, or two inequalities, have the same solutions.

One that is a multiple of the other has. Otherwise each is solved for one variable, at a few values of the others,
and the other one must hold there.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import sympy

from workers.graders.mathematics.equality import Outcome, agree, expression, same_value
from workers.graders.mathematics.evaluation import NoValue, context, evaluate, is_infinite, names, points
from workers.graders.mathematics.kinds import Definition, Group, Kind, Relation, Scalar
from workers.graders.mathematics.regions import DIGITS, region, roots, same_region
from workers.graders.mathematics.splitting import variable

_MP = context(DIGITS)
_SMALL = _MP.mpf(10) ** -20
_FLIPPED = {"<": ">", ">": "<", "\\le": "\\ge", "\\ge": "\\le", "=": "=", "\\ne": "\\ne"}


def difference(kind: Kind) -> Any | None:
    """The left side less the right one of an equation or of an inequality with two sides; None for all else."""
    if isinstance(kind, Definition) and isinstance(kind.value, Scalar):
        left, right = expression(kind.name), expression(kind.value.latex)
    elif isinstance(kind, Relation) and len(kind.sides) == 2:
        left, right = expression(kind.sides[0]), expression(kind.sides[1])
    else:
        return None
    if left is None or right is None:
        return None
    return sympy.Add(left, sympy.Mul(-1, right, evaluate=False), evaluate=False)


def same_relation(gold: Kind, answer: Kind) -> Outcome:
    """Whether both hold for the same values of their variables."""
    one, other = difference(gold), difference(answer)
    if one is None or other is None or is_infinite(one) or is_infinite(other):
        return Outcome.UNCLEAR
    if names(one) != names(other):
        return Outcome.DIFFERENT if names(other) < names(one) else Outcome.UNCLEAR
    factor = _factor(one, other)
    signs = [_sign(kind) for kind in (gold, answer)]
    if signs != ["=", "="]:
        if factor is None:
            return Outcome.UNCLEAR
        flipped = signs[1] if factor > 0 else _FLIPPED[signs[1]]
        return Outcome.EQUAL if flipped == signs[0] else Outcome.DIFFERENT
    if factor is not None:
        return Outcome.EQUAL
    try:
        return _solutions(one, other)
    except (NoValue, ValueError, TypeError, ZeroDivisionError, AttributeError, NotImplementedError, _MP.NoConvergence):
        return Outcome.UNCLEAR


def same_conditions(gold: Kind, answer: Kind) -> Outcome:
    """Whether two sets of real numbers, or inequalities, are the same."""
    one, other = region(gold), region(answer)
    if one is not None and other is not None:
        return Outcome.EQUAL if same_region(one, other) else Outcome.DIFFERENT
    ends = _ends(gold), _ends(answer)
    if ends[0] is None or ends[1] is None:
        return same_relation(gold, answer)
    outcomes = {same_value(*pair) for pair in zip(ends[0][:2], ends[1][:2], strict=True)}
    if ends[0][2] != ends[1][2] or Outcome.DIFFERENT in outcomes:
        return Outcome.DIFFERENT
    return Outcome.UNCLEAR if Outcome.UNCLEAR in outcomes else Outcome.EQUAL


def _ends(kind: Kind) -> tuple[str, str, str] | None:
    """(low, high, marks) of an interval whose ends may be variables: (a,b), or a < x < b."""
    if isinstance(kind, Group) and len(kind.items) == 2 and kind.marks not in ("", "{}", "<>"):
        low, high = kind.items
        return (low.latex, high.latex, kind.marks) if isinstance(low, Scalar) and isinstance(high, Scalar) else None
    if not isinstance(kind, Relation) or len(kind.sides) != 3 or variable(kind.sides[1]) is None:
        return None
    if set(kind.signs) <= {"<", "\\le"}:
        marks = ("(" if kind.signs[0] == "<" else "[") + (")" if kind.signs[1] == "<" else "]")
        return kind.sides[0], kind.sides[2], marks
    if set(kind.signs) <= {">", "\\ge"}:
        marks = ("(" if kind.signs[1] == ">" else "[") + (")" if kind.signs[0] == ">" else "]")
        return kind.sides[2], kind.sides[0], marks
    return None


def _sign(kind: Kind) -> str:
    return kind.signs[0] if isinstance(kind, Relation) else "="


def _factor(one: Any, other: Any) -> Any | None:
    """By what constant one is a multiple of the other; None where it is no multiple."""
    variables = names(one) | names(other)
    for point in points(variables, "real"):
        try:
            first, second = evaluate(one, point, 60), evaluate(other, point, 60)
        except NoValue:
            continue
        if first and second:
            break
    else:
        return None

    def times(expression: Any, factor_of: Any) -> Any:
        return lambda at, digits, real: _product(
            evaluate(expression, at, digits, real), evaluate(factor_of, point, digits, real), digits
        )

    try:
        outcome = agree(times(one, other), times(other, one), variables)
    except NoValue:
        return None
    return (1 if (first > 0) == (second > 0) else -1) if outcome is Outcome.EQUAL else None


def _product(one: Any, other: Any, digits: int) -> Any:
    if isinstance(one, Fraction) == isinstance(other, Fraction):
        return one * other
    mp = context(digits)
    numbers = [mp.mpf(v.numerator) / v.denominator if isinstance(v, Fraction) else v for v in (one, other)]
    return numbers[0] * numbers[1]


def _solutions(one: Any, other: Any) -> Outcome:
    outcomes = {_holds_where_solved(*pair, points(names(one), "real")[:2]) for pair in ((one, other), (other, one))}
    if outcomes == {Outcome.EQUAL}:  # with a root, where variables are negative too: \\sqrt{y} = x is no y = x^2
        below = [point for point in points(names(one), "real") if max(point.values()) < 0][:1]
        again = {_holds_where_solved(*pair, below) for pair in ((one, other), (other, one))}
        return Outcome.EQUAL if again <= {Outcome.EQUAL} else Outcome.UNCLEAR
    if Outcome.DIFFERENT in outcomes:
        return Outcome.DIFFERENT
    return Outcome.UNCLEAR if Outcome.UNCLEAR in outcomes else Outcome.EQUAL


def _holds_where_solved(solved: Any, tested: Any, at_points: list[dict[str, Fraction]]) -> Outcome:
    """Whether `tested` is zero at the zeros of `solved`, which is solved for one variable at these points."""
    symbols = sorted(
        (symbol for symbol in solved.free_symbols if symbol.name not in ("e", "i")), key=lambda symbol: symbol.name
    )
    for symbol in reversed(symbols):
        tried = 0
        try:
            for point in at_points:
                values = {other: sympy.Rational(point[other.name]) for other in symbols if other != symbol}
                numerator, _ = sympy.fraction(sympy.together(solved.xreplace(values).doit()))
                for root in roots(numerator, symbol):
                    at = {**point, symbol.name: root if _MP.im(root) else _MP.re(root)}
                    tried += 1
                    if abs(_float(evaluate(tested, at, DIGITS, real=False))) > _SMALL * max(1, abs(root)) ** 2:
                        return Outcome.DIFFERENT
        except ValueError:
            continue
        if tried:
            return Outcome.EQUAL
    return Outcome.UNCLEAR


def _float(value: Any) -> Any:
    return _MP.mpf(value.numerator) / value.denominator if isinstance(value, Fraction) else value
