"""The same option of several: a letter ("B", "(B)", "option B"), its text, or both ("B) Paris").

Where gold and answer both have a letter, the letters decide. Otherwise their texts do. A letter against
a text alone cannot be compared, because a grader is not told the options, and is wrong. The numbers 1 to 9
are letters here too, since some data sets number their options.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from workers.graders.exact import key
from workers.graders.judgement import CORRECT, Judgement, short
from workers.graders.normalise import normalise

MAX_LENGTH = 2000
_LEAD = re.compile(
    r"(?:the )?(?:(?:final|correct|right|best) )*(?:answer|option|choice)(?: choice| option)?(?: is)?[: ]+",
    re.IGNORECASE,
)
_LABEL = re.compile(
    r"(?:[(\[{] ?(?P<enclosed>[A-Za-z1-9]) ?[)\]}][:.]?"
    r"|(?P<letter>[A-Za-z]|[1-9](?![ .,:]*[0-9]))(?: ?[)\]}:]|\.(?!\w)| -(?= )))(?P<text>.*)",
    re.DOTALL,
)
_ALONE = re.compile(r"[A-Za-z1-9]")
_REMARK = re.compile(r"(?P<letter>[A-Z1-9]),? (?:is|because|since|as)\b")
_ANOTHER = re.compile(
    r"(?:^|\W)(?:or|and|[/,])\s*[(\[{]?[A-Z1-9][)\].:}]"  # "B) Paris or C) London"
    r"|^\s*[(\[{,/&]\s*[A-Z1-9]\b|^\s*(?:or|and)\s+[(\[{]?[A-Z1-9]\b"  # "(B)(C)", "(B) or C"
)


@dataclass(frozen=True, slots=True)
class Option:
    """What was chosen. Example: "(b) Paris" is Option("B", "paris")"""

    letter: str | None
    text: str
    """As `exact` compares texts; empty where there is a letter alone."""


def parse(text: str) -> Option | None:
    """The option that `text` names, or None where it is empty, too long, or names several."""
    if len(text) > MAX_LENGTH:
        return None
    text = normalise(text)
    text = normalise(_LEAD.sub("", text, count=1))
    if _ALONE.fullmatch(text):
        return Option(text.upper(), "")
    if (match := _LABEL.fullmatch(text)) is not None:
        if _ANOTHER.search(match["text"]):
            return None
        return Option((match["enclosed"] or match["letter"]).upper(), key(match["text"]))
    if (match := _REMARK.match(text)) is not None:
        return Option(match["letter"], "")
    return Option(None, key(text)) if key(text) else None


@lru_cache(maxsize=1024)
def _gold(gold: str) -> Option | None:
    return parse(gold)


def grade(gold: str, answer: str) -> Judgement:
    """Correct when both name the same option. Ungradable when the gold answer names none or several."""
    wanted = _gold(gold)
    if wanted is None:
        return Judgement("ungradable", f"the gold answer {short(gold)!r} is no option")
    got = parse(answer)
    if got is None:
        return Judgement("wrong", f"{short(answer)!r} is not one option")
    same = got.letter == wanted.letter if got.letter and wanted.letter else bool(got.text) and got.text == wanted.text
    return CORRECT if same else Judgement("wrong", f"{short(answer)!r} is not {short(gold)!r}")
