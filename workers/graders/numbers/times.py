"""Times of day and ratios, which are no numbers: "3:30 PM" is "15:30", "6:4" is "3:2", and 3:30 is not 3.5."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Literal

from workers.graders.reading.normalise import normalise

MAX_LENGTH = 200
_CLOCK = re.compile(
    r"(?:(?:it(?:'s| is) |at |about |around |by )*)"
    r"(?P<hour>[0-9]{1,2})(?:[:.](?P<minute>[0-5][0-9])(?::(?P<second>[0-5][0-9]))?)? ?(?P<half>[ap]\.? ?m\b\.?)?"
    r"(?: ?(?P<clock>o'? ?clock))?(?: ?(?P<part>in the (?:morning|afternoon|evening)|at night|noon|midnight))?",
    re.IGNORECASE,
)
_NAMED = {"noon": 12 * 3600, "midday": 12 * 3600, "12 noon": 12 * 3600, "midnight": 0, "12 midnight": 0}
_MORNING = re.compile(r"a|in the morning|midnight", re.IGNORECASE)
_RATIO = re.compile(r"(?:the ratio is |ratio:? |in the ratio )?(?P<parts>{0}(?: ?(?::|\bto\b|\\colon) ?{0})+)".format(
    r"[0-9]{1,12}(?:\.[0-9]{1,12})?(?: ?/ ?[0-9]{1,12})?"), re.IGNORECASE)  # fmt: skip
_COLON = re.compile(r" ?(?::|\bto\b|\\colon) ?", re.IGNORECASE)


Half = Literal["known", "likely", "unknown"]
"""How surely a text says the half of the day: "3:30 PM", 15:30 and noon; 03:30; 3:30."""
Time = tuple[int, Half]
"""(seconds since midnight, how surely their half of the day is said)"""


def clock(text: str) -> Time | None:
    """A time of day, or None where the text is none."""
    if len(text) > MAX_LENGTH:
        return None
    text = normalise(text)
    if text.lower() in _NAMED:
        return _NAMED[text.lower()], "known"
    match = _CLOCK.fullmatch(text)
    if match is None or int(match["hour"]) > 24:
        return None
    said = match["half"] or match["part"]
    if not (match["minute"] or said or match["clock"]) or ("." in text[:3] and not said):
        return None
    hour = int(match["hour"])
    if said and hour <= 12:
        hour = hour % 12 + (0 if _MORNING.match(said) else 12)
    half: Half = "known" if said or hour > 12 else "likely" if match["hour"].startswith("0") else "unknown"
    return hour * 3600 + 60 * int(match["minute"] or 0) + int(match["second"] or 0), half


def same(one: Time, other: Time) -> bool | None:
    """Whether two times are one; None where a half of the day is not said, and would decide."""
    halves = {one[1], other[1]}
    if one[0] == other[0]:
        return True if halves != {"known", "unknown"} else None
    if one[1] != other[1] and (one[0] - other[0]) % (12 * 3600) == 0:
        return None
    return False


def ratio(text: str) -> tuple[Fraction, ...] | None:
    """The parts of a ratio, divided by the first that is not 0; None for what is none. "6:4:1" is (1, 2/3, 1/6)."""
    if len(text) > MAX_LENGTH or (match := _RATIO.fullmatch(normalise(text))) is None:
        return None
    try:
        parts = [Fraction(part.replace(" ", "")) for part in _COLON.split(match["parts"])]
    except (ValueError, ZeroDivisionError):
        return None
    first = next((part for part in parts if part), None)
    return None if first is None else tuple(part / first for part in parts)
