"""Equal as numbers, exactly: integers, decimals, fractions, powers of ten, percent, units, money.

The conventions, where mathematics leaves room for them:

- Values are compared exactly, so 0.33 is not 1/3. A decimal of six places or more is what rounds to it, or is cut
  to it: 0.333333 is 1/3, and so is 0.\\overline{3}.
- A percent sign divides by 100, so 50% is 0.5 and 1/2. Data sets also store "what percentage" as a bare
  50, so where exactly one side carries the sign, equal figures (50% and 50) agree as well. 0.5 and 50
  never do.
- A unit or currency may be left out or added. When both sides name one that is known here and they are
  different (cm and m, $ and €), the answer is wrong; nothing is converted.
- A comma is a decimal point where the other side has one: "1,22" is 1.22. "1,5" is no number beside 15 or 2, and
  "(1,5)" never is.
- "x = 7" is 7, "3 1/2" is 7/2, "7 million" is 7000000, "1,234" is 1234, "about 7" and "seven" are 7, "(-7)" is -7.
- Words that change a value ("7 squared", "7 or 8", "7 more than x") make it no number.
- An answer, though not a gold answer, may be a sentence with one number in it ("Ann has 7 apples left"), unless one
  of its words could change the value ("Ann has at least 7 apples").
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

from workers.graders.judgement import CORRECT, Judgement, short
from workers.graders.normalise import normalise
from workers.graders.sentence import number_in
from workers.graders.words import digits

MAX_LENGTH = 1000
"""Longest text, in characters, that is read as a number; with MAX_EXPONENT it bounds the work."""
MAX_EXPONENT = 1000
PLACES = 6
"""Decimal places from which on a decimal stands for what rounds to it."""

_PLAIN = r"(?:[1-9][0-9]{0,2}(?:(?:,[0-9]{3})+|(?: [0-9]{3})+)|[0-9]+)(?:\.[0-9]*)?|\.[0-9]+"
_POWER = (
    r"(?:[eE](?P<exp>[+-]?[0-9]{1,5})(?![0-9A-Za-z])"
    r"|\s*(?:\\times|\\cdot|[x*×·])\s*10\s*\^\s*(?:\{\s*(?P<exp2>[+-]?[0-9]{1,5})\s*\}|(?P<exp3>[+-]?[0-9]{1,5})))?"
)
_INTEGER = r"[0-9]+"
_LEFT_SIDE = re.compile(r"(?:[A-Za-z\\][A-Za-z0-9_{}()\\' ]{0,60})?=\s*(?P<rest>[^=]+)")
_CURRENCY = {
    **dict.fromkeys(["$", "USD", "US$"], "dollar"),
    **dict.fromkeys(["€", "EUR"], "euro"),
    **dict.fromkeys(["£", "GBP"], "pound sterling"),
    **dict.fromkeys(["¥", "JPY"], "yen"),
    **dict.fromkeys(["₹", "INR", "Rs"], "rupee"),
}
_MONEY = r"(?P<{}>US\$|[$€£¥₹]|(?:USD|EUR|GBP|JPY|INR|Rs)(?![A-Za-z]))?"
_NUMBER = re.compile(
    _MONEY.format("money") + r"\s*(?P<sign>[+-]?)\s*" + _MONEY.format("money2") + r"\s*"
    rf"(?:(?P<whole>{_INTEGER})?\s*\\frac\s*(?:\{{\s*(?P<n1>-?\s*(?:{_PLAIN}))\s*\}}|(?P<n2>[0-9]))\s*"
    rf"(?:\{{\s*(?P<d1>-?\s*(?:{_PLAIN}))\s*\}}|(?P<d2>[0-9]))"
    rf"|(?:(?P<whole2>{_INTEGER}) )?(?P<n3>{_INTEGER}) ?/ ?(?P<d3>{_INTEGER})"
    rf"|(?P<n4>{_PLAIN}) ?/ ?(?P<d4>{_PLAIN})"
    rf"|(?P<plain>{_PLAIN}){_POWER})"
    r"(?P<rest>.*)",
    re.DOTALL,
)

_SCALES = {
    "hundred": 100,
    "thousand": 10**3,
    "million": 10**6,
    "billion": 10**9,
    "trillion": 10**12,
    "dozen": 12,
}
_PERCENT = re.compile(r"\s*(?:%|per ?cents?(?![a-z])|pct(?![a-z])|percentage(?! points?)(?![a-z]))\s*", re.IGNORECASE)
_CHANGING_WORDS = """
and or plus minus times over by divided multiplied mod modulo less more than to from half halves
third thirds quarter quarters fourth fourths fifth fifths sixth sixths seventh sevenths eighth
eighths ninth ninths tenth tenths hundredth hundredths thousandth thousandths squared cubed
factorial power root choose not hundred thousand million billion trillion dozen dozens pi tau phi
infinity inf log ln sin cos tan sec csc cot exp sqrt gcd lcm max min mn bn squares cubes st nd rd th
"""

_CHANGES_VALUE = frozenset(_CHANGING_WORDS.split())
_SINGLE = frozenset("mgshlLNJWVAKCFT")
_UNITS = {
    name: names.split()[0]
    for names in (
        "millimeter mm millimetre",
        "centimeter cm centimetre",
        "meter m metre",
        "kilometer km kilometre",
        "inch in inche",
        "foot ft feet",
        "yard yd",
        "mile mi",
        "milligram mg",
        "gram g gm",
        "kilogram kg kilo",
        "ton tonne",
        "ounce oz",
        "pound lb",
        "milliliter ml millilitre",
        "liter l litre",
        "gallon gal",
        "second s sec",
        "minute min",
        "hour h hr",
        "day",
        "week wk",
        "month",
        "year yr",
        "am a.m",
        "pm p.m",
        "mph",
        "north",
        "south",
        "east",
        "west",
        "km/h kph kmph",
        "m/s",
        "degree ° deg",
        "celsius °c",
        "fahrenheit °f",
        "radian rad",
        "cent ¢",
        "dollar buck usd $",
        "euro eur €",
        "yen jpy ¥",
    )
    for name in names.split()
}
_ABOUT = re.compile(r"(?:about|approximately|approx\.?|roughly|around|≈|~|\\approx)\s*", re.IGNORECASE)
_REPEATING = re.compile(
    r"(?P<whole>[0-9]*)\.(?:(?P<head>[0-9]*)\\(?:overline|bar)\s*(?:\{(?P<cycle>[0-9]{1,50})\}|(?P<one>[0-9]))"
    r"|(?P<head2>[0-9]{0,50}?)(?P<cycle2>[0-9]{1,6}?)(?P=cycle2){2,}\s*(?:\.\.\.|\\[lc]?dots(?![a-z])))"
)
_PARENTHESES = re.compile(r"(\(+)([^()]*)(\)+)")
_DECIMAL_COMMA = re.compile(r"(?<=[0-9])(?:,|\{,\})(?=[0-9])")
_OUT_OF = re.compile(r"(?<=[0-9]) out of (?=[0-9])")
_UNIT_SHAPE = re.compile(r"(?P<gap>[\s-]*/? ?\(?)(?P<unit>[A-Za-z°¢$€£¥₹][A-Za-z°¢$€£¥₹ ./'()-]*(?:\s?\^\{?[23]\}?)?)")

_UNIT_AT_END = re.compile(
    r"(?P<rest>.*(?:[0-9})\]]|\\pi))\s+(?P<unit>[A-Za-z°][A-Za-z° ./-]{0,60}?(?:\s?\^\{?[23]\}?)?)", re.DOTALL
)


@dataclass(frozen=True, slots=True)
class Quantity:
    """A number as it was written.

    Example: "$1,234.50" is Quantity(Fraction(2469, 2), percent=False, unit="dollar")
    """

    figure: Fraction
    """The number in front of the percent sign, if there is one."""
    percent: bool
    unit: str | None
    """Canonical name of a known unit; None for none and for words that are not known as one."""
    places: int = 0
    """Digits after the decimal point; 0 for what is no plain decimal."""


def parse(text: str) -> Quantity | None:
    """`text` as one number with at most a unit, or None if it is anything else, or too long."""
    if len(text) > MAX_LENGTH:
        return None
    text = normalise(text)
    if (equation := _LEFT_SIDE.fullmatch(text)) is not None:
        text = equation["rest"]
    text = _REPEATING.sub(_as_fraction, digits(_ABOUT.sub("", text, count=1)), count=1)
    text = _OUT_OF.sub("/", text)
    if (inner := _PARENTHESES.fullmatch(text)) is not None and len(inner[1]) == len(inner[3]):
        text = inner[2]
    match = _NUMBER.fullmatch(text)
    if match is None or len(text) > MAX_LENGTH:
        return None
    figure = _figure(match)
    suffix = None if figure is None else _suffix(match["rest"])
    if figure is None or suffix is None:
        return None
    scale, percent, unit = suffix
    money = match["money"] or match["money2"]
    places = 0 if match["plain"] is None or scale > 1 else len(match["plain"].partition(".")[2])
    return Quantity(figure * scale, percent, _CURRENCY[money] if money else unit, places)


@lru_cache(maxsize=1024)
def _gold(gold: str) -> Quantity | None:
    return parse(gold)


def _as_fraction(repeating: re.Match[str]) -> str:
    """0.1\\overline{6} as 15/90."""
    head, cycle = repeating["head"] or repeating["head2"] or "", repeating["cycle"] or repeating["one"]
    cycle = cycle or repeating["cycle2"]
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
    else:
        exponent = int(match["exp"] or match["exp2"] or match["exp3"] or 0)
        if abs(exponent) > MAX_EXPONENT:
            return None
        value = _fraction(match["plain"]) * Fraction(10) ** exponent
    return -value if match["sign"] == "-" else value


def _fraction(text: str) -> Fraction:
    return Fraction(text.replace(",", "").replace(" ", "").removesuffix("."))


def _suffix(rest: str) -> tuple[int, bool, str | None] | None:
    """(scale, percent, unit) of what follows the digits; None if it makes the whole no number."""
    if not rest.strip():
        return 1, False, None
    if (percent := _PERCENT.match(rest)) is not None:
        after = rest[percent.end() :]
        return (1, True, None) if not after or _is_prose(after) else None
    scale = 1
    first, _, remainder = rest.strip().partition(" ")
    if first.lower() in _SCALES:
        scale, rest = _SCALES[first.lower()], " " + remainder
        if not remainder:
            return scale, False, None
    match = _UNIT_SHAPE.fullmatch(rest)
    if match is None:
        return None
    unit = match["unit"].strip()
    known = _known(unit)
    return (scale, False, known) if known or _is_unit(unit, match["gap"]) else None


def _known(unit: str) -> str | None:
    """Canonical name of a unit, with ^2 or ^3 for areas and volumes; None if it is not in the table."""
    power = ""
    if (raised := re.fullmatch(r"(.*?)\s*\^\{?([23])\}?", unit)) is not None:
        unit, power = raised[1], "^" + raised[2]
    elif (spelled := re.fullmatch(r"(?i)(square|sq\.?|cubic|cu\.?)\s+(.*)", unit)) is not None:
        unit, power = spelled[2], "^2" if spelled[1].lower().startswith("s") else "^3"
    name = unit.strip(" .")
    if len(name) == 1 and name.isalpha() and name not in _SINGLE:
        return None
    name = name.lower()
    canonical = _UNITS.get(name) or _UNITS.get(name.removesuffix("s"))
    return canonical + power if canonical else None


def _is_unit(unit: str, gap: str) -> bool:
    """Whether words after a number, which the table does not know, can be what is counted."""
    if not gap and len(unit) < 4:
        return False  # "7xy" is a product; "7apples" is not
    return unit in _SINGLE or (_is_prose(unit) and len(unit.split()[0]) > 2)


def _is_prose(text: str) -> bool:
    """Whether `text` is a few words that do not change the value of the number before them."""
    words = re.findall(r"[A-Za-z]+", text)
    if not words or len(words) > 6 or re.search(r"[^A-Za-z ./'()°-]", text):
        return False
    return not any(word.lower() in _CHANGES_VALUE for word in words) and "-" not in text.strip()[:1]


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
    known = _known(match["unit"])
    return (match["rest"], known) if known or _is_unit(match["unit"], " ") else (text, None)


def _equal(gold: Quantity, answer: Quantity) -> bool:
    if gold.percent == answer.percent:
        return _same(gold.figure, gold.places, answer.figure, answer.places)
    signed, bare = (gold, answer) if gold.percent else (answer, gold)
    return bare.figure == signed.figure or _same(bare.figure, bare.places, signed.figure / 100, signed.places + 2)


def _same(one: Fraction, places: int, other: Fraction, other_places: int) -> bool:
    return one == other or _stands_for(one, places, other) or _stands_for(other, other_places, one)


def _stands_for(decimal: Fraction, places: int, value: Fraction) -> bool:
    """Whether so many places of `value` are `decimal`, rounded or cut."""
    if places < PLACES or not decimal:
        return False
    unit = Fraction(1, 10**places)
    return abs(decimal - value) <= unit / 2 or (
        abs(decimal) <= abs(value) < abs(decimal) + unit and decimal * value > 0
    )


def grade(gold: str, answer: str) -> Judgement:
    """Correct when both are numbers of equal value, by the conventions at the head of this file.

    Ungradable when the gold answer is no number. When both are numbers, a "wrong" is final.
    """
    wanted, got = _gold(gold), parse(answer) or parse(number_in(answer))
    if wanted is None and got is not None and got.places:
        wanted = parse(_decimal_point(gold))
    if wanted is None:
        return Judgement("ungradable", f"the gold answer {short(gold)!r} is no number")
    if got is None and wanted.places:
        got = parse(_decimal_point(answer))
    if got is None:
        return Judgement("wrong", f"{short(answer)!r} is no number")
    if wanted.unit and got.unit and wanted.unit != got.unit:
        return Judgement("wrong", f"{got.unit} is not {wanted.unit}", final=True)
    if _equal(wanted, got):
        return CORRECT
    return Judgement("wrong", f"{short(answer)!r} is not {short(gold)!r}", final=True)
