"""Equal as text, once both sides are written the same way."""

from __future__ import annotations

import re

from workers.graders.judgement import CORRECT, Judgement, short
from workers.graders.normalise import normalise

_AROUND_SIGNS = re.compile(r"\s*([^\w\s])\s*")


def _key(text: str) -> str:
    # Space next to a sign means nothing ("(1, 2)"); space between words or numbers does ("1 2").
    return _AROUND_SIGNS.sub(r"\1", normalise(text)).casefold()


def grade(gold: str, answer: str) -> Judgement:
    """Correct when gold and answer agree after normalising: Unicode, case, spacing, decoration.

    Any gold that is not empty can be judged. `!` is kept, since 7! is not 7.
    """
    wanted = _key(gold)
    if not wanted:
        return Judgement("ungradable", "the gold answer is empty")
    if wanted == _key(answer):
        return CORRECT
    return Judgement("wrong", f"{short(answer)!r} is not {short(gold)!r}")
