"""The mathematics that a sentence states: "The solution is $x > 5$." says x > 5."""

from __future__ import annotations

import re

MAX_LENGTH = 500
_HEDGES = """
half third thirds quarter quarters fourth fourths fifth fifths sixth tenth tenths percent percentage
not no never least most more less fewer between either or maybe unless nearly almost twice double triple
negative minus plus times sin cos tan sec csc cot log ln exp sqrt pi gcd lcm mod root versus vs except without
zero one two three four five six seven eight nine ten eleven twelve twenty thirty forty fifty hundred thousand
"""
_HEDGING = frozenset(_HEDGES.split())
"""Words that may change an expression wherever they stand in its sentence."""
_BEFORE_WORDS = """
over under above below than from to by past until till before after step page
"""
_BEFORE = frozenset(_BEFORE_WORDS.split())
"""Words right before an expression that make it another one's."""
_SPAN = re.compile(r"\$\$([^$]+)\$\$|\$([^$]+)\$|\\\((.+?)\\\)|\\\[(.+?)\\\]", re.DOTALL)
_NAME = re.compile(r"\s*\\?[A-Za-z]+'*(?:_\{?\w+\}?)?\s*(?:\([A-Za-z](?:,\s*[A-Za-z])*\))?\s*|\s*\([a-z],\s*[a-z]\)\s*")
"""A span that only names something: x, f(x), ABC, (x, y)."""
_WORDS = re.compile(r"(?=.*[A-Za-z]{2})[A-Za-z\s.,:;!?'’\"()-]*", re.DOTALL)
_DENYING_WORDS = """
greater smaller larger bigger cannot t wrong incorrect undefined none false neither nor impossible contradiction
outside excludes excluding excluded squared cubed factorial million billion trillion dozen
"""
_DENYING = frozenset(_DENYING_WORDS.split())
"""Words that may change an expression, or deny it; the t is that of "isn't"."""
_LISTED = re.compile(r"(?:\$|\\[)\]])\s*(?:,|,?\s+and)\s*(?:\$|\\[(\[])")
"""Between two spans of a list: "$x$ and $x+1$", "$x$, $x+1$"."""
_PART_OF = re.compile(r"\bthe (?:[a-z]+ ){1,3}of\W*\Z", re.IGNORECASE)
"""Before an expression that is only spoken of: "the square of $x$"."""


def mathematics_in(text: str) -> str:
    """The one expression between mathematical delimiters that a sentence states.

    "" where there is none, or two, or a word that may change it. Names, such as $x$ and $f(x)$, do not count beside
    another expression, unless they are listed with it.
    """
    if len(text) > MAX_LENGTH:
        return ""
    spans = [next(filter(None, groups)) for groups in _SPAN.findall(text)]
    if not _LISTED.search(text):
        spans = [span for span in spans if not _NAME.fullmatch(span)] or spans
    words = _SPAN.sub(" ", text)
    if len({span.strip() for span in spans}) != 1 or not _WORDS.fullmatch(words):
        return ""
    if spans[0][:1].isspace() != spans[0][-1:].isspace():  # "$5 and $7"
        return ""
    if _PART_OF.search(text[: text.index(spans[0])][-100:]):
        return ""
    changing = (_HEDGING | _BEFORE | _DENYING) & set(re.findall("[a-z]+", words.lower()))
    return "" if changing else spans[0]
