"""One number of an answer, as people write it: [words] [currency] number [unit] [remark].

`read` gives a Quantity, or a Void that says why there is none. What stands before the number is judged by lead.py,
figures by numeral.py and words.py, units and what changes a number by tail.py; here they are put together, with
remarks ("5 apples, total", "7 (seven)", "3/4 or 0.75"), chains of equations and what is made of two numbers
("$5 and 50 cents"). Where a word is not understood there is no number: nothing is guessed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from fractions import Fraction

from workers.graders import arithmetic, lead, tail, units
from workers.graders.normalise import normalise
from workers.graders.numeral import Numeral, numeral, without_cycles
from workers.graders.words import ANY, digits

MAX_LENGTH = 1000
"""Longest text, in characters, that is read as a number; with numeral.MAX_EXPONENT it bounds the work."""
MAX_SENTENCE = 500
_DEPTH = 4
"""Remarks within remarks that are looked into."""


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


@dataclass(frozen=True, slots=True)
class Void:
    """No single number. `denied` marks evidence that none was given: several, a denial, a bound, a refusal."""

    reason: str
    denied: bool = False


Reading = Quantity | Void
_UNREAD = Void("is not read as a number")
_SEVERAL = Void("has several values", denied=True)
_INTEGER = re.compile(r"-?[0-9]{1,18}")
_DECORATION = re.compile(
    "[\U0001f000-\U0001faff\u2600-\u27bf\ufe0f\u2022\u25aa-\u25cf\u2b50]+|<<[^<>]{0,200}>>|</?[A-Za-z]{1,10} ?/?>|\\[/?INST\\]"
    r"|\\(?:ldotp|therefore)(?![A-Za-z])|[「」『』【】。]|\\[()\[\]]"
)
_DOLLARS = re.compile(r"\$([^$ ]+)\$")
_PAIRED = (("==", "=="), ("__", "__"), ("_", "_"), ('"', '"'))
_RAISED_O = re.compile(r"(?<=[0-9]) ?\^ ?\{? ?[oO] ?\}?(?![A-Za-z])")
_OPENINGS = frozenset('=_"')
_BOX = re.compile(r"\\?(?:f|b?)oxed ?(?:\{([^{}]*)\}|([^{}]*))")
_IMPLIES = re.compile(
    r"\s*(?:=>|->|→|⇒|⟹|\\(?:Rightarrow|rightarrow|to|implies|Longrightarrow|therefore)(?![A-Za-z]))\s*"
)
_EQUALS = re.compile(r"(\s*(?:=|≈|≃|≅|\\approx(?![A-Za-z])|:=)\s*| (?:equals|is equal to) )")
_UNEQUAL = re.compile(r"[<>≤≥≠±∓]|\\(?:n?eq?|neq|not|[lg](?:e|eq|t|eqslant)|pm|mp)(?![A-Za-z])")
_STATEMENTS = re.compile(
    r"\s*(?:[,;](?: (?:so|then|thus|hence|therefore|and|or)\b)?|\b(?:or|and|so)\b)\s*(?=[A-Za-z\\][\w\\{}']{0,20}\s*=)"
)
_NAME = re.compile(
    r"\|?(?:\\?[A-Za-z]|\\[A-Za-z]+|[A-Z]{1,4}|\\(?:overline|vec|hat|bar)\s*\{?[A-Za-z]{1,3}\}?)'{0,2}\|?"
    r"(?:_\{?[\w, +-]{1,12}\}?)?(?: ?\((?:[^()=<>]|\([^()=<>]{1,20}\)){1,40}\))?|\[[A-Z]{3,6}\]|m?\s*\\(?:angle|triangle|measuredangle)\s*[A-Z]{0,4}"
    r"|[∠△][A-Z]{1,4}"
)
_LABEL = re.compile(r"(?=[^=]*[A-Za-z]{3})[A-Za-z][\w .,'’()/%$-]*")
_FUNCTION = re.compile(r"\\?(?:sin|cos|tan|sec|csc|cot|log|ln|exp|sqrt|frac|gcd|lcm|max|min)(?![a-z])")
_CONNECTIVE = re.compile(
    r"(?:\b(?:so|thus|hence|therefore|then|we (?:get|have|find)|it follows that)\b|[,;:])\s*", re.IGNORECASE
)
_START = re.compile(
    rf"(?<![\w^_.\\])(?:(?:negative |minus )?(?:(?:{units.MONEY}) ?)?[-+]? ?(?:(?:{units.MONEY}) ?)?\.?[0-9]|[-+]?\\frac"
    rf"|(?:negative |minus )?(?:an? (?=(?:dozen|hundred|thousand|million|half|third|quarter)\b))?{ANY.pattern})",
    re.IGNORECASE,
)
_ARITHMETIC = re.compile(r"(?:[0-9\s.,+\-*/^(){}\[\]×·⋅÷!xX]|\\(?:frac|times|cdot|div)(?![A-Za-z]))+")
_REFUSAL = re.compile(
    r"\b(?:(?:do|does|did|could|can)(?:n't| not) (?:know|determine|tell|say|answer|solve|find|compute|calculate)"
    r"|cannot|can't|can not|unable to|impossible|not sure|unsure|no idea|not enough|insufficient|undetermined"
    r"|indeterminate|unknown|undefined|no (?:answer|solution|value|such)|does not exist|doesn't exist|dne|n/a|sorry)\b",
    re.IGNORECASE,
)
_NOTHING = re.compile(r"(?:there (?:is|are) )?(?:none|nothing|nobody|no one|nil|no [a-z ]{2,40})", re.IGNORECASE)
_CHATTER = re.compile(
    r"[\s.,!]*\b(?:let me know|i hope|hope this|hope it|please|feel free|thank)\b.*", re.IGNORECASE | re.DOTALL
)
_OUT_OF = re.compile(r" (?:out of|over) ")
_WHEN = re.compile(r" (?:in|by|since|until|as of) (?:the year )?(?:19|20)[0-9]{2}\b(?! ?[%/])")
_REMARK = re.compile(
    r"\s*(?P<sign>[,;(]|\.\s+(?=(?-i:[A-Z]))|[=≈]|(?<![\^{])[-–]{1,2} ?(?=[$€£]?[0-9])|\+|!|:)\s*"
    r"|\s+(?P<word>because|since|due to|so|thus|therefore|hence|which|giving|making|totall?ing|i\.e\.,?|that is|or|aka|namely"
    r"|equals|is|are|was|were|(?:would|will|should|must) be|can(?:not|'t| not)|(?:is|was|are|could|wo|does|do|would)n't|if|unless|provided|assuming|given|not|never|wrong|incorrect|false|excluded|and|to|rather"
    r"|instead|but|when|where|while)(?!\w)\s*",
    re.IGNORECASE,
)
_DENIED_BEHIND = re.compile(
    r"(?:not|never|wrong|incorrect|false|excluded|impossible|ruled out|too|n't)\b", re.IGNORECASE
)
_MORE = re.compile(
    r"(?:more|less|fewer|greater|higher|lower|above|below|over|under|larger|smaller|up|upwards?|beyond|bigger|so many)\b",
    re.IGNORECASE,
)
_REASON = frozenset(["because", "since", "due to", "given", "where", "while"])
_THEREFORE = frozenset(["so", "thus", "therefore", "hence", "which", "giving", "making", "totaling", "totalling"])
_AGAIN = frozenset(["i.e.", "i.e.,", "that is", "aka", "namely", "or", "equals", "=", "≈"])
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
_FIRST_UNIT = re.compile(
    r"(?: ?(?P<unit>(?!and\b)[^\W\d_]+\.?))?(?:,? and |, ?| |(?=[0-9]))(?=[0-9]|[A-Za-z-]+ [A-Za-z])"
)
_LAST_UNIT = re.compile(r" ?(?P<unit>[^\W\d_]+|¢)\.?")


def read(text: str, sentence: bool) -> Reading:
    """The one number of `text`; with `sentence` it may stand in one ("Ann has 7 apples left")."""
    if len(text) > MAX_LENGTH:
        return Void("is too long to be read as a number")
    text = normalise(text)
    if _INTEGER.fullmatch(text):
        return Quantity(Fraction(int(text)))
    text = _without_reason(_bare(text))
    if not text or len(text) > MAX_LENGTH:
        return _UNREAD
    if (clear := _IMPLIES.split(text))[-1] and len(clear) > 1:
        text = clear[-1]
    if (sign := _UNEQUAL.search(text)) is not None:
        return Void(
            f"has {sign[0]}, which gives no single number", denied=numeral(text[sign.end() :].lstrip()) is not None
        )
    return _statements(text, sentence, _DEPTH)


_BECAUSE = re.compile(
    r"[,.;]?\s+(?:this is |that is )?(?:because|since|due to|given that|as(?= ?[0-9(\\]))(?![A-Za-z]).*",
    re.IGNORECASE | re.DOTALL,
)


def _without_reason(text: str) -> str:
    """`text` without the reason that it gives behind a number: "5 since 2 + 3 = 5" is 5."""
    if " " not in text or (reason := _BECAUSE.search(text)) is None or not _START.search(text[: reason.start()]):
        return text
    return text[: reason.start()]


def _bare(text: str) -> str:
    """`text` without emoji, tags and marks around it that say nothing."""
    bare = _DECORATION.sub(" ", _DOLLARS.sub(r"\1", text) if text.count("$") > 1 else text)
    text = bare if bare == text else normalise(bare)
    if "oxed" in text and (box := _BOX.fullmatch(text)) is not None:
        text = (box[1] or box[2] or "").strip()
    for _ in range(3 if text[:1] in _OPENINGS else 0):
        for opening, closing in _PAIRED:
            if len(text) > 2 * len(opening) and text.startswith(opening) and text.endswith(closing):
                text = text[len(opening) : -len(closing)].strip(" .")
    if text.endswith("...") and "." not in text[:-3]:  # "42..."; 0.333... goes on
        text = text[:-3].rstrip()
    return without_cycles(_RAISED_O.sub("°", text.strip(" :;,")))


def _statements(text: str, sentence: bool, depth: int) -> Reading:
    """A chain of equations, or one phrase; two statements ("x = 5 or x = 6") are several values unless they agree."""
    if depth == 0:
        return _UNREAD
    if not _EQUALS.search(text):
        return _phrase(text, sentence, depth)
    parts = [part for part in _STATEMENTS.split(text, maxsplit=8) if "=" in part or re.search("[0-9]", part)]
    if len(parts) > 1:
        readings = [_chain(part, sentence, depth) for part in parts]
        figures = {reading.figure for reading in readings if isinstance(reading, Quantity)}
        if len(figures) == 1 and (isinstance(readings[-1], Quantity) or all(map(_is_quantity, readings))):
            return readings[-1]  # "2x = 10, so x = 5"
        return _SEVERAL if len(figures) > 1 else _UNREAD
    return _chain(parts[0] if parts else text, sentence, depth)


def _is_quantity(reading: Reading) -> bool:
    return isinstance(reading, Quantity)


def _chain(text: str, sentence: bool, depth: int) -> Reading:
    """The value of "x = 5", "2 + 3 = 5", "42 = 6 * 7" or "1/3 = 0.33"; its last number, if names are all else."""
    sides = _EQUALS.split(text, maxsplit=16)
    values: list[Quantity] = []
    for place, side in enumerate(sides[::2]):
        reading = _side(side.strip(), sentence, depth, first=place == 0)
        if isinstance(reading, Void):
            return reading
        if reading is not None:
            values.append(reading)
    if not values:
        return _UNREAD
    last = values[-1]
    near = [value for value in values[:-1] if value.figure != last.figure and _near(value.figure, last.figure)]
    far = [value for value in values[:-1] if not _near(value.figure, last.figure)]
    if far and all(_NUMBER_ALONE.fullmatch(side.strip()) for side in sides[::2]):
        return Void("is an equation of two different numbers")
    return replace(last, also=(*last.also, *((value.figure, value.unit) for value in near)))


_NUMBER_ALONE = re.compile(r"[-+$]*[0-9.,/ ]+")


def _side(side: str, sentence: bool, depth: int, first: bool) -> Reading | None:
    """What a side of an equation says; None for a name, or for nothing before the sign."""
    if not side or side == "?":
        return None if first else _UNREAD
    name = _CONNECTIVE.split(side)[-1].strip()
    name = side if re.search("[0-9]", side[: len(side) - len(name)]) else name
    if _NAME.fullmatch(name):
        return None
    if (value := arithmetic.value(name)) is not None and (name != side or not numeral(side)):
        return Quantity(value)
    reading = _phrase(side, sentence=not first and sentence, depth=depth)
    if isinstance(reading, Quantity) or reading.denied:
        return reading
    if _LABEL.fullmatch(side) and not re.search("[0-9]", side) and not _FUNCTION.match(side):
        if lead.denies(re.findall(r"[a-z]+(?:'t)?", side.lower())):
            return Void("denies it", denied=True)
        return None if re.search("[A-Za-z]{3}", side) else _UNREAD
    return Void("is an equation that is not solved") if re.search("[A-Za-z]", side) else reading


def _near(one: Fraction, other: Fraction) -> bool:
    return abs(one - other) * 50 <= max(abs(one), abs(other))


def _phrase(text: str, sentence: bool, depth: int) -> Reading:
    """A number with what may stand around it."""
    text = text.strip()
    for opening, closing in ("()", "[]", "{}"):
        if text.startswith(opening) and text.endswith(closing) and opening not in text[1:-1] and "," not in text:
            return _phrase(text[1:-1], sentence, depth)
    if (negated := re.fullmatch(r"(?:-|negative |minus ) ?\(([^()]*)\)", text, re.IGNORECASE)) is not None:
        inner = _phrase(negated[1], False, depth)
        return replace(inner, figure=-inner.figure, also=()) if isinstance(inner, Quantity) else inner
    if (found := _START.match(text)) is not None or (found := _ordinal(text)) is not None:
        return _behind(text, 0, depth)
    found = _START.search(text) if len(text) <= MAX_SENTENCE else None
    if found is None:
        return _without_number(text)
    said = _said(text[: found.start()], sentence)
    if said != "stated":
        return Void("denies or bounds it", denied=True) if said == "denied" else _UNREAD
    if _REFUSAL.search(text[: found.start()]):
        return Void("is a refusal", denied=True)
    return _behind(text, found.start(), depth)


def _ordinal(text: str) -> re.Match[str] | None:
    return re.match(".", text) if digits(text) != text else None


_PLAIN_LEAD = re.compile(
    r"(?:about|approximately|approx\.?|roughly|around|exactly|precisely|only|just|a total of|~|#|no\.|number)\s*",
    re.IGNORECASE,
)


def _said(before: str, sentence: bool) -> lead.Said:
    if sentence or _PLAIN_LEAD.fullmatch(before):
        return lead.said(before)
    return "denied" if lead.said(before) == "denied" else "unclear"


def _without_number(text: str) -> Reading:
    if _NOTHING.fullmatch(text.strip(" .!")):
        return Void("may be none", denied=False)
    return Void("is a refusal", denied=True) if _REFUSAL.search(text) else _UNREAD


def _behind(text: str, at: int, depth: int) -> Reading:
    """The number that begins at `at`, with all that stands behind it."""
    signed = re.compile(r"(?:(?:negative|minus) |[-+] ?)?", re.IGNORECASE).match(text, at)
    start = signed.end() if signed else at
    written = digits(text[start:])
    worded = written != text[start:]
    text = text[at:start] + written
    number = numeral(text)
    if number is None:
        value = arithmetic.value(text)
        return _UNREAD if value is None else Quantity(value)
    if (whole := _OUT_OF.match(text, number.end)) is not None and (again := digits(text[whole.end() :])) != text[
        whole.end() :
    ]:
        text = text[: whole.end()] + again  # "three out of four"
        number = numeral(text) or number
    rest = _CHATTER.sub("", text[number.end :])
    if not rest.strip(" ."):
        return _quantity(number)
    if _ARITHMETIC.fullmatch(text) and not re.match(r" ?[,(]| [0-9]|\[", rest):
        value = arithmetic.value(text)
        if value is not None and rest == "!":  # a factorial, or an exclamation
            return Quantity(value, perhaps=(number.figure,))
        if value is not None:
            return Quantity(
                value, also=((number.other, None),) if number.other is not None and not rest.strip() else ()
            )
        if not re.match(r" ?-", rest):
            return _UNREAD
    return _with_rest(_quantity(number), number, rest, worded, depth)


def _quantity(number: Numeral) -> Quantity:
    return Quantity(
        number.figure,
        unit=number.currency,
        places=number.places,
        also=() if number.other is None else ((number.other, None),),
        perhaps=(-number.figure,) if number.apart else (),
    )


def _with_rest(quantity: Quantity, number: Numeral, rest: str, worded: bool, depth: int) -> Reading:
    """`quantity` as the text behind its figures changes it."""
    ordinal = tail.ORDINAL.match(rest) if number.figure.denominator == 1 else None
    rest = rest[ordinal.end() :] if ordinal else rest
    if (compound := _compound(quantity, rest)) is not None:
        quantity, rest = compound
    else:
        factor, length = tail.scale(rest)
        if length and (ordinal or (worded and rest[length - 1] != "s")):
            return _UNREAD
        quantity, rest = (
            replace(quantity, figure=quantity.figure * factor, places=0 if length else quantity.places),
            rest[length:],
        )
        if not length:
            quantity, rest = _lettered(quantity, rest)
        if (percent := tail.PERCENT.match(rest)) is not None:
            if quantity.unit:
                return _UNREAD
            quantity, rest = replace(quantity, percent=True), rest[percent.end() :]
        if (dozen := tail.DOZEN.match(rest)) is not None:
            quantity = replace(
                quantity, figure=quantity.figure * 12, perhaps=(*quantity.perhaps, quantity.figure), places=0
            )
            rest = rest[dozen.end() :]
        part = tail.PART.match(rest) if number.whole else None
        if part is not None and not part["many"] and quantity.figure != 1:
            return _UNREAD
        if part is not None and (part["many"] or quantity.figure == 1):
            size, coins = tail.words.PARTS[part["part"].lower()], part["part"].lower() == "quarter"
            also = ((quantity.figure, None),) if coins else ()
            quantity, rest = replace(quantity, figure=quantity.figure / size, also=also), rest[part.end() :]
    return _remarked(quantity, rest, depth)


def _lettered(quantity: Quantity, rest: str) -> tuple[Quantity, str]:
    factor, length, spaced = tail.letter(rest)
    if not length:
        return quantity, rest
    sign, large = rest[:length].strip(), quantity.figure * factor
    if units.is_currency(quantity.unit) or (sign in "KMB" and not spaced):
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


def _remarked(quantity: Quantity, rest: str, depth: int) -> Reading:
    """`quantity` with its unit, once what is said about it is understood."""
    rest = _WHEN.sub("", rest, count=1)
    remark = _REMARK.search(rest)
    head = rest if remark is None else rest[: remark.start()]
    if tail.below_zero(head):
        return replace(quantity, figure=-quantity.figure, unit=None)
    counts, unit = tail.unit_of(head)
    if not counts:
        return _UNREAD
    money = units.is_currency(quantity.unit)
    if (base := tail.base_of(head)) is not None and not money:
        quantity = replace(quantity, also=(*quantity.also, (quantity.figure, base)))
    if not quantity.percent and not money and not (quantity.also and quantity.unit):
        quantity = replace(quantity, unit=unit, counted=unit is None and bool(head.strip()))
    elif money and unit is not None and units.is_currency(unit) and not units.may_be_same(quantity.unit, unit):
        return _UNREAD
    if remark is None:
        return quantity
    return _judged(quantity, (remark["sign"] or remark["word"]).lower().strip(), rest[remark.end() :], depth - 1)


def _judged(quantity: Quantity, sign: str, rest: str, depth: int) -> Reading:
    """`quantity`, or what becomes of it by a remark that begins with `sign`."""
    if depth <= 0:
        return _UNREAD
    if sign in (",", ";", ".", ":", "and") and (again := _REMARK.match(f" {rest}")) is not None and again["word"]:
        return _judged(quantity, again["word"].lower(), f" {rest}"[again.end() :], depth - 1)
    if sign == "(":
        return _bracketed(quantity, rest, depth)
    if sign in _REASON:
        return quantity
    if sign in _THEREFORE:
        return _statements(rest, True, depth) if _START.search(rest) else _harmless(quantity, rest)
    if sign in _AGAIN:
        return _said_again(quantity, sign, rest, depth)
    if sign.startswith("can") or sign.endswith("n't"):
        return Void("denies it", denied=True)
    if sign in ("is", "are", "was", "were") or sign.endswith(" be"):
        return Void("denies it", denied=True) if _DENIED_BEHIND.match(rest) else _harmless(quantity, rest)
    if sign in ("not", "never", "wrong", "incorrect", "false", "excluded", "rather", "instead", "but"):
        return _denied(quantity, sign, rest)
    if sign == "+" and not rest.strip():
        return Void("is a bound", denied=True)
    if sign == "and" and _MORE.match(rest):
        return Void("is a bound", denied=True)
    if sign in (",", ";", "and", "to", "-", "–", "--") and (other := _number_first(rest)) is not None:
        if other.figure == quantity.figure:
            return quantity if sign == "," and rest[:1].isalpha() else _UNREAD  # "5, five"
        return _SEVERAL
    if sign in (",", ";", ".", ":", "and", "to"):
        return _harmless(quantity, rest)
    return _UNREAD


def _denied(quantity: Quantity, sign: str, rest: str) -> Reading:
    """ "7, not 8" is 7, "7 is not it" denies it."""
    other = re.sub(r"^(?:than|of) ", "", rest) if sign in ("rather", "instead") else re.sub(r"^not ", "", rest)
    if (sign in ("not", "rather", "instead") or other != rest) and (found := _number_first(other)) is not None:
        return quantity if found.figure != quantity.figure else _UNREAD
    return Void("denies it", denied=True) if sign not in ("rather", "instead", "but") else _UNREAD


def _number_first(text: str) -> Quantity | None:
    text = re.sub(r"^(?:and|or|about|also|the) ", "", text.strip(" $"))
    number = numeral(without_cycles(digits(text)))
    return None if number is None else _quantity(number)


def _said_again(quantity: Quantity, sign: str, rest: str, depth: int) -> Reading:
    """ "3/4 or 0.75" says one thing twice; "5 or 6" two things."""
    if sign == "or" and _MORE.match(rest):
        return Void("is a bound", denied=True)
    if sign == "or" and re.match(r"so\b", rest, re.IGNORECASE):
        return _harmless(quantity, rest[2:])
    other = _statements(rest, True, depth)
    if isinstance(other, Quantity):
        if _agree(quantity, other):
            return replace(quantity, also=(*quantity.also, (other.figure, other.unit)))
        return _SEVERAL if sign == "or" else _UNREAD
    return other if other.denied else _UNREAD if sign == "or" or _START.search(rest) else _harmless(quantity, rest)


def _agree(one: Quantity, other: Quantity) -> bool:
    """Whether two numbers of one answer are the same, rounding and percent aside."""
    figures = [q.figure / 100 if q.percent else q.figure for q in (one, other)]
    values = {figure for figure, _ in other.also} | {figures[1], other.figure}
    return figures[0] in values or one.figure in values or _near(figures[0], figures[1])


def _bracketed(quantity: Quantity, rest: str, depth: int) -> Reading:
    inner, _, after = rest.partition(")")
    inner = inner.strip()
    if _START.search(inner):
        value = arithmetic.value(inner)
        other = (
            Quantity(value)
            if value is not None
            else _statements(re.sub(r"^(?:or|i\.e\.,?|that is,?) ", "", inner), True, depth)
        )
        if isinstance(other, Void) or not _agree(quantity, other):
            return _UNREAD
    else:
        counts, unit = tail.unit_of(f" {inner}")
        if not counts or re.match("if|when|unless", inner):
            return Void("denies it", denied=True) if _DENIED_BEHIND.match(inner) else _UNREAD
        quantity = replace(quantity, unit=quantity.unit or unit)
    return _remarked(quantity, after, depth) if after.strip(" .") else quantity


def _harmless(quantity: Quantity, words: str) -> Reading:
    """`quantity`, if the words are no more than a remark."""
    if not words.strip(" ."):
        return quantity
    if _START.search(_COMPOUND_WORD.sub("", words)) or not _REMARK_WORDS.fullmatch(words):
        return _UNREAD
    found = set(re.findall(r"[a-z]+(?:'[a-z]+)?", words.lower()))
    doubt = found & (_DOUBTS | lead.DENYING)
    return _UNREAD if doubt or any(word.endswith("n't") for word in found) else quantity


_COMPOUND_WORD = re.compile(r"\b[A-Za-z]+-[A-Za-z-]+|\b(?:[Tt]he |[Ee]ach |[Ee]very |[Nn]o )one\b")
_REMARK_WORDS = re.compile(r"[^\W\d_][^\d<>=+*^]{0,400}")
_DOUBTS = frozenset(
    """maybe perhaps possibly probably likely might may if unless except guess think unsure assuming provided than too
    squared cubed factorial or plus minus times""".split()
)
