"""What the words right behind figures make of a number: scales, percent, parts, dozens, a second unit."""

from __future__ import annotations

import re
from dataclasses import replace

from workers.graders.numbers import tail, units
from workers.graders.numbers.numeral import Numeral, numeral
from workers.graders.numbers.quantity import UNREAD, Quantity, Void
from workers.graders.numbers.words import PARTS, digits

_PARTS = {
    "dollar": {"cent": 100},
    "euro": {"cent": 100},
    "poundsterling": {"penny": 100},
    "pound": {"ounce": 16, "penny": 100},
    "hour": {"minute": 60, "second": 3600},
    "minute": {"second": 60},
    "day": {"hour": 24, "minute": 1440},
    "week": {"day": 7, "hour": 168},
    "year": {"month": 12},
    "foot": {"inch": 12},
    "yard": {"foot": 3, "inch": 36},
    "mile": {"yard": 1760, "foot": 5280},
    "gallon": {"quart": 4, "pint": 8},
    "kilogram": {"gram": 1000},
    "kilometer": {"meter": 1000},
    "meter": {"centimeter": 100, "millimeter": 1000},
    "liter": {"milliliter": 1000},
}


def converted(one: Quantity, other: Quantity) -> bool:
    """Whether two quantities in units of different size are one: 1.5 hours and 90 minutes."""
    for large, small in ((one, other), (other, one)):
        factor = _PARTS.get(large.unit or "", {}).get(small.unit or "")
        if factor is not None:
            return large.figure * factor == small.figure
    return False


_FIRST_UNIT = re.compile(
    r"(?: ?(?P<unit>(?!and\b)[^\W\d_]+\.?))?(?:,? and |, ?| |(?=[0-9]))(?=[0-9]|[A-Za-z-]+ [A-Za-z])"
)
_LAST_UNIT = re.compile(r" ?(?P<unit>[^\W\d_]+|¢)\.?")


def amount(quantity: Quantity, number: Numeral, rest: str, worded: bool) -> tuple[Quantity, str] | Void:
    """`quantity` as the text behind its figures changes it."""
    ordinal = tail.ORDINAL.match(rest) if number.figure.denominator == 1 else None
    rest = rest[ordinal.end() :] if ordinal else rest
    if (compound := _compound(quantity, rest)) is not None:
        quantity, rest = compound
    else:
        factor, length = tail.scale(rest)
        if length and (ordinal or (worded and rest[:length].strip(" -").lower() == "hundred")):
            return UNREAD
        if length:
            quantity, rest = replace(quantity, figure=quantity.figure * factor, places=0), rest[length:]
        else:
            quantity, rest = _lettered(quantity, rest)
        if (percent := tail.PERCENT.match(rest)) is not None:
            if quantity.unit:
                return UNREAD
            quantity, rest = replace(quantity, percent=True), rest[percent.end() :]
        if (dozen := tail.DOZEN.match(rest)) is not None:
            quantity = replace(
                quantity, figure=quantity.figure * 12, perhaps=(*quantity.perhaps, quantity.figure), places=0
            )
            rest = rest[dozen.end() :]
        part = tail.PART.match(rest) if number.whole else None
        if part is not None and not part["many"] and quantity.figure != 1:
            return UNREAD
        if part is not None and (part["many"] or quantity.figure == 1):
            size, coins = PARTS[part["part"].lower()], part["part"].lower() == "quarter"
            also = ((quantity.figure, "quartercoin"),) if coins else ()
            quantity, rest = replace(quantity, figure=quantity.figure / size, also=also), rest[part.end() :]
    return quantity, rest


def _lettered(quantity: Quantity, rest: str) -> tuple[Quantity, str]:
    factor, length, spaced = tail.letter(rest)
    if not length:
        return quantity, rest
    sign, large = rest[:length].strip(), quantity.figure * factor
    if units.is_currency(quantity.unit) or (sign in ("K", "M", "B", "MM") and not spaced):
        return replace(quantity, figure=large, places=0), rest[length:]
    return replace(quantity, also=(*quantity.also, (large, None))), rest


def _compound(quantity: Quantity, rest: str) -> tuple[Quantity, str] | None:
    """A quantity in two or three units, "2 hours and 30 minutes": in the first, and also in the last of them."""
    units_of, unit, also, figure = None, quantity.unit, quantity.also, quantity.figure
    for _ in range(2):
        first = _FIRST_UNIT.match(rest)
        if first is None:
            break
        if units_of is None:
            unit = units.known(first["unit"]) if first["unit"] else unit
            units_of = _PARTS.get(unit or ("" if first["unit"] else "dollar"))
            if units_of is None:
                break
        behind = digits(rest[first.end() :])
        number = numeral(behind)
        last = _LAST_UNIT.match(behind, number.end) if number else None
        name = units.name_of(last["unit"]) if last else None
        name = "minute" if last and last["unit"] == "m" and "minute" in units_of else name
        if number is None or last is None or name not in units_of or number.figure < 0:
            break
        if unit is None and name != "cent":  # "18 and 5 cents" can only be money
            break
        factor = units_of[name]
        figure += number.figure / factor * (-1 if quantity.figure < 0 else 1)
        also = ((figure * factor, name),)
        rest = behind[last.end() :]
        if not rest.strip():
            break
    else:
        pass
    if also is quantity.also:
        return None
    return replace(quantity, figure=figure, unit=unit, also=also, places=0), rest
