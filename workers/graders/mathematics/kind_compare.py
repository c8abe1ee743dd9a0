"""Which kinds of answers may be compared, and how.

"Different" is said of two that were read and differ, or whose kinds exclude each other: a set is no pair, an
interval no list of its ends. Where a text could be meant either way, such as "2, 5" for the pair or interval (2,5), or
where it needs a step more than reading, such as an equation for a number, the outcome is unclear.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from workers.graders.mathematics import scalar_compare as single
from workers.graders.mathematics.equality import Outcome, expression, is_constant, matrix, same_expression, same_value
from workers.graders.mathematics.equations import difference, same_conditions, same_relation
from workers.graders.mathematics.evaluation import names
from workers.graders.mathematics.kinds import (
    Based,
    Definition,
    Dots,
    Family,
    Group,
    Kind,
    Matrix,
    Named,
    NumberSet,
    Ratio,
    Relation,
    Residue,
    Scalar,
    Together,
    Words,
)
from workers.graders.mathematics.regions import bounds, region

EQUAL, DIFFERENT, UNCLEAR = Outcome.EQUAL, Outcome.DIFFERENT, Outcome.UNCLEAR
_COORDINATES = frozenset("xyzwabcdpqrstuvhkmn")


def compare(gold: Kind, answer: Kind) -> Outcome:
    """What is to be said of an answer, for this gold answer."""
    if isinstance(answer, Words) or isinstance(gold, Words):
        same = isinstance(answer, Words) and isinstance(gold, Words) and answer.text == gold.text
        return EQUAL if same else UNCLEAR
    if isinstance(answer, Definition) and not isinstance(gold, Definition | Relation | Named):
        return _of_a_definition(gold, answer)
    if isinstance(answer, Family) and not isinstance(gold, Family):
        if single.is_fixed(gold):
            return UNCLEAR  # 3k is no 3000
        return EQUAL if compare(gold, answer.value) is EQUAL else UNCLEAR
    if isinstance(gold, Group) and not gold.marks and isinstance(answer, Group | Named | Definition | Scalar | Matrix):
        return _list(gold, answer)
    return _COMPARISONS[type(gold)](gold, answer)


def _of_a_definition(gold: Kind, answer: Definition) -> Outcome:
    """A gold answer without a name, and "y = ..."."""
    several = isinstance(answer.value, Group) and not answer.value.marks
    if several and isinstance(gold, Group) and gold.marks not in ("", "{}"):
        return DIFFERENT  # x = 2, 5 is no pair
    if isinstance(gold, Scalar) and isinstance(answer.value, Relation):
        return single.chain(gold, answer.value, named=True)
    outcome = compare(gold, answer.value)
    if outcome is DIFFERENT and isinstance(gold, Scalar) and isinstance(answer.value, Scalar):
        made = expression(answer.value.latex)
        if is_constant(gold.latex) and made is not None and names(made):
            return UNCLEAR  # an equation for a number
    return outcome


def _scalar(gold: Scalar, answer: Kind) -> Outcome:
    if isinstance(answer, Group) and answer.name in ("C", "P") and len(answer.items) == 2:
        made = single.binomial(answer)
        return UNCLEAR if made is None else _scalar(gold, made)
    if isinstance(answer, Scalar):
        return single.restated(gold, answer)
    if isinstance(answer, Relation):
        return single.chain(gold, answer)
    if (
        isinstance(answer, Ratio)
        and len(answer.parts) == 2
        and not answer.clock
        and all(map(single.is_plain, answer.parts))
    ):
        if gold.latex.isdecimal():
            return DIFFERENT  # 18:1 is a ratio
        return single.values(gold, Scalar(f"\\frac{{{answer.parts[0].latex}}}{{{answer.parts[1].latex}}}"))
    if isinstance(answer, Residue):
        return single.of_residue(gold, answer)
    if isinstance(answer, Based):
        return EQUAL if single.values(gold, Scalar(answer.digits)) is EQUAL else UNCLEAR
    if isinstance(answer, Group) and not answer.marks and _all_equal(gold, answer.items):
        return UNCLEAR  # "1/2 or 0.5"
    if isinstance(answer, Group) and not answer.marks and single.may_be_one(answer.items):
        return UNCLEAR
    if isinstance(answer, Group):
        return DIFFERENT if all(isinstance(item, Scalar | Group) for item in answer.items) else UNCLEAR
    if isinstance(answer, Named):
        return DIFFERENT if is_constant(gold.latex) else UNCLEAR
    if isinstance(answer, Matrix):
        return DIFFERENT
    return UNCLEAR


def _all_equal(gold: Kind, items: Sequence[Kind]) -> bool:
    return len(items) == 2 and items[0] != items[1] and all(compare(gold, item) is EQUAL for item in items)


def _itemwise(gold: Sequence[Kind], answer: Sequence[Kind]) -> Outcome:
    """In this order."""
    if len(gold) != len(answer):
        return DIFFERENT
    outcomes = {compare(one, other) for one, other in zip(gold, answer, strict=True)}
    return DIFFERENT if DIFFERENT in outcomes else UNCLEAR if UNCLEAR in outcomes else EQUAL


def _in_any_order(gold: Sequence[Kind], answer: Sequence[Kind]) -> Outcome:
    """As many, and each with a partner of its own."""
    left = list(answer)
    unclear = False
    for item in gold:
        outcomes = [compare(item, other) for other in left]
        if EQUAL in outcomes:
            del left[outcomes.index(EQUAL)]
        elif UNCLEAR in outcomes:
            unclear = True
        else:
            return DIFFERENT
    if unclear:
        return UNCLEAR if len(gold) == len(answer) else DIFFERENT
    return DIFFERENT if left else EQUAL


def _distinct(items: Sequence[Kind]) -> list[Kind]:
    found: list[Kind] = []
    for item in items:
        if not any(compare(other, item) is EQUAL for other in found):
            found.append(item)
    return found


def _may_be_interval(group: Group) -> bool:
    if len(group.items) != 2 or group.marks == "<>" or group.name:
        return False
    ends = bounds(group)
    if ends is None:  # with a variable in it
        return all(isinstance(item, Scalar) for item in group.items) and not all(map(single.is_fixed, group.items))
    return bool(ends[0] < ends[1])


def _group(gold: Group, answer: Kind) -> Outcome:
    if gold.marks == "{}":
        return _set(gold, answer)
    if isinstance(answer, Group) and answer.marks:
        if answer.marks == gold.marks or {answer.marks, gold.marks} == {"()", "<>"}:
            return _itemwise(gold.items, answer.items)
        return DIFFERENT
    if isinstance(answer, Group):
        outcome = _with_dots(gold.items, answer.items) if _has_dots(gold) else _itemwise(gold.items, answer.items)
        return UNCLEAR if outcome is EQUAL and _may_be_interval(gold) else outcome
    if isinstance(answer, Named):
        return _coordinates(gold, answer) if gold.marks in ("()", "<>") else DIFFERENT
    if isinstance(answer, Relation | Together | NumberSet):
        if isinstance(answer, Relation) and "=" in answer.signs:
            return UNCLEAR
        return same_conditions(gold, answer) if _may_be_interval(gold) else DIFFERENT
    if isinstance(answer, Matrix):
        vector = [row[0] for row in answer.rows] if len(answer.rows[0]) == 1 else list(answer.rows[0])
        return _itemwise(gold.items, vector) if 1 in (len(answer.rows), len(answer.rows[0])) else DIFFERENT
    return DIFFERENT if isinstance(answer, Scalar | Ratio) else UNCLEAR


def _coordinates(gold: Group, answer: Named) -> Outcome:
    if len(gold.items) != len(answer.values):
        return DIFFERENT
    outcome = _itemwise(gold.items, answer.in_order())
    if outcome is DIFFERENT and not {name for name, _ in answer.values} <= _COORDINATES:
        return UNCLEAR if _in_any_order(gold.items, answer.in_order()) is not DIFFERENT else DIFFERENT
    return outcome


def _set(gold: Group, answer: Kind) -> Outcome:
    if isinstance(answer, Group) and answer.marks in ("", "{}"):
        if not answer.items and not gold.items:
            return EQUAL
        return _in_any_order(_distinct(gold.items), _distinct(answer.items))
    if isinstance(answer, Group):
        if answer.marks == "[]" and len(answer.items) > 2:
            return UNCLEAR if _in_any_order(gold.items, answer.items) is EQUAL else DIFFERENT
        return DIFFERENT
    if isinstance(answer, Scalar):
        return _in_any_order(_distinct(gold.items), [answer])
    if isinstance(answer, Named):
        listed = answer.as_written()
        if answer.numbered():
            return _in_any_order(_distinct(gold.items), _distinct(listed))
        return DIFFERENT if _in_any_order(gold.items, listed) is DIFFERENT else UNCLEAR
    if isinstance(answer, Relation | Together | NumberSet) and region(gold) is not None:
        if isinstance(answer, Relation) and "=" in answer.signs:
            return UNCLEAR
        return same_conditions(gold, answer) if region(answer) is not None else UNCLEAR
    return DIFFERENT if isinstance(answer, NumberSet | Matrix) else UNCLEAR


def _list(gold: Group, answer: Kind) -> Outcome:
    """A gold answer of several values without brackets, such as solutions in any order."""
    if isinstance(answer, Definition):
        return compare(gold, answer.value)
    if isinstance(answer, Group) and _has_dots(gold, answer):
        return _with_dots(gold.items, answer.items)
    if isinstance(answer, Named):
        listed = answer.in_order()
        if _itemwise(gold.items, listed) is EQUAL:
            return EQUAL
        if answer.numbered():
            return _in_any_order(gold.items, listed)
        return DIFFERENT if _in_any_order(gold.items, listed) is DIFFERENT else UNCLEAR
    if isinstance(answer, Scalar):
        return UNCLEAR if all(compare(item, answer) is EQUAL for item in gold.items) else DIFFERENT
    if isinstance(answer, Matrix):
        return DIFFERENT
    assert isinstance(answer, Group)
    outcome = _in_any_order(gold.items, answer.items)
    if outcome is DIFFERENT and answer.marks in ("", "{}") and len(gold.items) != len(answer.items):
        once = _distinct(gold.items)
        again = _in_any_order(once, _distinct(answer.items))
        return UNCLEAR if again is EQUAL and len(once) < len(gold.items) else again  # a double root
    if outcome is EQUAL and answer.marks not in ("", "{}"):
        return EQUAL if answer.marks == "[]" and len(answer.items) > 2 else UNCLEAR
    return outcome


def _has_dots(*groups: Group) -> bool:
    return any(isinstance(item, Dots) for group in groups for item in group.items)


def _with_dots(gold: Sequence[Kind], answer: Sequence[Kind]) -> Outcome:
    """1, 2, \\ldots, n and 1, 2, 3, \\ldots, n: the same ends, and one may show more."""
    parts = []
    for items in (gold, answer):
        at = [place for place, item in enumerate(items) if isinstance(item, Dots)]
        if len(at) != 1:
            return UNCLEAR
        parts.append((items[: at[0]], items[at[0] + 1 :]))
    (start, end), (other_start, other_end) = parts
    shown = min(len(start), len(other_start))
    outcomes = {_itemwise(start[:shown], other_start[:shown]), _itemwise(end, other_end)}
    if shown == 0 or UNCLEAR in outcomes:
        return UNCLEAR
    return DIFFERENT if DIFFERENT in outcomes else EQUAL


def _named(gold: Named, answer: Kind) -> Outcome:
    if isinstance(answer, Named):
        wanted, got = dict(gold.values), dict(answer.values)
        if wanted.keys() == got.keys():
            return _itemwise(gold.in_order(), answer.in_order())
        missing = len(got) < len(wanted) and got.keys() < wanted.keys()
        return DIFFERENT if missing else UNCLEAR
    if isinstance(answer, Group) and gold.numbered() and answer.marks in ("", "{}"):
        return _in_any_order(gold.in_order(), answer.items)
    if isinstance(answer, Group) and answer.marks in ("()", "<>", ""):
        written = _itemwise(gold.as_written(), answer.items)
        return EQUAL if written is EQUAL else _itemwise(gold.in_order(), answer.items)
    if isinstance(answer, Group):
        return DIFFERENT if len(answer.items) != len(gold.values) or answer.marks != "{}" else UNCLEAR
    if isinstance(answer, Matrix):
        return _group(Group("()", gold.in_order()), answer)
    if isinstance(answer, Definition):
        return DIFFERENT if answer.name in dict(gold.values) else UNCLEAR
    return DIFFERENT if isinstance(answer, Scalar) else UNCLEAR


def _definition(gold: Definition, answer: Kind) -> Outcome:
    if not isinstance(answer, Definition):
        if isinstance(answer, Relation):
            return same_relation(gold, answer) if isinstance(gold.value, Scalar) else same_conditions(gold, answer)
        return compare(gold.value, answer)
    renamed = answer.value
    if gold.argument and answer.argument and gold.argument != answer.argument and isinstance(renamed, Scalar):
        renamed = Scalar(re.sub(rf"(?<![A-Za-z\\]){answer.argument}(?![A-Za-z])", gold.argument, renamed.latex))
    outcome = compare(gold.value, renamed)
    if outcome is EQUAL or gold.name == answer.name or gold.argument or answer.argument:
        return outcome
    if difference(gold) is not None and not is_constant(getattr(gold.value, "latex", "0")):
        return same_relation(gold, answer)  # y = 2x and x = y/2
    return UNCLEAR if outcome is not DIFFERENT or len(gold.name) == len(answer.name) == 1 else outcome


def _relation(gold: Relation, answer: Kind) -> Outcome:
    if all(sign == "=" for sign in gold.signs):
        if isinstance(answer, Relation | Definition):
            return same_relation(gold, answer)
        return UNCLEAR
    if isinstance(answer, Definition) and isinstance(answer.value, Group):
        return (
            same_conditions(gold, Group("{}", answer.value.items))
            if not answer.value.marks
            else compare(gold, answer.value)
        )
    return _conditions(gold, answer)


def _conditions(gold: Kind, answer: Kind) -> Outcome:
    """A gold answer that is an inequality or a set put together."""
    if isinstance(answer, Definition):
        answer = answer.value
    if isinstance(answer, Group) and not answer.marks:
        if answer.items and all(isinstance(item, Group) and region(item) for item in answer.items):
            return same_conditions(gold, Together("cup", answer.items))
        return DIFFERENT if all(isinstance(item, Scalar) for item in answer.items) else UNCLEAR
    if isinstance(answer, Group | Relation | Together | NumberSet):
        if isinstance(gold, Together) and isinstance(answer, Together) and region(gold) is None:
            parts = _in_any_order(gold.parts, answer.parts) if gold.how == answer.how else UNCLEAR
            return parts if parts is EQUAL else UNCLEAR
        if isinstance(gold, Relation) and isinstance(answer, Group) and region(gold) is not None:
            return same_conditions(gold, answer) if region(answer) is not None or _pair(answer) else DIFFERENT
        return same_conditions(gold, answer)
    return DIFFERENT if isinstance(answer, Scalar | Named) else UNCLEAR


def _pair(answer: Group) -> bool:
    return len(answer.items) == 2 and not all(map(single.is_fixed, answer.items))


def _number_set(gold: NumberSet, answer: Kind) -> Outcome:
    if isinstance(answer, NumberSet):
        if gold == answer:
            return EQUAL
        if gold.letter != answer.letter or not (gold.mark and answer.mark):
            return DIFFERENT
    if region(gold) is None:
        return DIFFERENT if isinstance(answer, NumberSet | Group | Scalar) else UNCLEAR
    return _conditions(gold, answer)


def _family(gold: Family, answer: Kind) -> Outcome:
    value = answer.value if isinstance(answer, Family) else answer
    if isinstance(value, Definition):
        value = value.value
    wanted = gold.value.value if isinstance(gold.value, Definition) else gold.value
    if isinstance(answer, Family) and isinstance(value, Scalar) and answer.parameter != gold.parameter:
        value = Scalar(re.sub(rf"(?<![A-Za-z\\]){answer.parameter}(?![A-Za-z])", gold.parameter, value.latex))
    scalars = isinstance(wanted, Scalar) and isinstance(value, Scalar)  # their letter is no unit, and 3k no 3000
    same = same_value(wanted.latex, value.latex) if scalars else compare(wanted, value)
    if same is not EQUAL:
        return UNCLEAR
    if not isinstance(answer, Family) or answer.over == gold.over:
        return EQUAL
    if not isinstance(wanted, Scalar):
        return UNCLEAR
    opposite = re.sub(rf"(?<![A-Za-z\\]){gold.parameter}(?![A-Za-z])", f"(-{gold.parameter})", wanted.latex)
    return DIFFERENT if same_value(wanted.latex, opposite) is DIFFERENT else UNCLEAR


def _matrix(gold: Matrix, answer: Kind) -> Outcome:
    if isinstance(answer, Group) and all(isinstance(row, Group) and row.marks == answer.marks for row in answer.items):
        answer = Matrix(tuple(row.items for row in answer.items if isinstance(row, Group)))  # [[1,2],[3,4]]
    if isinstance(answer, Matrix):
        if [len(row) for row in gold.rows] != [len(row) for row in answer.rows]:
            return DIFFERENT
        flat = [[entry for row in matrix.rows for entry in row] for matrix in (gold, answer)]
        return _itemwise(*flat)
    if isinstance(answer, Group) and answer.marks in ("()", "<>") and 1 in (len(gold.rows), len(gold.rows[0])):
        return _itemwise([entry for row in gold.rows for entry in row], answer.items)
    if isinstance(answer, Scalar) and "matrix" in answer.latex.replace("vmatrix", ""):
        return _computed(gold, answer.latex)
    return DIFFERENT if isinstance(answer, Scalar | Group) else UNCLEAR


def _computed(gold: Matrix, latex: str) -> Outcome:
    """A product or a sum of matrices, or one with a factor before it."""
    entries = matrix(latex)
    if entries is None:
        return UNCLEAR
    wanted = [[expression(entry.latex) if isinstance(entry, Scalar) else None for entry in row] for row in gold.rows]
    if [len(row) for row in wanted] != [len(row) for row in entries]:
        return DIFFERENT
    pairs = [pair for rows in zip(wanted, entries, strict=True) for pair in zip(*rows, strict=True)]
    outcomes = {UNCLEAR if one is None else same_expression(one, other) for one, other in pairs}
    return DIFFERENT if DIFFERENT in outcomes else UNCLEAR if UNCLEAR in outcomes else EQUAL


_COMPARISONS: dict[type, Callable[[Any, Any], Outcome]] = {
    Scalar: _scalar,
    Group: _group,
    Named: _named,
    Definition: _definition,
    Relation: _relation,
    Together: _conditions,
    NumberSet: _number_set,
    Family: _family,
    Matrix: _matrix,
    Ratio: single.ratio,
    Residue: single.residue,
    Based: single.based,
    Dots: lambda gold, answer: EQUAL if isinstance(answer, Dots) else UNCLEAR,
}
