"""What a text says of a number: a Quantity, or a Void that says why it gives none."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from workers.graders.numbers.numeral import Numeral


@dataclass(frozen=True, slots=True)
class Quantity:
    """A number as it was written.

    Example: "$1,234.50" is Quantity(Fraction(2469, 2), unit="dollar", places=2)
    """

    figure: Fraction
    """The number in front of the percent sign, if there is one."""
    percent: bool = False
    unit: str | None = None
    """Canonical name of a known unit; None for none and for words that are not known as one."""
    places: int = 0
    """Digits after the decimal point; 0 for what is no plain decimal."""
    also: tuple[tuple[Fraction, str | None], ...] = ()
    """Other (number, unit) that the text says as well: "2 h 30 min" is 150 minutes too."""
    perhaps: tuple[Fraction, ...] = ()
    """Numbers that it may mean, which is not enough to call it either: the 5 of "5 dozen", the 7 of "- 7"."""
    counted: bool = False
    """Whether words behind it say what is counted."""
    doubt: str = ""
    """Why it is not enough to be equal to it: the text contradicts itself, or has a product that may be read otherwise.
    """


@dataclass(frozen=True, slots=True)
class Void:
    """No single number. `denied` marks evidence that none was given: several, a denial, a bound, a refusal."""

    reason: str
    denied: bool = False


Reading = Quantity | Void
UNREAD = Void("is not read as a number")
SEVERAL = Void("has several values", denied=True)
DENIED = Void("denies it", denied=True)
TWOFOLD = "may mean two numbers"
CONTRADICTORY = "contradicts itself"


def quantity_of(number: Numeral) -> Quantity:
    """The quantity that figures alone say."""
    return Quantity(
        number.figure,
        unit=number.currency,
        places=number.places,
        also=() if number.other is None else ((number.other, None),),
        perhaps=(-number.figure,) if number.apart else (),
    )


def near(one: Fraction, other: Fraction) -> bool:
    """Whether one number may be the other rounded."""
    return abs(one - other) * 50 <= max(abs(one), abs(other))


def agree(one: Quantity, other: Quantity, roughly: bool = False) -> bool:
    """Whether two numbers of one answer are the same, percent aside, or one is the other rounded.

    It is rounded to its own decimals; to an integer only where the text says so (`roughly`), or as a percentage.
    """
    figures = [q.figure / 100 if q.percent else q.figure for q in (one, other)]
    values = {figure for figure, _ in other.also} | {figures[1], other.figure}
    if figures[0] in values or one.figure in values:
        return True
    return _rounds_to(one, other, roughly) or _rounds_to(other, one, roughly)


def _rounds_to(exact: Quantity, rounded: Quantity, roughly: bool) -> bool:
    percent = rounded.percent and not exact.percent
    if rounded.figure.denominator == 1 and (exact.figure.denominator == 1 or not (roughly or percent)):
        return False
    if rounded.places == 0 and rounded.figure.denominator != 1:
        return False  # a fraction
    value = exact.figure / 100 if exact.percent and not rounded.percent else exact.figure * (100 if percent else 1)
    unit = Fraction(1, 10**rounded.places)
    cut = exact.places == 0 and abs(rounded.figure) <= abs(value) < abs(rounded.figure) + unit
    return abs(value - rounded.figure) * 2 <= unit or (cut and value * rounded.figure > 0)
