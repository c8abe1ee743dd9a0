"""Numbers that are written out: "seven", "twenty-five", "three hundred and six", "two thirds", "a dozen"."""

from __future__ import annotations

import re

_ONES = """
zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen
eighteen nineteen
"""
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
_VALUES = {word: value for value, word in enumerate(_ONES.split())}
_VALUES |= {word: 20 + 10 * value for value, word in enumerate(_TENS.split())}
_LARGE = {"thousand": 10**3, "million": 10**6, "billion": 10**9}
_PARTS = "half third quarter fifth sixth seventh eighth ninth tenth"
_DENOMINATORS = {word: value for value, word in enumerate(_PARTS.split(), 2)} | {"halve": 2, "fourth": 4}
_WORD = "|".join([*_VALUES, "hundred", *_LARGE])
_LEADING = re.compile(rf"(?:{_WORD})(?:(?:[ -]| and )(?:{_WORD}))*(?![A-Za-z])(?!-[A-Za-z])", re.IGNORECASE)

_FRACTION = re.compile(
    rf"(?:(?P<bare>half|quarter)"
    rf"|(?P<count>an?|{'|'.join(_ONES.split()[1:10])})[ -](?P<part>{'|'.join(_DENOMINATORS)})s?)"
    r"(?![A-Za-z-])",
    re.IGNORECASE,
)
_ONE = re.compile(r"an?(?= (?:dozen|hundred|thousand|million|billion|trillion)\b)", re.IGNORECASE)


def digits(text: str) -> str:
    """`text` with the number that it begins with in digits; unchanged where it begins with none."""
    if (fraction := _FRACTION.match(text)) is not None:
        count = _VALUES.get((fraction["count"] or "").lower(), 1)
        return f"{count}/{_DENOMINATORS[(fraction['part'] or fraction['bare']).lower()]}{text[fraction.end() :]}"
    text = _ONE.sub("1", text, count=1) if _ONE.match(text) else text
    match = _LEADING.match(text)
    value = _value(re.findall("[a-z]+", match[0].lower())) if match else None
    return text if match is None or value is None else f"{value}{text[match.end() :]}"


def _value(words: list[str]) -> int | None:
    """Value of the words, or None where they do not make one number ("two three")."""
    total, group, last = 0, 0, ""
    for word in words:
        if word == "and":
            continue
        if word in _LARGE:
            if not group or (total and total < _LARGE[word]):
                return None
            total, group = total + group * _LARGE[word], 0
        elif word == "hundred":
            if not 0 < group < 10:
                return None
            group *= 100
        else:
            value, after_ten = _VALUES[word], last in _TENS.split()
            if last == "zero" or (last and not value) or (group % 100 and not (after_ten and value < 10)):
                return None
            group += value
        last = word
    return total + group
