"""One number of an answer, as people write it: [words] [currency] number [unit] [remark].

`read` gives a Quantity, or a Void that says why there is none. What stands before the number is judged by lead.py,
figures by numeral.py and words.py, what the words right behind them make of it by amount.py, and what is said about it
("5 apples, total", "7 (seven)", "3/4 or 0.75") by remark.py; here they are put together, with chains of equations.
Where a word is not understood there is no number: nothing is guessed.
"""

from __future__ import annotations

import re
from dataclasses import replace
from fractions import Fraction

from workers.graders.mathematics.splitting import OF_UNKNOWNS, is_product
from workers.graders.numbers import bases, lead
from workers.graders.numbers.amount import amount
from workers.graders.numbers.numeral import Numeral, numeral, without_cycles
from workers.graders.numbers.products import beside, computed, or_product
from workers.graders.numbers.quantity import (
    CONTRADICTORY,
    DENIED,
    SEVERAL,
    TWOFOLD,
    UNREAD,
    Quantity,
    Reading,
    Void,
    agree,
    near,
    quantity_of,
)
from workers.graders.numbers.remark import START, remarked
from workers.graders.numbers.tail import SCALES
from workers.graders.numbers.words import ANY, digits
from workers.graders.reading.normalise import normalise

MAX_LENGTH = 1000
"""Longest text, in characters, that is read as a number; with numeral.MAX_EXPONENT it bounds the work."""
MAX_SENTENCE = 500
_DEPTH = 4
"""Remarks within remarks that are looked into."""
_SIGN = re.compile(r"(?:(?:negative|minus) |[-+] ?)?", re.IGNORECASE)
_OUT_OF = re.compile(r"(?<=[0-9]) (?:out of|over) ")
_OF_AN_UNKNOWN = re.compile(r" ?(?:[+*×·]|\\times|\\cdot) ?(?:the )?[^\W\d_]{3}")
"""Behind a number: "10 + John's age"."""
_INTEGER = re.compile(r"-?[0-9]{1,18}")
_DECORATION = re.compile(
    "[\U0001f000-\U0001faff\u2600-\u27bf\ufe0f\u2022\u25a0-\u25cf\u25fb-\u25fe\u2b1b\u2b1c\u2b50\u220e]+|<<[^<>]{0,200}>>"
    "|</?[A-Za-z]{1,10} ?/?>|\\[/?INST\\]"
    r"|\\(?:ldotp|therefore|blacksquare|square|Box|qed|checkmark)(?![A-Za-z])|[「」『』【】。]|\\[()\[\]]"
)
_NOTE = re.compile(r"(?<=[0-9}]) ?\[([^\W\d_][^\[\]=<>0-9]{0,40})\]")
"""What stands in brackets behind a number: "150 [apples]"."""
_DOLLARS = re.compile(r"\$([^$ ]+)\$")
_PAIRED = (("==", "=="), ("__", "__"), ("_", "_"), ('"', '"'))
_RAISED_O = re.compile(r"(?<=[0-9]) ?\^ ?\{? ?[oO] ?\}?(?![A-Za-z])")
_UNDERSCORED = re.compile(r"(?<![\w.])[1-9][0-9]{0,2}(?:_[0-9]{3})+(?![\w{])")
"""Digits in threes, as programs write them: 1_234_567."""
_HOURS = re.compile(r"(?<![0-9:.])([0-9]{1,3}):([0-5][0-9]) ?(?:hours?|hrs?\.?|h)(?![A-Za-z])", re.IGNORECASE)
_ANGLED = re.compile(r"<\s*([^<>=]*[0-9][^<>=]*)>")
_OPENINGS = frozenset('=_"')
_BOX = re.compile(r"\\?(?:f|b?)oxed ?(?:\{([^{}]*)\}|([^{}]*))")
_IMPLIES = re.compile(
    r"\s*(?:=>|->|→|⇒|⟹|\\(?:Rightarrow|rightarrow|to|implies|Longrightarrow|therefore)(?![A-Za-z]))\s*"
)
_EQUALS = re.compile(r"(\s*(?:=|≈|≃|≅|\\approx(?![A-Za-z])|:=)\s*| (?:equals|is equal to) )")
_UNEQUAL = re.compile(r"[<>≤≥≠±∓∈∉]|\\(?:(?:not)?in|n?eq?|neq|not|[lg](?:e|eq|t|eqslant)|pm|mp)(?![A-Za-z])")
_STATEMENTS = re.compile(
    r"\s*(?:[,;](?: (?:so|then|thus|hence|therefore|and|or)\b)?|\b(?:or|and|so)\b)\s*(?=[A-Za-z\\][\w\\{}']{0,20}\s*=)"
)
_NAME = re.compile(
    r"\|?(?:\\?[A-Za-z]|\\[A-Za-z]+|[A-Z]{1,4}|\\(?:overline|vec|hat|bar)\s*\{?[A-Za-z]{1,3}\}?)'{0,2}\|?"
    r"(?:_\{?[\w, +-]{1,12}\}?)?(?: ?\((?:[^()=<>]|\([^()=<>]{1,20}\)){1,40}\))?|\[[A-Z]{3,6}\]|m?\s*\\(?:angle"
    r"|triangle|measuredangle)\s*[A-Z]{0,4}"
    r"|[∠△][A-Z]{1,4}"
)
_CALL = re.compile(r"(?P<name>[A-Za-z]) ?\((?P<argument>[^()]+)\)")
_PRONOUN = re.compile(r"it|this|that|which|result|answer|total|sum", re.IGNORECASE)
_LABEL = re.compile(r"(?=[^=]*[A-Za-z]{3})[A-Za-z][\w .,'’()/%$-]*")
_SUM_IN_WORDS = re.compile(
    rf"{ANY.pattern}.*\b(?:plus|minus|times|divided|multiplied|of|and)\b.*{ANY.pattern}", re.IGNORECASE
)
_FUNCTION = re.compile(r"\\?(?:sin|cos|tan|sec|csc|cot|log|ln|exp|sqrt|frac|gcd|lcm|max|min)(?![a-z])")
_CONNECTIVE = re.compile(
    r"(?:\b(?:so|thus|hence|therefore|then|we (?:get|have|find)|it follows that)\b|[,;:])\s*", re.IGNORECASE
)
_ARITHMETIC = re.compile(r"(?:[0-9\s.,+\-*/^(){}\[\]×·⋅÷!xX]|\\(?:frac|times|cdot|div)(?![A-Za-z]))+")
_REFUSAL = re.compile(
    r"\b(?:(?:do|does|did|could|can)(?:n't| not) (?:know|determine|tell|say|answer|solve|find|compute|calculate)"
    r"|cannot|can't|can not|unable to|impossible|not sure|unsure|no idea|not enough|insufficient|undetermined"
    r"|indeterminate|unknown|undefined|no (?:answer|solution|value|such)|does not exist|doesn't exist|dne|n/a|sorry)\b",
    re.IGNORECASE,
)
_NOTHING = re.compile(r"(?:there (?:is|are) )?(?:none|nothing|nobody|no one|nil|no [a-z ]{2,40})", re.IGNORECASE)
_NO_ONE = re.compile(r"(?:there (?:is|was) )?no one[ .!]*", re.IGNORECASE)
_NONE = Void("may be none", denied=False)
_CHATTER = re.compile(
    r"[\s.,!]*\b(?:let me know|i hope|hope this|hope it|please|feel free|thank)\b.*", re.IGNORECASE | re.DOTALL
)


def read(text: str, sentence: bool) -> Reading:
    """The one number of `text`; with `sentence` it may stand in one ("Ann has 7 apples left")."""
    if len(text) > MAX_LENGTH:
        return Void("is too long to be read as a number")
    text = normalise(text)
    if _INTEGER.fullmatch(text):
        return Quantity(Fraction(int(text)))
    if (literal := bases.literal(text)) is not None:
        return Quantity(Fraction(literal), perhaps=(Fraction(0),))
    written, text = text, _without_reason(_bare(text))
    if not text:
        return Void("is empty", denied=True)
    if len(text) > MAX_LENGTH:
        return UNREAD
    if (clear := _IMPLIES.split(text))[-1] and len(clear) > 1:
        text = clear[-1]
    if (sign := _UNEQUAL.search(text)) is not None:
        return Void(
            f"has {sign[0]}, which gives no single number", denied=numeral(text[sign.end() :].lstrip()) is not None
        )
    if _is_family(text):
        return Void("is a family of values")
    if _NO_ONE.fullmatch(text):  # and no "No. 1"
        return _NONE
    if " and " in text and _PARTS_BEHIND.search(text) is not None:
        text = _AND_A_PART.sub(_with_part, text, count=1)
        if _AND_A_HALF.search(text) is not None:
            return UNREAD
    reading = _statements(_SCALED.sub(_scaled, _EQUAL_TO.sub("(", text), count=1), sentence, _DEPTH)
    return or_product(reading, written) if isinstance(reading, Quantity) and "(" in written else reading


_COUNTING = re.compile(r"\b(?:integers?|natural|whole)\b")
_LETTER_BEHIND = re.compile(r"[0-9] ?([a-z])(?![A-Za-z])")
_LETTER_ALONE = re.compile(r"(?<![A-Za-z0-9\\])(?<![0-9] )([b-z])(?![A-Za-z])")


def _is_family(text: str) -> bool:
    """Whether it is a value for each whole number, "3k, where k is an integer": its letter is no unit, no thousand."""
    if _COUNTING.search(text) is None:
        return False
    return not set(_LETTER_BEHIND.findall(text)).isdisjoint(_LETTER_ALONE.findall(text))


_PARTS_BEHIND = re.compile(r" and (?:an? )?(?:half|quarter|third)\b", re.IGNORECASE)
_MANY = "an?|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|[0-9]+"
_AND_A_PART = re.compile(
    rf"\b(?P<many>{_MANY}) (?!(?:hundred|thousand|[a-z]{{1,6}}illion)s?\b)(?P<what>(?P<dozen>dozen)|[a-z]+) and "
    r"(?P<part>(?:a )?(?:half|third|quarter))\b(?(dozen)|(?![- ][a-z]))",
    re.IGNORECASE,
)
"""A part behind what is counted: "an hour and a half", "a dozen and a half", "2 miles and a quarter"."""
_AND_A_HALF = re.compile(
    rf"\b(?:hundred|thousand|[a-z]{{1,6}}illion|(?:{_MANY}) [a-z]+) and (?:an? )?(?:half|quarter|third)\b",
    re.IGNORECASE,
)
"""Half of one, or of a hundred: "a million and a half"; or of something that is named behind it."""
_EQUAL_TO = re.compile(r"(?<=[0-9] )\([=≈] ?")
"""What begins a remark that says how a number came about: "42 (= 6 × 7)"."""
_SCALED = re.compile(
    r"\b(?P<many>[0-9]{1,3}) (?P<scale>thousand|million|billion),?(?: and)? (?P<few>[0-9]{1,3}) "
    r"(?P<less>hundred|thousand|million)\b(?! (?:thousand|million|billion))",
    re.IGNORECASE,
)


def _with_part(match: re.Match[str]) -> str:
    """ "an hour and a half" as one and a half hour."""
    many = "one" if match["many"].lower() in ("a", "an") else match["many"]
    part = match["part"] if " " in match["part"] else f"a {match['part']}"
    return f"{many} and {part} {match['what']}"


def _scaled(match: re.Match[str]) -> str:
    """ "1 thousand 2 hundred" as 1200; unchanged where the second part is not smaller than one of the first."""
    scale, less = (SCALES[match[name].lower()] for name in ("scale", "less"))
    few = int(match["few"]) * less
    return str(int(match["many"]) * scale + few) if few < scale else match[0]


_BECAUSE = re.compile(
    r"[,.;]?\s+(?:this is |that is )?(?:because|since|due to|given that|as(?= ?[0-9(\\]))(?![A-Za-z]).*",
    re.IGNORECASE | re.DOTALL,
)


def _without_reason(text: str) -> str:
    """`text` without the reason that it gives behind a number: "5 since 2 + 3 = 5" is 5."""
    if " " not in text or (reason := _BECAUSE.search(text)) is None or not START.search(text[: reason.start()]):
        return text
    return text[: reason.start()]


def _bare(text: str) -> str:
    """`text` without emoji, tags and marks around it that say nothing."""
    if "[" in text:
        text = _NOTE.sub(r" (\1)", text)
    text = text.replace("\\Omega", "Ω") if "\\O" in text else text
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
    text = _UNDERSCORED.sub(lambda m: m[0].replace("_", ""), text) if "_" in text else text
    if text.startswith("<") and (angled := _ANGLED.fullmatch(text)) is not None:
        text = angled[1]
    text = _HOURS.sub(r"\1 hours \2 minutes", text) if ":" in text else text
    return without_cycles(_RAISED_O.sub("°", text.strip(" :;,")))


def _statements(text: str, sentence: bool, depth: int) -> Reading:
    """A chain of equations, or one phrase; two statements ("x = 5 or x = 6") are several values unless they agree."""
    if depth == 0:
        return UNREAD
    if not _EQUALS.search(text):
        return _phrase(text, sentence, depth)
    parts = [part for part in _STATEMENTS.split(text, maxsplit=8) if "=" in part or re.search("[0-9]", part)]
    if len(parts) > 1:
        readings = [_chain(part, sentence, depth) for part in parts]
        figures = {reading.figure for reading in readings if isinstance(reading, Quantity)}
        if len(figures) == 1 and (isinstance(readings[-1], Quantity) or all(map(_is_quantity, readings))):
            return readings[-1]  # "2x = 10, so x = 5"
        return SEVERAL if len(figures) > 1 else UNREAD
    return _chain(parts[0] if parts else text, sentence, depth)


def _is_quantity(reading: Reading) -> bool:
    return isinstance(reading, Quantity)


def _chain(text: str, sentence: bool, depth: int) -> Reading:
    """The value of "x = 5", "2 + 3 = 5", "42 = 6 * 7" or "1/3 = 0.33"; its last number, if names are all else."""
    sides = _EQUALS.split(text, maxsplit=16)
    values: list[Quantity] = []
    computed_from: list[str] = []
    for place, side in enumerate(sides[::2]):
        reading = _side(side.strip(), sentence, depth, first=place == 0)
        if isinstance(reading, Void):
            return reading
        if reading is not None:
            values.append(reading)
            computed_from.append(_CONNECTIVE.split(side)[-1].strip(" $"))
    if not values:
        return UNREAD
    last = values[-1]
    roughly = any(sign.strip() not in ("=", ":=") for sign in sides[1::2])
    same = [value for value in values[:-1] if agree(value, last, roughly)]
    if len(same) < len(values) - 1 and all(_NUMBER_ALONE.fullmatch(side.strip()) for side in sides[::2]):
        return Void("is an equation of two different numbers")
    also = tuple((value.figure, value.unit) for value in same if value.figure != last.figure)
    close = tuple(value.figure for value in values[:-1] if value not in same and near(value.figure, last.figure))
    doubt = last.doubt
    for value, side in zip(values[:-1], computed_from, strict=False):
        plain = _ARITHMETIC.fullmatch(side) is not None or (value.unit is not None and value.unit == last.unit)
        if plain and value not in same and last.figure not in value.perhaps:
            doubt = CONTRADICTORY
            close += (value.figure,) if roughly else ()  # 1/3 ≈ 1.3 is perhaps a third
    return replace(last, also=(*last.also, *also), perhaps=(*last.perhaps, *close), doubt=doubt)


_NUMBER_ALONE = re.compile(r"[-+$]*[0-9.,/ ]+")


def _side(side: str, sentence: bool, depth: int, first: bool) -> Reading | None:
    """What a side of an equation says; None for a name, or for nothing before the sign."""
    if not side or side == "?":
        return None if first else UNREAD
    name = _CONNECTIVE.split(side)[-1].strip()
    name = side if re.search("[0-9]", side[: len(side) - len(name)]) else name
    call = _CALL.fullmatch(name)
    if OF_UNKNOWNS.fullmatch(name) or (call is not None and is_product(call["name"], call["argument"])):
        return Void("is an equation that is not solved")
    if _NAME.fullmatch(name) or _PRONOUN.fullmatch(name):
        return None
    if (name != side or not numeral(side)) and (value := computed(name)) is not None:
        return value
    reading = _phrase(side, sentence=not first and sentence, depth=depth)
    if isinstance(reading, Quantity) or reading.denied:
        return reading
    if _SUM_IN_WORDS.search(side):
        return UNREAD
    if _LABEL.fullmatch(side) and not re.search("[0-9]", side) and not _FUNCTION.match(side):
        if lead.denies(re.findall(r"[a-z]+(?:'t)?", side.lower())):
            return DENIED
        return None if re.search("[A-Za-z]{3}", side) else UNREAD
    return Void("is an equation that is not solved") if re.search("[A-Za-z]", side) else reading


def _phrase(text: str, sentence: bool, depth: int) -> Reading:
    """A number with what may stand around it."""
    text = text.strip()
    for opening, closing in ("()", "[]", "{}"):
        if text.startswith(opening) and text.endswith(closing) and opening not in text[1:-1] and "," not in text:
            return _phrase(text[1:-1], sentence, depth)
    if text.startswith("(") and (value := computed(text)) is not None:
        return value
    if text[:4].lower() == "the " and _ORDINAL.match(text, 4):
        text = text[4:]
    if (negated := re.fullmatch(r"(?:-|negative |minus ) ?\(([^()]*)\)", text, re.IGNORECASE)) is not None:
        inner = _phrase(negated[1], False, depth)
        return replace(inner, figure=-inner.figure, also=()) if isinstance(inner, Quantity) else inner
    if (found := START.match(text)) is not None or (found := _ordinal(text)) is not None:
        return _behind(text, 0, depth)
    found = START.search(text) if len(text) <= MAX_SENTENCE else None
    if found is None:
        return _without_number(text)
    said = _said(text[: found.start()], sentence)
    if said == "denied" and START.search(text, found.end()) and "between" not in text[: found.start()].lower():
        return UNREAD  # "It is not 7, but 8"
    if said != "stated":
        return Void("denies or bounds it", denied=True) if said == "denied" else UNREAD
    if _REFUSAL.search(text[: found.start()]):
        return Void("is a refusal", denied=True)
    return _behind(text, found.start(), depth)


def _ordinal(text: str) -> re.Match[str] | None:
    return re.match(".", text) if digits(text) != text else None


_ORDINAL = re.compile(r"(?:[a-z]+[- ])?[a-z]+(?:th|st|nd|rd)\b(?! of\b)", re.IGNORECASE)
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
        return _NONE
    return Void("is a refusal", denied=True) if _REFUSAL.search(text) else UNREAD


def _behind(text: str, at: int, depth: int) -> Reading:
    """The number that begins at `at`, with all that stands behind it."""
    start = _SIGN.match(text, at).end()  # type: ignore[union-attr]  # it matches the empty text
    written = digits(text[start:])
    worded = written != text[start:]
    text = _with_written_whole(text[at:start] + written)
    number = numeral(text)
    if number is None:
        return computed(text) or UNREAD
    rest = _CHATTER.sub("", text[number.end :])
    if (factor := beside(rest)) is not None:
        return _product(text[: number.end], number, rest, factor, depth)
    if not rest.strip(" ."):
        return quantity_of(number)
    if worded and rest == "!":  # no factorial is written so
        return quantity_of(number)
    if _OF_AN_UNKNOWN.match(rest):
        return Void("is an expression, and no number", denied=True)
    if _ARITHMETIC.fullmatch(text) and not re.match(r" ?[,(\[]| [0-9]", rest):
        value = computed(text)
        if value is not None and rest == "!":  # a factorial, or an exclamation
            return replace(value, perhaps=(number.figure,))
        if value is not None:
            return value
        if not re.match(r" ?-", rest):
            return UNREAD
    return _described(number, rest, worded, depth)


def _product(written: str, number: Numeral, rest: str, factor: Fraction, depth: int) -> Reading:
    """A number with a factor in parentheses right behind it, with which `rest` begins."""
    if _ARITHMETIC.fullmatch(written + rest) and (value := computed(written + rest)) is not None:
        return value
    reading = _described(number, rest, False, depth)
    if isinstance(reading, Void):
        return reading
    return replace(reading, perhaps=(*reading.perhaps, reading.figure * factor), doubt=TWOFOLD)


def _described(number: Numeral, rest: str, worded: bool, depth: int) -> Reading:
    """A number with its unit, and with what is said about it."""
    read_on = amount(quantity_of(number), number, rest, worded)
    if isinstance(read_on, Void):
        return read_on
    return remarked(*read_on, lambda inner: _statements(inner, True, depth - 1))


def _with_written_whole(text: str) -> str:
    """ "3 out of four" with the four in digits."""
    if (whole := _OUT_OF.search(text)) is None:
        return text
    return text[: whole.end()] + digits(text[whole.end() :])
