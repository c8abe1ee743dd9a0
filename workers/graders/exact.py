"""Equal as text, once both sides are written the same way."""

from __future__ import annotations

import re
from functools import lru_cache

from workers.graders.judgement import CORRECT, Judgement, short
from workers.graders.normalise import normalise

_AROUND_SIGNS = re.compile(r"\s*([^\w\s])\s*")
_HALF_OF_DAY = re.compile(r"\b([AaPp])\. ?[Mm]\b\.?")
_DIGIT_AND_LETTER = re.compile(r"(?<=\d) (?=[^\W\d])")
_ARTICLE = re.compile(r"^(?:the|an?) (?=[a-z]{3})", re.IGNORECASE)
_EXPRESSION = re.compile(r"[0-9=+^_\\<>*/|]")
_WORD = re.compile(r"(?<![^\W\d_])(?<!\\)[^\W\d_]{2,}")


def key(text: str) -> str:
    """What two answers that are equal as text have in common.

    Space next to a sign means nothing ("(1, 2)"); space between words or numbers does ("1 2"). Case
    means nothing in words, and something in the letters of an expression ("2X" is not "2x").
    """
    text = _HALF_OF_DAY.sub(r"\1m", normalise(text))
    text = _DIGIT_AND_LETTER.sub("", _AROUND_SIGNS.sub(r"\1", _ARTICLE.sub("", text)))
    return _WORD.sub(lambda m: m[0].casefold(), text) if _EXPRESSION.search(text) else text.casefold()


@lru_cache(maxsize=1024)
def _gold_key(gold: str) -> str:
    return key(gold)


def grade(gold: str, answer: str) -> Judgement:
    """Correct when gold and answer agree after normalising: Unicode, case, spacing, decoration.

    Any gold that is not empty can be judged. `!` is kept, since 7! is not 7.
    """
    wanted = _gold_key(gold)
    if not wanted:
        return Judgement("ungradable", "the gold answer is empty")
    if wanted == key(answer):
        return CORRECT
    return Judgement("wrong", f"{short(answer)!r} is not {short(gold)!r}")
