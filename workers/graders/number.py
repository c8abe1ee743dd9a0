"""Equal as numbers, exactly: integers, decimals, fractions, powers of ten, percent, units, money, arithmetic.

The conventions, where mathematics leaves room for them:

- Values are compared exactly, so 0.33 is not 1/3. A decimal of six places or more, three of its digits significant, is
  what rounds to it, or is cut to it: 0.333333 is 1/3, and so is 0.\\overline{3}.
- A percent sign divides by 100, so 50% is 0.5 and 1/2. Data sets also store "what percentage" as a bare
  50, so where exactly one side carries the sign, equal figures (50% and 50) agree as well. 0.5 and 50
  never do. Beside another unit a percentage is another quantity: 5% is not 5 cm.
- A unit or currency may be left out or added. When both sides name one that is known here and they are
  different (cm and m, mW and MW, $ and €), the answer is wrong; nothing is converted, but "2 hours 30 minutes" is 2.5
  hours and 150 minutes.
- A comma is a decimal point where the other side has one: "1,22" is 1.22. "1,5" is no number beside 15 or 2, and
  "(1,5)" never is.
- "x = 7" is 7, "3 1/2" is 7/2, "7 million" is 7000000, "1,234" is 1234, "about 7" and "seven" are 7, "(-7)" is -7. An
  equation that is not solved ("3x = 12") is no number.
- What may mean two numbers is neither of them: "5 dozen" is 60, and beside 5 it is not judged; a minus with a space
  behind it may be a bullet. "3(1+2)" is 9, and not judged for 3; "6/2(1+2)" is not judged for any of its values.
- An equation that is false ("6 + 5 = 12") is not judged for what it ends in, and wrong for all else.
- An answer, though not a gold answer, may be a sentence with one number in it ("Ann has 7 apples left").

An answer with several values ("7 or 8"), a bound ("at least 7"), a denial ("anything but 7") or a refusal is wrong. Any
other that is not read as one number is not judged: "a multiple of 7", "7 squared", "7 if n is even".
"""

from __future__ import annotations

import re
from dataclasses import replace
from fractions import Fraction
from functools import lru_cache

from workers.graders.judgement import CORRECT, Judgement, short, unreadable
from workers.graders.numbers import bases, times, units
from workers.graders.numbers.phrase import read
from workers.graders.numbers.quantity import TWOFOLD, Quantity, Void
from workers.graders.numbers.tail import unit_of

PLACES = 6
"""Decimal places from which on a decimal stands for what rounds to it."""
SIGNIFICANT = 3
"""Significant digits that such a decimal needs besides: 0.000001 stands for itself."""
_DECIMAL_COMMA = re.compile(r"(?<=[0-9])(?:,|\{,\})(?=[0-9])")
_ROUND_COMMA = re.compile(
    r"[0-9],0{1,2}(?![0-9])|[0-9],[0-9]{1,2} ?(?:[^\W\d_]|[€£$₽%])|[€£] ?[0-9]+,[0-9]{2}(?![0-9])"
)
_MINUTES = re.compile(r"\$?[0-9.]{1,20} ?(?:['’′]|\^ ?\{? ?\\prime ?\}?){1,2}[$.]*")
_DOTTED = re.compile(r"(?<![0-9.,])[1-9][0-9]{0,2}\.[0-9]{3}(?![0-9.,])")
_DOTTING = frozenset(["euro", "real", "lira", "dong", "rupiah", "krona", "zloty", "argentinepeso", "chileanpeso"])
"""Currencies of countries that write a point between thousands."""
_UNIT_AT_END = re.compile(
    r"(?P<rest>.*(?:[0-9})\]]|\\pi))\s+(?P<unit>[A-Za-z°][A-Za-z° ./-]{0,60}?(?:\s?\^\{?[23]\}?)?)", re.DOTALL
)


def parse(text: str) -> Quantity | None:
    """`text` as one number with at most a unit, or None if it is anything else, or too long."""
    reading = read(text, sentence=False)
    return reading if isinstance(reading, Quantity) else None


@lru_cache(maxsize=1024)
def _gold(gold: str) -> Quantity | None:
    return parse(gold)


@lru_cache(maxsize=1024)
def _gold_time(gold: str) -> times.Time | None:
    return times.clock(gold)


@lru_cache(maxsize=1024)
def _gold_ratio(gold: str) -> tuple[Fraction, ...] | None:
    return times.ratio(gold)


def _decimal_point(text: str) -> str:
    """`text` with a decimal point for its one comma between digits; "" where other commas or points stand, or ().

    Parentheses make it a pair: "(1,5)".
    """
    return _DECIMAL_COMMA.sub(".", text) if text.count(",") == 1 and not set(".()") & set(text) else ""


def without_unit(text: str) -> tuple[str, str | None]:
    """A normalised text without the unit at its end, and that unit's canonical name if it is a known one."""
    match = _UNIT_AT_END.fullmatch(text)
    if match is None:
        return text, None
    counts, known = unit_of(f" {match['unit']}")
    return (match["rest"], known) if counts else (text, None)


def grade(gold: str, answer: str) -> Judgement:
    """Correct when both are numbers of equal value, by the conventions at the head of this file.

    Ungradable when the gold answer is no number, ratio, time of day or number in another base, and where the answer is
    not read as one. A "wrong" is final.
    """
    return settle(gold, answer)[0]


def settle(gold: str, answer: str) -> tuple[Judgement, bool]:
    """(judgement, whether both were read, so that reading them as other mathematics adds nothing).

    That is so of "correct", of "wrong", and where the answer may be the gold answer or another number.
    """
    judgement = _judged(gold, answer)
    if isinstance(judgement, str):
        return unreadable(judgement), True
    return judgement, judgement.final or judgement.verdict == "correct"


def _judged(gold: str, answer: str) -> Judgement | str:
    """The judgement, or why the answer may be the gold answer or another one."""
    wanted = _gold(gold)
    got = read(answer, sentence=True)
    if wanted is None and isinstance(got, Quantity) and got.places:
        wanted = parse(_decimal_point(gold))
    if wanted is None:
        return _graded_otherwise(gold, answer)
    if isinstance(got, Void) and (wanted.figure.denominator != 1 or _ROUND_COMMA.search(answer)):
        got = parse(_decimal_point(answer)) or got
    if wanted.unit == "degree" and _MINUTES.fullmatch(answer.strip()):
        return f"{short(answer)!r} may be minutes of arc"
    if isinstance(got, Void):
        return _not_read(gold, wanted, answer, got)
    wanted, got = _with_dotted(wanted, gold), _with_dotted(got, answer)
    if not any(units.may_be_same(unit, other) for _, unit in _said(wanted) for _, other in _said(got)):
        return Judgement("wrong", f"{got.unit} is not {wanted.unit}", final=True)
    if wanted.percent != got.percent and (bare := got if wanted.percent else wanted).unit:
        return Judgement("wrong", f"a percentage is not {bare.unit}", final=True)
    if _equal(wanted, got):
        bare = got if wanted.percent else wanted
        if wanted.percent != got.percent and bare.counted:
            return f"{short(answer)!r} may be another quantity than {short(gold)!r}"
        doubt = got.doubt or (wanted.doubt if wanted.doubt == TWOFOLD else "")  # gold answers are what they end in
        return f"{short(answer)!r} {doubt}" if doubt else CORRECT
    if wanted.figure in got.perhaps or got.figure in wanted.perhaps:
        return f"{short(answer)!r} {TWOFOLD}"
    return _different(gold, answer)


def _different(gold: str, answer: str) -> Judgement:
    return Judgement("wrong", f"{short(answer)!r} is not {short(gold)!r}", final=True)


def _of_the_day(gold: str, answer: str, one: times.Time, other: times.Time) -> Judgement | str:
    same = times.same(one, other)
    if same is None:
        return f"{short(answer)!r} may be another half of the day than {short(gold)!r}"
    return CORRECT if same else _different(gold, answer)


def _not_read(gold: str, wanted: Quantity, answer: str, got: Void) -> Judgement | str:
    if (time := _gold_time(gold)) is not None and (other := times.clock(answer)) is not None:
        return _of_the_day(gold, answer, time, other)
    if (ratio := times.ratio(answer)) is not None and len(ratio) == 2 and ratio[1]:
        odds = times.clock(answer) is None and wanted.figure.denominator != 1
        if odds and wanted.figure * ratio[1] == 1:  # the odds of 1/2 are 1:2
            return CORRECT
        return unreadable(f"{short(answer)!r} is a ratio or a time, and no number")
    if got.denied:
        return Judgement("wrong", f"{short(answer)!r} {got.reason}", final=True)
    return unreadable(f"{short(answer)!r} {got.reason}")


def _graded_otherwise(gold: str, answer: str) -> Judgement | str:
    """The judgement where the gold answer is a time of day or a ratio; ungradable where it is neither."""
    if (time := _gold_time(gold)) is not None and (
        (other := times.clock(answer)) is not None or _gold_ratio(gold) is None
    ):
        if other is None:
            return unreadable(f"{short(answer)!r} is no time of day")
        return _of_the_day(gold, answer, time, other)
    if (ratio := _gold_ratio(gold)) is not None:
        got = times.ratio(answer)
        if got is not None:
            return CORRECT if ratio == got else _different(gold, answer)
        if len(ratio) == 2 and ratio[1] and time is None:  # 3:30 may be a time, and no 0.1
            value = parse(answer)
            if value is not None and value.figure * ratio[1] == 1 and value.figure.denominator != 1:
                return CORRECT
        return unreadable(f"{short(answer)!r} is no ratio")
    if (base := bases.based(gold)) is not None and base[1] is not None:
        figures = bases.based(answer)
        if figures is None:
            return unreadable(f"{short(answer)!r} is not read as a number in base {base[1]}")
        if base[0] == figures[0] and figures[1] in (base[1], None):
            return CORRECT
        return _different(gold, answer)
    return Judgement("ungradable", f"the gold answer {short(gold)!r} is no number")


def _with_dotted(quantity: Quantity, text: str) -> Quantity:
    """`quantity`, with its thousandfold where the point may be one between thousands: "1.250 €" is 1250 as well."""
    if quantity.unit not in _DOTTING or quantity.places != 3 or not _DOTTED.search(text):
        return quantity
    return replace(quantity, also=(*quantity.also, (quantity.figure * 1000, quantity.unit)))


def _said(quantity: Quantity) -> list[tuple[Fraction, str | None]]:
    return [(quantity.figure, quantity.unit), *quantity.also]


def _equal(gold: Quantity, answer: Quantity) -> bool:
    for one, unit in _said(gold):
        for other, other_unit in _said(answer):
            if units.may_be_same(unit, other_unit) and _agree(gold, one, answer, other):
                return True
    return False


def _agree(gold: Quantity, one: Fraction, answer: Quantity, other: Fraction) -> bool:
    if gold.percent == answer.percent:
        return _same(one, gold.places, other, answer.places)
    signed, bare = ((one, gold.places), (other, answer.places))[:: 1 if gold.percent else -1]
    return bare[0] == signed[0] or _same(bare[0], bare[1], signed[0] / 100, signed[1] + 2)


def _same(one: Fraction, places: int, other: Fraction, other_places: int) -> bool:
    return one == other or _stands_for(one, places, other) or _stands_for(other, other_places, one)


def _stands_for(decimal: Fraction, places: int, value: Fraction) -> bool:
    """Whether so many places of `value` are `decimal`, rounded or cut."""
    if places < PLACES or abs(decimal) * 10**places < 10 ** (SIGNIFICANT - 1):
        return False
    unit = Fraction(1, 10**places)
    return abs(decimal - value) <= unit / 2 or (
        abs(decimal) <= abs(value) < abs(decimal) + unit and decimal * value > 0
    )
