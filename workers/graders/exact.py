"""Equal as text, once both sides are written the same way."""

from __future__ import annotations

import re
from functools import lru_cache

from workers.graders.judgement import CORRECT, Judgement, short
from workers.graders.reading.normalise import normalise

_AROUND_SIGNS = re.compile(r"\s*([^\w\s])\s*")
_HALF_OF_DAY = re.compile(r"\b([AaPp])\. ?[Mm]\b\.?")
_DIGIT_AND_LETTER = re.compile(r"(?<=\d) (?=[^\W\d])")
_ARTICLE = re.compile(r"^(?:the|an?) (?=[a-z]{3})", re.IGNORECASE)
_NAMED_WITH_ARTICLE = re.compile(
    r"^(?:(?:The|An?) [A-Z]|A (?:minor|major|flat|sharp|level|levels|team|side|positive|negative)\b)"
)
"""Where the article of a gold answer is a part of it: "The Who", "A minor"."""
_FIRST_ARTICLE = re.compile(r"^(?:the|an?)(?= )", re.IGNORECASE)
_SPACED_SIGN = re.compile(r"(?<=[0-9]) ([+-])(?=[0-9.])")
"""Between two numbers rather than in a difference: "1 -1" is not "1-1"."""
_EXPRESSION = re.compile(r"[0-9=^_\\<>*/|]|\+(?=[\w(\\])")
_WORD = re.compile(r"(?<![^\W\d_])(?<!\\)[^\W\d_]{2,}")
_LETTERS = re.compile(r"[^\W\d_]+")
_COLOUR = re.compile(r"#(?:[0-9a-fA-F]{3,4}){1,2}")
_SHORT = "AM AN AS AT BE BY DO GO HE HI IF IN IS IT ME MY NO OF OH OK ON OR PM SO TO UP US WE"
_SHORT_WORDS = frozenset(_SHORT.split())


def key(text: str) -> str:
    """What two answers that are equal as text have in common.

    Space next to a sign means nothing ("(1, 2)"); space between words or numbers does ("1 2"). Case
    means nothing in words, and something in the letters of an expression ("2X" is not "2x"), in units ("MW" is not
    "mW") and where a capital is the second of two letters ("CO" is not "Co", "pH" not "Ph").
    """
    return _key(_ARTICLE.sub("", _without_half_of_day(normalise(text))))


def _without_half_of_day(text: str) -> str:
    return _HALF_OF_DAY.sub(r"\1m", text)


def _key(text: str) -> str:
    if text.isdigit():
        return text
    if _COLOUR.fullmatch(text):
        return text.lower()
    text = _SPACED_SIGN.sub("\x01\\1", text)
    text = _DIGIT_AND_LETTER.sub("", _AROUND_SIGNS.sub(r"\1", text))
    if _EXPRESSION.search(text):
        return _WORD.sub(lambda match: _folded(match[0], units=True), text)
    if text.isupper() and len(text) > 2:  # all of it is in capitals, which then say nothing
        return text.casefold()
    return _LETTERS.sub(lambda match: _folded(match[0], units=False), text)


def _folded(word: str, units: bool) -> str:
    """`word` without its case, unless that means something."""
    if len(word) == 2 and word[1].isupper() and word not in _SHORT_WORDS:
        return word
    if units and not word.islower() and not word.isupper() and not word.istitle():
        return word
    return word.casefold()


@lru_cache(maxsize=1024)
def _gold_key(gold: str) -> tuple[str, str]:
    """The key of a gold answer, and the article before it if that belongs to it; "" for none."""
    text = normalise(gold)
    return key(gold), article(text) if _NAMED_WITH_ARTICLE.match(text) else ""


def article(text: str) -> str:
    """The article that `text` begins with, in small letters; "" for none."""
    return "" if (match := _FIRST_ARTICLE.match(normalise(text))) is None else match[0].lower()


def grade(gold: str, answer: str) -> Judgement:
    """Correct when gold and answer agree after normalising: Unicode, case, spacing, decoration.

    Any gold that is not empty can be judged. `!` is kept, since 7! is not 7. A "wrong" is weak: it only says that the
    texts differ.
    """
    wanted, named_with = _gold_key(gold)
    if not wanted:
        return Judgement("ungradable", "the gold answer is empty")
    if wanted == key(answer) and (not named_with or named_with == article(answer)):
        return CORRECT
    return Judgement("wrong", f"{short(answer)!r} is not {short(gold)!r}", weak=True)
