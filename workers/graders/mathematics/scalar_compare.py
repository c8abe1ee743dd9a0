"""Comparing single values: numbers, expressions, and the kinds that are made of them, such as ratios and residues.

What may be a unit, a word or the same value a second time is no evidence that an answer is wrong.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise

from workers.graders import number
from workers.graders.mathematics.equality import Outcome, expression, is_constant, same_value
from workers.graders.mathematics.evaluation import NoValue, context, evaluate, names
from workers.graders.mathematics.kinds import Based, Group, Kind, Ratio, Relation, Residue, Scalar
from workers.graders.mathematics.splitting import split_relation

EQUAL, DIFFERENT, UNCLEAR = Outcome.EQUAL, Outcome.DIFFERENT, Outcome.UNCLEAR
_DECIMAL = re.compile(r"([-+]?)\s*([0-9]*)\.([0-9]{6,})")
_OPERATOR = re.compile(r"[+=]|(?<=[^{^ ])\s*-|\\(?:frac|sqrt|sin|cos|ln|log)")
_NO_UNITS = frozenset("xyz")
_NEAR = 10
"""What is rounded is off by less than one part in so many, or by as much of 1; to an integer by up to a half."""
_RESTATED = re.compile(r"(.*[^\s^_({\[,=+*/-])\s+[(\[]([^()\[\]]+)[)\]]")
_PROPER_FRACTION = re.compile(r"([0-9]+)/([0-9]+)|\\frac\{([0-9]+)\}\{([0-9]+)\}")


def restated(gold: Scalar, answer: Scalar) -> Outcome:
    """One value, which may stand twice: "3/4 (0.75)". An exclamation may end the sentence."""
    outcome = values(gold, answer)
    if outcome is not DIFFERENT:
        return outcome
    if answer.latex.endswith("!") and values(gold, Scalar(answer.latex[:-1].strip(), answer.unit)) is EQUAL:
        return UNCLEAR
    twice = _RESTATED.fullmatch(answer.latex)
    if twice is None:
        return outcome
    outcomes = {values(gold, Scalar(part)) for part in twice.groups()}
    return EQUAL if outcomes == {EQUAL} else UNCLEAR if EQUAL in outcomes else outcome


def may_be_one(items: Sequence[Kind]) -> bool:
    """Whether a list may be one value: 18 dollars and 0 cents, 3 and 1/2."""
    if len(items) != 2 or not all(isinstance(item, Scalar) for item in items):
        return False
    first, second = items
    assert isinstance(first, Scalar) and isinstance(second, Scalar)
    if first.unit != second.unit and second.unit:
        return True
    part = _PROPER_FRACTION.fullmatch(second.latex)
    return part is not None and first.latex.isdecimal() and int(part[1] or part[3]) < int(part[2] or part[4])


def values(gold: Scalar, answer: Scalar) -> Outcome:
    """Two single values: by their numbers where both are plain ones, else as expressions. What may be a unit is no
    evidence of a difference, and an answer may be rounded."""
    if gold.unit and answer.unit and gold.unit != answer.unit:
        return DIFFERENT
    numeric, settled = number.settle(gold.latex, answer.latex)
    if settled:
        return {"correct": EQUAL, "wrong": DIFFERENT}.get(numeric.verdict, UNCLEAR)
    outcome = same_value(gold.latex, answer.latex)
    if outcome is DIFFERENT and _may_be_units(gold.latex, answer.latex):
        return UNCLEAR
    if outcome is DIFFERENT and (_rounded(gold.latex, answer.latex) or _rounded(answer.latex, gold.latex)):
        return EQUAL
    return outcome


def _may_be_units(gold: str, answer: str) -> bool:
    """Whether one is a number and the other has letters that may be a unit or words of it: 5 kg m/s, 1.5k, 5 so far."""
    constant = is_constant(gold)
    if constant == is_constant(answer):
        return False
    other = answer if constant else gold
    made = expression(other)
    variables = names(made) if made is not None else frozenset("x")
    return _OPERATOR.search(other) is None and not variables <= _NO_UNITS


def _rounded(decimal: str, exact: str) -> bool:
    """Whether a decimal of six places or more is what rounds to it, or is cut to it."""
    match = _DECIMAL.fullmatch(decimal.strip())
    if match is None or not is_constant(exact):
        return False
    try:
        value = evaluate(expression(exact), {}, 60)
    except NoValue:
        return False
    mp = context(60)
    value = mp.mpf(value.numerator) / value.denominator if hasattr(value, "numerator") else value
    shown, unit = mp.mpf(decimal.replace(" ", "")), mp.mpf(10) ** -len(match[3])
    cut = abs(shown) <= abs(value) < abs(shown) + unit and shown * value > 0
    return bool(abs(value - shown) <= unit / 2 or cut)


def binomial(group: Group) -> Scalar | None:
    """C(n, k) or P(n, k) as one expression; None where an item is no single value."""
    top, bottom = group.items
    if not isinstance(top, Scalar) or not isinstance(bottom, Scalar):
        return None
    factor = f"{{{bottom.latex}}}!" if group.name == "P" else "1"
    return Scalar(f"{factor} \\cdot \\binom{{{top.latex}}}{{{bottom.latex}}}")


def chain(gold: Scalar, answer: Relation, named: bool = False) -> Outcome:
    """6 * 7 = 42, or x^2 - 1 = (x-1)(x+1): one value written in several ways.

    Behind a name, for one number, what has variables is a formula that it is found by: A = \\pi r^2 = 9\\pi.
    """
    if any(sign != "=" for sign in answer.signs):
        return UNCLEAR
    sides = answer.sides
    if named and is_constant(gold.latex) and is_constant(sides[-1]):
        sides = tuple(side for side in sides if expression(side) is None or is_constant(side))
    for one, other in pairwise(sides):
        if same_value(one, other) is not EQUAL:
            return UNCLEAR
    return values(gold, Scalar(sides[-1]))


def is_fixed(kind: Kind) -> bool:
    """Whether it is one value without unknowns."""
    return isinstance(kind, Scalar) and is_constant(kind.latex)


def is_plain(kind: Kind) -> bool:
    """Whether it is one value without unknowns and without a unit."""
    return is_fixed(kind) and isinstance(kind, Scalar) and kind.unit is None


def ratio(gold: Ratio, answer: Kind) -> Outcome:
    """A ratio against another, part by part crosswise, or against the fraction that it is; times of the clock are
    equal by their digits and half of the day."""
    if isinstance(answer, Ratio):
        if len(gold.parts) != len(answer.parts):
            return DIFFERENT
        if gold.clock and answer.clock:
            same = [part.latex.zfill(2) for part in gold.parts] == [part.latex.zfill(2) for part in answer.parts]
            if same and bool(gold.half) != bool(answer.half):
                return UNCLEAR
            return EQUAL if same and gold.half == answer.half else UNCLEAR if gold.half != answer.half else DIFFERENT
        if gold.half or answer.half:
            return UNCLEAR
        crossed = [
            (f"({one.latex})({answer.parts[0].latex})", f"({other.latex})({gold.parts[0].latex})")
            for one, other in zip(gold.parts, answer.parts, strict=True)
        ]
        outcomes = {same_value(*pair) for pair in crossed}
        return DIFFERENT if DIFFERENT in outcomes else UNCLEAR if UNCLEAR in outcomes else EQUAL
    if isinstance(answer, Scalar) and not gold.clock:
        if len(gold.parts) > 2:
            return DIFFERENT
        return values(Scalar(f"\\frac{{{gold.parts[0].latex}}}{{{gold.parts[1].latex}}}"), answer)
    return DIFFERENT if isinstance(answer, Group) and not gold.clock else UNCLEAR


def residue(gold: Residue, answer: Kind) -> Outcome:
    """A residue class against another, or against one number: the gold answer's own is right, others of its class are
    unclear."""
    if isinstance(answer, Residue):
        if values(gold.modulus, answer.modulus) is not EQUAL:
            return values(gold.modulus, answer.modulus)
        if values(gold.value, answer.value) is EQUAL:
            return EQUAL
        shifted = f"\\frac{{({gold.value.latex})-({answer.value.latex})}}{{{gold.modulus.latex}}}"
        return EQUAL if same_value(shifted, f"\\lfloor {shifted} \\rfloor") is EQUAL else DIFFERENT
    if isinstance(answer, Scalar):
        if values(gold.value, answer) is EQUAL:
            return EQUAL
        return UNCLEAR if residue(gold, Residue(answer, gold.modulus)) is EQUAL else DIFFERENT
    return UNCLEAR


def of_residue(gold: Scalar, answer: Residue) -> Outcome:
    """One number against a residue that is said with its modulus: 2 mod 5 is 2; 7 mod 5, which is not reduced, is not
    judged."""
    if not is_constant(gold.latex) or values(gold, answer.value) is not EQUAL:
        return UNCLEAR
    value, modulus = number.parse(answer.value.latex), number.parse(answer.modulus.latex)
    return UNCLEAR if value is not None and modulus is not None and value.figure >= modulus.figure else EQUAL


def misrounded(latex: str) -> bool:
    """Whether two constants on both sides of an approximation are not near one another: \\sqrt{2} \\approx 5."""
    if "\\approx" not in latex:
        return False
    sides, signs = split_relation(latex)
    for one, sign, other in zip(sides, signs, sides[1:], strict=False):
        if sign == "\\approx" and is_constant(one) and is_constant(other) and not _near(one, other):
            return True
    return False


def _near(one: str, other: str) -> bool:
    mp = context(60)
    try:
        found = [evaluate(expression(side), {}, 60) for side in (one, other)]
    except NoValue:
        return True
    first, second = (mp.mpf(v.numerator) / v.denominator if hasattr(v, "numerator") else v for v in found)
    whole = other.strip().isdecimal() and abs(first - second) * 2 <= 1
    return whole or bool(abs(first - second) * _NEAR <= max(abs(first), abs(second), 1))


def based(gold: Based, answer: Kind) -> Outcome:
    """A number in a base against another, or against its digits with the base left out."""
    if isinstance(answer, Based):
        return EQUAL if gold == answer else DIFFERENT
    if isinstance(answer, Scalar):
        return EQUAL if answer.latex == gold.digits else DIFFERENT
    return UNCLEAR
