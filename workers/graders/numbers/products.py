"""What a number with parentheses right behind it says: 3(1+2) is a product, and may also be a number said twice."""

from __future__ import annotations

import re
from dataclasses import replace
from fractions import Fraction

from workers.graders.numbers import arithmetic
from workers.graders.numbers.numeral import numeral
from workers.graders.numbers.quantity import TWOFOLD, Quantity, agree, quantity_of

_LAST = re.compile(r"(?P<head>.*[0-9})\]!])(?P<gap>\s*)[(\[](?P<inner>[^()\[\]]+)[)\]]", re.DOTALL)
_OPENING = re.compile(r"[(\[](?P<inner>[^()\[\]]*)[)\]]")
_ALSO_A_CYCLE = re.compile(r"(?P<sign>-?) ?(?P<number>[0-9]+\.[0-9]+)\((?P<factor>[0-9]+)\)")


def computed(text: str) -> Quantity | None:
    """The value of arithmetic, or None where `text` is something else.

    3(1+2) is 9, and may be a 3 that is explained; 2^3 (8), with a space, is 8; 6/2(1+2) is 9 or 1, which is not judged.
    """
    values = arithmetic.values(text)
    if not values:
        return None
    found = Quantity(values[0], perhaps=values[1:], doubt=TWOFOLD if values[1:] else "")
    last = None if text.startswith(("(", "[")) else _LAST.fullmatch(text.strip())
    if last is None or (head := arithmetic.value(last["head"])) is None:
        return found
    first, second = _alone(last["head"], head), _alone(last["inner"], None)
    again = first is not None and second is not None and agree(first, second)
    if last["gap"]:
        return first if again else found
    if again and second is not None:
        return replace(found, perhaps=(*found.perhaps, head, second.figure))
    both = _is_number(last["head"]) and _is_number(last["inner"])
    return replace(found, perhaps=(*found.perhaps, head)) if both else found


def _is_number(text: str) -> bool:
    number = numeral(text)
    return number is not None and not text[number.end :].strip()


def _alone(text: str, value: Fraction | None) -> Quantity | None:
    """A number with its decimals, or the value of arithmetic."""
    number = numeral(text)
    if number is not None and _is_number(text):
        return quantity_of(number)
    value = arithmetic.value(text) if value is None else value
    return None if value is None else Quantity(value)


def beside(rest: str) -> Fraction | None:
    """The factor in parentheses that `rest`, right behind a number, begins with: 4 of "(4) cm"; else None."""
    opening = _OPENING.match(rest)
    return None if opening is None else arithmetic.value(opening["inner"])


def or_product(quantity: Quantity, text: str) -> Quantity:
    """`quantity`, of a text such as "1.5(2)", which is 1.5222... and may be 3."""
    product = _ALSO_A_CYCLE.fullmatch(text)
    if product is None or product["number"].startswith("0."):
        return quantity
    value = Fraction(product["number"]) * int(product["factor"]) * (-1 if product["sign"] else 1)
    return replace(quantity, perhaps=(*quantity.perhaps, value))
