"""The figures of a number: digits with separators, fractions, mixed numbers, repeating decimals, powers of ten."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

from workers.graders.numbers import units

MAX_EXPONENT = 1000
"""Largest power of ten; with the length of a text it bounds the work."""
_THREES = r"[1-9][0-9]{0,2}(?:(?:,[0-9]{3})+|(?: [0-9]{3})+|(?:'[0-9]{3})+)(?![0-9])"
_INDIAN = r"[1-9][0-9]?(?:,[0-9]{2})+,[0-9]{3}(?![0-9])"
_COMMA_LAST = r"[1-9][0-9]{0,2}(?:(?:[. '][0-9]{3})+,[0-9]{1,2}|(?:\.[0-9]{3}){2,}(?:,[0-9]{1,9})?)(?![0-9.])"
"""With a comma as the decimal point: "1.234,5", "1 234,50", "1.234.567"."""
_PLAIN = rf"{_COMMA_LAST}|(?:{_INDIAN}|{_THREES}|[0-9]++)(?:\.[0-9]*+)?|\.[0-9]++"
_TEN = r"(?:10|\{\s*10\s*\})\s*(?:\^|\*\*)\s*(?:\{\s*(?P<exp2>[+-]?[0-9]{1,5})\s*\}|\(?(?P<exp3>[+-]?[0-9]{1,5})\)?)"
_POWER = rf"(?:[eE](?P<exp>[+-]?[0-9]{{1,5}})(?![0-9A-Za-z])| ?(?:\\times|\\cdot|[xX*×·⋅]) ?{_TEN})?"
_MONEY, _MONEY2 = (rf"(?P<{name}>{units.MONEY})?" for name in ("money", "money2"))
_NUMERAL = re.compile(
    _MONEY + r" ?(?P<sign>(?:[+-]|\b[Nn]egative |\b[Mm]inus )?)(?P<gap> ?)" + _MONEY2
    + rf" ?(?:(?P<whole>[0-9]++)? ?\\frac ?(?:\{{\s*(?P<n1>-?\s*(?:{_PLAIN}))\s*\}}|(?P<n2>[0-9])) ?"
    rf"(?:\{{\s*(?P<d1>-?\s*(?:{_PLAIN}))\s*\}}|(?P<d2>[0-9]))"
    rf"|(?:(?P<whole2>[0-9]++)(?P<joint> |-| and | & | \+ |\+)(?=[0-9]+ ?/))?"
    rf"(?P<n3>[0-9]++) ?/ ?(?P<d3>[0-9]++)(?!\.[0-9])"
    rf"|(?P<n4>{_PLAIN})(?: ?[/÷] ?| ?\\div ?| over | out of )(?P<d4>{_PLAIN})"
    rf"|(?P<plain>{_PLAIN}){_POWER})"
)  # fmt: skip
_REPEATING = re.compile(
    r"(?P<whole>[0-9]*)\.(?:(?P<head>[0-9]*)(?:\\(?:overline|bar|dot|overbar)\s*(?:\{(?P<cycle>[0-9]{1,50})\}|(?P<one>[0-9]))"
    r"|\((?P<cycle3>[0-9]{1,50})\)(?! ?[\^(\[*·×!]| ?\\(?:times|cdot)|[0-9]))"
    r"|(?P<head2>[0-9]{0,50}?)(?P<cycle2>[0-9]{1,6}?)(?P=cycle2){2,}\s*(?:\.\.\.|\\[lc]?dots(?![a-z])))"
)
_CYCLE = re.compile(r"\.\.\.|dots|\\(?:over|bar|dot)|\.[0-9]*+\(")


@dataclass(frozen=True, slots=True)
class Numeral:
    """A number in figures, as it stands in a text."""

    figure: Fraction
    end: int
    """Where in the text it ends."""
    places: int
    """Digits after the decimal point; 0 for what is no plain decimal."""
    currency: str | None
    other: Fraction | None = None
    """What else it may mean: "3-1/2" is 3.5, or 2.5."""
    apart: bool = False
    """Whether there is a space behind the minus, which may then be a bullet of a list."""
    whole: bool = False
    """Whether it is an integer in digits alone."""


def numeral(text: str, at: int = 0) -> Numeral | None:
    """The number that begins at `at`, or None where there is none, or too large a one."""
    match = _NUMERAL.match(text, at)
    figure = None if match is None else _figure(match)
    if match is None or figure is None:
        return None
    sign = -1 if match["sign"][:1] in ("-", "n", "N", "m", "M") else 1
    money = match["money"] or match["money2"]
    plain = match["plain"]
    other = None
    if match["whole2"] and match["joint"] == "-":
        other = sign * int(match["whole2"]) - Fraction(int(match["n3"]), int(match["d3"]))
    return Numeral(
        sign * figure,
        match.end(),
        0 if plain is None or figure.denominator == 1 else _places(plain),
        units.of_money(money) if money else None,
        other,
        match["sign"] == "-" and bool(match["gap"]),
        plain is not None and match.end("plain") == match.end() and plain.isdigit(),
    )


def without_cycles(text: str) -> str:
    """`text` with its first repeating decimal as a fraction: 0.1\\overline{6} as 15/90."""
    return _REPEATING.sub(_as_fraction, text, count=1) if "." in text and _CYCLE.search(text) else text


def _as_fraction(repeating: re.Match[str]) -> str:
    head, cycle = repeating["head"] or repeating["head2"] or "", repeating["cycle"] or repeating["one"]
    cycle = cycle or repeating["cycle2"] or repeating["cycle3"]
    before = int(f"{repeating['whole'] or 0}{head}")
    return f"{int(f'{before}{cycle}') - before}/{(10 ** len(cycle) - 1) * 10 ** len(head)}"


def _figure(match: re.Match[str]) -> Fraction | None:
    numerator = match["n1"] or match["n2"] or match["n3"] or match["n4"]
    if numerator is not None:
        denominator = _fraction(match["d1"] or match["d2"] or match["d3"] or match["d4"])
        if denominator == 0:
            return None
        value = _fraction(numerator) / denominator
        if (whole := match["whole"] or match["whole2"]) is not None:
            if not 0 <= value < 1:  # "3 7/2" is not how a mixed number is written
                return None
            value += _fraction(whole)
        return value
    exponent = int(match["exp"] or match["exp2"] or match["exp3"] or 0)
    if abs(exponent) > MAX_EXPONENT:
        return None
    figure = _fraction(match["plain"])
    return figure * Fraction(10) ** exponent if exponent else figure


def _fraction(text: str) -> Fraction:
    if text.isdigit():
        return Fraction(int(text))
    if re.fullmatch(_COMMA_LAST, text):
        text = re.sub("[. ']", "", text).replace(",", ".")
    return Fraction(re.sub("[, ']", "", text).removesuffix("."))


def _places(plain: str) -> int:
    if re.fullmatch(_COMMA_LAST, plain):
        return len(plain.partition(",")[2])
    return len(plain.partition(".")[2])
