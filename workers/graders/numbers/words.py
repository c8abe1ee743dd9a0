"""Numbers that are written out: "twenty-five", "three point five", "seven twelfths", "two and a half", "fifth"."""

from __future__ import annotations

import re

_ONES = """
zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen
eighteen nineteen
"""
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
_VALUES = {word: value for value, word in enumerate(_ONES.split())}
_VALUES |= {word: 20 + 10 * value for value, word in enumerate(_TENS.split())} | {"fourty": 40}
_LARGE = {"thousand": 10**3, "lakh": 10**5, "million": 10**6, "crore": 10**7, "billion": 10**9, "trillion": 10**12}
LARGER = "quadrillion quintillion sextillion septillion octillion nonillion decillion"
_LARGE |= {word: 10 ** (15 + 3 * place) for place, word in enumerate(LARGER.split())} | {"googol": 10**100}
_ORDINAL_WORDS = """
zeroth first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth fourteenth
fifteenth sixteenth seventeenth eighteenth nineteenth
"""
_ORDINALS = {word: value for value, word in enumerate(_ORDINAL_WORDS.split())}
_ORDINALS |= {word[:-1] + "ieth": _VALUES[word] for word in _TENS.split()}
PARTS = {word: value for word, value in _ORDINALS.items() if value > 2}
PARTS |= {"half": 2, "halve": 2, "quarter": 4, "hundredth": 100, "thousandth": 10**3, "millionth": 10**6}
"""What a part of a whole is called, without its s."""
_WORD = "|".join([*_VALUES, "hundred", *_LARGE])
_END = r"(?![A-Za-z])"
_RUN = rf"(?:{_WORD})(?:(?:-| |,? and |, )(?:{_WORD})){{0,14}}{_END}"
_PART = "|".join(sorted(PARTS, key=len, reverse=True))
_LEADING = re.compile(rf"{_RUN}(?!-(?!dollars?\b)[A-Za-z])", re.IGNORECASE)
_POINT = re.compile(rf"(?P<whole>{_RUN}|[0-9]+|) ?point (?P<places>(?:{'|'.join(_ONES.split()[:10])})(?:[ -](?:"
    rf"{'|'.join(_ONES.split()[:10])})){{0,14}}){_END}", re.IGNORECASE)  # fmt: skip
_FRACTION = re.compile(
    rf"(?:(?P<count>an?|{_RUN})[ -](?P<part>{_PART})(?P<many>s?)|(?P<bare>half|quarter))(?![A-Za-z-]){_END}",
    re.IGNORECASE,
)
_MIXED = re.compile(
    rf"(?P<whole>{_RUN}|[0-9]{{1,9}})(?:,? and |[ -])(?P<count>an?|{_RUN})[ -](?P<part>{_PART})s?(?![A-Za-z-])",
    re.IGNORECASE,
)
_ORDINAL = re.compile(
    rf"(?:(?P<tens>{'|'.join(_TENS.split())})[ -])?(?P<word>{'|'.join(_ORDINALS)})(?![A-Za-z-])", re.IGNORECASE
)
_ONE = re.compile(rf"an?(?=[ -](?:dozen|hundred|{'|'.join(_LARGE)})\b)", re.IGNORECASE)
_OF_A = re.compile(r" (?:of )?an? ", re.IGNORECASE)
_FIRST = re.compile(rf"(?:[Pp]oint )?(?:{_WORD}|{'|'.join(_ORDINALS)}|half|quarter|an?)\b", re.IGNORECASE)
ANY = re.compile(rf"\b(?:{_WORD}|half|quarter|third|dozen){_END}", re.IGNORECASE)
"""A word that is a number somewhere in a text; ordinals aside, which mostly say which one."""
_BEHIND = f"{_WORD.replace('one|', '', 1)}|half|quarter|third|dozens?|hundreds|thousands|millions|{_PART}"
BEHIND = re.compile(rf"\b(?:{_BEHIND}){_END}", re.IGNORECASE)
"""A word behind a number that is another one, or changes it; "one" rarely does ("for each one")."""


def digits(text: str) -> str:
    """`text` with the number that it begins with in digits; unchanged where it begins with none.

    Example: "two and a half cups" becomes "2 1/2 cups", "half an hour" "1/2 hour", "fifth" "5th"
    """
    if not text[:1].isalnum():
        return text
    if (mixed := _MIXED.match(text)) is not None and (read := _mixed(mixed)) is not None:
        return read + text[mixed.end() :]
    if text[0].isdigit() or _FIRST.match(text) is None:
        return text
    for pattern, how in ((_POINT, _point), (_FRACTION, _fraction)):
        if (match := pattern.match(text)) is not None and (read := how(match)) is not None:
            rest = text[match.end() :]
            return read + (_OF_A.sub(" ", rest, count=1) if _OF_A.match(rest) else rest)
    if (ordinal := _ORDINAL.match(text)) is not None:
        value = _ORDINALS[ordinal["word"].lower()] + _VALUES.get((ordinal["tens"] or "").lower(), 0)
        return f"{value}th{text[ordinal.end() :]}"
    text = _ONE.sub("one", text, count=1) if _ONE.match(text) else text
    if (match := _LEADING.match(text)) is None or (number := _value(match[0])) is None:
        return text
    return f"{number}{text[match.end() :]}"


def _mixed(match: re.Match[str]) -> str | None:
    whole = int(match["whole"]) if match["whole"].isdigit() else _value(match["whole"])
    count, part = _count(match["count"]), PARTS[match["part"].lower()]
    return None if whole is None or count is None or not 0 < count < part else f"{whole} {count}/{part}"


def _point(match: re.Match[str]) -> str | None:
    whole = int(match["whole"]) if match["whole"].isdigit() else _value(match["whole"] or "zero")
    places = "".join(str(_VALUES[word]) for word in re.findall("[a-z]+", match["places"].lower()))
    return None if whole is None else f"{whole}.{places}"


def _fraction(match: re.Match[str]) -> str | None:
    if match["bare"]:
        return f"1/{PARTS[match['bare'].lower()]}"
    count = _count(match["count"])
    if count is None or (count > 19 and not match["many"]):  # "twenty-fifth" is an ordinal
        return None
    return f"{count}/{PARTS[match['part'].lower()]}"


def _count(words: str) -> int | None:
    return 1 if words.lower() in ("a", "an") else _value(words)


def _value(text: str) -> int | None:
    """Value of the words, or None where they do not make one number ("two three")."""
    total, group, last = 0, 0, ""
    for word in re.findall("[a-z]+", text.lower()):
        if word == "and":
            continue
        if word in _LARGE:
            if not group or (total and total < _LARGE[word]):
                return None
            total, group = total + group * _LARGE[word], 0
        elif word == "hundred":
            if not 0 < group < 100 or group % 10 == 0:
                return None
            group *= 100
        else:
            value, after_ten = _VALUES[word], last in _TENS.split()
            if last == "zero" or (last and not value) or (group % 100 and not (after_ten and value < 10)):
                return None
            group += value
        last = word
    return total + group
