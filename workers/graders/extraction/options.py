"""Options of a multiple-choice problem that a text declares the answer without that word or mark.

"The correct option is B", "option (C) is correct", "D is the correct answer", "my choice is D". Only a capital letter
is an option here. Only a text's end is looked at.
"""

from __future__ import annotations

import re

_LETTER = r"(?:\*\*|[$\"'\\]|\\text(?:bf)?\{|\\mathbf\{){0,2}\(?(?:\*\*)?(?P<name>[A-Z])(?![\w'’])"
_NOUN = r"(?:option|choice|alternative|letter|response)"
_SAYS = re.compile(  # what follows the letter belongs to it: "The correct option is (D) 42."
    rf"\b(?i:(?:correct|right|best|true|appropriate|suitable|chosen|final|my|our)[ ]{_NOUN}"
    r"|(?:my|our)[ ](?:pick|selection)"
    r"|the[ ]solution)"
    rf"(?:\*\*)?[ ]?(?:[:=](?:\*\*)?|(?:is|must be|would be|should be|will be)(?:[ ](?:thus|therefore))?[ ]?:?)"
    rf"[ \n]{{0,3}}(?:{_NOUN}[ ])?"
    rf"(?=(?P<said>{_LETTER}))"
)
_IS_RIGHT = re.compile(
    rf"(?:(?P<noun>[Oo]ption|[Cc]hoice|[Aa]lternative|[Ll]etter|[Aa]nswer)[ ]|(?P<so>\b[Ss]o|\b[Tt]hus|\b[Hh]ence"
    rf"|\b[Tt]herefore),?[ ]|^[ \t*]{{0,4}}|[.!][ ]){_LETTER}[)*}}$]{{0,4}}[ ](?:is|must be|would be|has to be)"
    rf"[ ](?:therefore[ ]|thus[ ])?(?:the[ ]|my[ ])?(?:only[ ])?"
    rf"(?:(?:correct|right|best|true)(?:[ ](?:{_NOUN}|answer|one))?|answer|choice)"
    r"(?=[*_]{0,3}(?:[.!][*_]{0,3})?(?:\s|\Z)"
    r"(?!(?:if|only|when|about|in|for|but|and|or|that|to|as|except|unless)\b)|,? (?:because|since)\b)",
    re.MULTILINE,
)
_CONCLUDES = re.compile(r"\b(?:so|thus|hence|therefore|in conclusion|overall|finally)\b[^.!?\n]{0,40}\Z", re.IGNORECASE)
_DOUBTS = re.compile(
    r"\b(?:if|whether|assum\w{1,4}|suppos\w{1,4}|not|isn't|maybe|perhaps|what|which|unless)\b[^.!?\n]{0,60}\Z",
    re.IGNORECASE,
)
MOST_CHARACTERS = 4000
"""Characters from the end that are looked at."""
MOST = 20
"""Declarations from the end that are looked at."""


def declared_option(text: str) -> tuple[int, str, int] | None:
    """Where the last declaration begins, the letters it names, and where what follows the letter's mark begins.

    The third is 0 where the letters are all: "option B is correct". Several options that are each said to be correct
    are named all, since either the problem asks for that or the text takes back what it said: "A, C".
    """
    first = max(0, len(text) - MOST_CHARACTERS)
    places = [*_SAYS.finditer(text, first), *_IS_RIGHT.finditer(text, first)]
    found = sorted(places, key=lambda one: one.start())[-MOST:]
    found = [one for one in found if not _DOUBTS.search(_before(text, one.start()))]
    if not found:
        return None
    last = found[-1]
    if last.re is _SAYS:
        return last.start(), last["name"], last.end()
    names = [last["name"]]
    if not last["so"] and not _CONCLUDES.search(_before(text, last.start())):
        names = list(dict.fromkeys(one["name"] for one in found if one.re is _IS_RIGHT))
    return last.start(), ", ".join(names), 0


def _before(text: str, start: int) -> str:
    return text[max(0, start - 80) : start]
