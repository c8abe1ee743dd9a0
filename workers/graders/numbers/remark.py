"""What is said about a number behind it: a unit, "(total)", "or 0.75", "so 84 in total", "is wrong"."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

from workers.graders.numbers import arithmetic, lead, tail, units
from workers.graders.numbers.amount import converted
from workers.graders.numbers.numeral import numeral, without_cycles
from workers.graders.numbers.quantity import DENIED, SEVERAL, UNREAD, Quantity, Reading, Void, agree, quantity_of
from workers.graders.numbers.words import ANY, digits

Again = Callable[[str], Reading]
"""How a number within a remark is read."""
DEPTH = 4
"""Remarks within remarks that are looked into."""
_ONE_OF = r"an? (?=(?:dozen|hundred|thousand|[a-z]{1,6}illion|googol|half|third|quarter)\b)"
START = re.compile(
    rf"(?<![\w^_.\\])(?:(?:negative |minus )?(?:(?:{units.MONEY}) ?)?[-+]? ?(?:(?:{units.MONEY}) ?)?\.?[0-9]"
    rf"|[-+]?\\frac"
    rf"|(?:negative |minus )?(?:{_ONE_OF})?{ANY.pattern})",
    re.IGNORECASE,
)
_WHEN = re.compile(r" (?:in|by|since|until|as of) (?:the year )?(?:19|20)[0-9]{2}\b(?! ?[%/])")
_REMARK = re.compile(
    r"\s*(?P<sign>[,;(]|\.\s+(?=(?-i:[A-Z]))|[=≈]|(?<![\^{])[-–]{1,2} ?(?=[$€£]?[0-9])|\+"
    r"|(?<= )[-–]{1,2} (?=(?-i:that|this|the answer|it|done|our)\b)|!|:(?=\s|\Z))\s*"
    r"|\s+(?P<word>because|since|due to|so|thus|therefore|hence|which|giving|making|totall?ing|i\.e\.,?|that is"
    r"|or|aka|namely"
    r"|equals|is|are|was|were|(?:would|will|should|must) be|can(?:not|'t| not)|(?:is|was|are|could|wo|does|do"
    r"|would)n't|if|unless|provided|assuming|given|not|never|wrong|incorrect|false|excluded|and|to|rather"
    r"|instead|but|when|where|while)(?!\w)\s*",
    re.IGNORECASE,
)
_DENIED_BEHIND = re.compile(
    r"(?:not(?! sure)|never|wrong|incorrect|false|excluded|impossible|ruled out|too|n't)\b", re.IGNORECASE
)
_MORE = re.compile(
    r"(?:more|less|fewer|greater|higher|lower|above|below|over|under|larger|smaller|up|upwards?|beyond|bigger"
    r"|so many)\b",
    re.IGNORECASE,
)
_ROUGHLY = re.compile(r"(?:or )?(?:about|approximately|approx\.?|roughly|around|rounded|~|≈)", re.IGNORECASE)
_TOTAL = re.compile(r"(?:altogether|in total|total|in all|overall|combined|all together)[\s.!)]*\Z", re.IGNORECASE)
"""What says that the last of several numbers is the answer: "42 per side, 84 altogether"."""
_REASON = frozenset(["because", "since", "due to", "given", "where", "while"])
_THEREFORE = frozenset(["so", "thus", "therefore", "hence", "which", "giving", "making", "totaling", "totalling"])
_AGAIN = frozenset(["i.e.", "i.e.,", "that is", "aka", "namely", "or", "equals", "=", "≈"])


def remarked(quantity: Quantity, rest: str, again: Again, depth: int = DEPTH) -> Reading:
    """`quantity` with its unit, once what is said about it is understood."""
    rest = _WHEN.sub("", rest, count=1)
    remark = _REMARK.search(rest)
    head = rest if remark is None else rest[: remark.start()]
    if tail.below_zero(head):
        return replace(quantity, figure=-quantity.figure, unit=None)
    counts, unit = tail.unit_of(head)
    if not counts:
        return UNREAD
    money = units.is_currency(quantity.unit)
    if (base := tail.base_of(head)) is not None and not money:
        quantity = replace(quantity, also=(*quantity.also, (quantity.figure, base)))
    if not quantity.percent and not money and not (quantity.also and quantity.unit):
        quantity = replace(quantity, unit=unit, counted=unit is None and bool(head.strip()))
    elif money and unit is not None and units.is_currency(unit) and not units.may_be_same(quantity.unit, unit):
        return UNREAD
    if remark is None:
        return quantity
    return _judged(quantity, (remark["sign"] or remark["word"]).lower().strip(), rest[remark.end() :], again, depth - 1)


def _judged(quantity: Quantity, sign: str, rest: str, again: Again, depth: int) -> Reading:
    """`quantity`, or what becomes of it by a remark that begins with `sign`."""
    if depth <= 0:
        return UNREAD
    if sign in (",", ";", ".", ":", "and") and (more := _REMARK.match(f" {rest}")) is not None and more["word"]:
        return _judged(quantity, more["word"].lower(), f" {rest}"[more.end() :], again, depth - 1)
    if sign == "(":
        return _bracketed(quantity, rest, again, depth)
    if sign in _REASON:
        return quantity
    if sign in _THEREFORE:
        return again(rest) if START.search(rest) else _harmless(quantity, rest)
    if sign in _AGAIN:
        return _said_again(quantity, sign, rest, again)
    if sign.startswith("can") or sign.endswith("n't"):
        return DENIED
    if sign in ("is", "are", "was", "were") or sign.endswith(" be"):
        return DENIED if _DENIED_BEHIND.match(rest) else _harmless(quantity, rest)
    if sign in ("not", "never", "wrong", "incorrect", "false", "excluded", "rather", "instead", "but"):
        return _denied(quantity, sign, rest)
    if sign == "+" and not rest.strip():
        return Void("is a bound", denied=True)
    if sign == "and" and _MORE.match(rest):
        return Void("is a bound", denied=True)
    if sign in (",", ";", "and", "to", "-", "–", "--") and (other := number_first(rest)) is not None:
        if sign in (",", ";") and _TOTAL.search(rest):
            return again(rest)
        if other.figure == quantity.figure:
            return quantity if sign == "," and rest[:1].isalpha() else UNREAD  # "5, five"
        if sign == "," and _ROUGHLY.match(rest):
            return _said_again(quantity, "≈", rest, again)
        return SEVERAL
    if sign in (",", ".", ":", "and", "to", "-", "--"):
        return _harmless(quantity, rest)
    return UNREAD


def _denied(quantity: Quantity, sign: str, rest: str) -> Reading:
    """ "7, not 8" is 7, "7 is not it" denies it."""
    other = re.sub(r"^(?:than|of) ", "", rest) if sign in ("rather", "instead") else re.sub(r"^not ", "", rest)
    if (sign in ("not", "rather", "instead") or other != rest) and (found := number_first(other)) is not None:
        return quantity if found.figure != quantity.figure else UNREAD
    return DENIED if sign not in ("rather", "instead", "but") else UNREAD


def number_first(text: str) -> Quantity | None:
    """The quantity that a remark is, after a word such as "or"; None where it is something else."""
    text = re.sub(r"^(?:and|or|about|also|the) ", "", text.strip(" $"))
    number = numeral(without_cycles(digits(text)))
    return None if number is None else quantity_of(number)


def _said_again(quantity: Quantity, sign: str, rest: str, again: Again) -> Reading:
    """ "3/4 or 0.75" says one thing twice; "5 or 6" two things."""
    if sign == "or" and _MORE.match(rest):
        return Void("is a bound", denied=True)
    if sign == "or" and re.match(r"so\b", rest, re.IGNORECASE):
        return _harmless(quantity, rest[2:])
    other = again(rest)
    if isinstance(other, Quantity):
        roughly = sign == "≈" or _ROUGHLY.match(rest) is not None
        if agree(quantity, other, roughly) or converted(quantity, other):
            return replace(quantity, also=(*quantity.also, (other.figure, other.unit)))
        same_unit = units.may_be_same(quantity.unit, other.unit)
        return SEVERAL if sign == "or" and same_unit and not roughly else UNREAD
    return other if other.denied else UNREAD if sign == "or" or START.search(rest) else _harmless(quantity, rest)


def _bracketed(quantity: Quantity, rest: str, again: Again, depth: int) -> Reading:
    inner, _, after = rest.partition(")")
    inner = inner.strip().lstrip("=≈ ")
    denied = re.match("(?:and |but )?(?:not|never) ", inner)
    if denied is not None and number_first(inner[denied.end() :]) is not None:
        judged = _denied(quantity, "not", inner[denied.end() :])
        return remarked(quantity, after, again, depth) if judged is quantity and after.strip(" .") else judged
    if START.search(inner):
        value = arithmetic.value(inner)
        other = Quantity(value) if value is not None else again(re.sub(r"^(?:or|i\.e\.,?|that is,?) ", "", inner))
        if isinstance(other, Void):
            return UNREAD
        if not agree(quantity, other, _ROUGHLY.match(inner) is not None) and not converted(quantity, other):
            return UNREAD
        if other.figure != quantity.figure:
            quantity = replace(quantity, also=(*quantity.also, (other.figure, other.unit)))
    else:
        counts, unit = tail.unit_of(f" {inner}")
        if not counts or re.match("if|when|unless", inner):
            return DENIED if _DENIED_BEHIND.match(inner) else UNREAD
        quantity = replace(quantity, unit=quantity.unit or unit)
    return remarked(quantity, after, again, depth) if after.strip(" .") else quantity


def _harmless(quantity: Quantity, words: str) -> Reading:
    """`quantity`, if the words are no more than a remark."""
    if not words.strip(" ."):
        return quantity
    if START.search(_COMPOUND_WORD.sub("", words)) or not _REMARK_WORDS.fullmatch(words):
        return UNREAD
    found = set(re.findall(r"[a-z]+(?:'[a-z]+)?", lead.MONTH.sub("", words).lower()))
    doubt = found & (_DOUBTS | lead.DENYING)
    return UNREAD if doubt or any(word.endswith("n't") for word in found) else quantity


_COMPOUND_WORD = re.compile(r"\b[A-Za-z]+-[A-Za-z-]+|\b(?:[Tt]he |[Ee]ach |[Ee]very |[Nn]o )one\b")
_REMARK_WORDS = re.compile(r"[^\W\d_][^\d<>=+*^]{0,400}")
_DOUBT_WORDS = """
most least minimum maximum ish something bit change maybe perhaps possibly probably likely might may if unless except
guess think unsure assuming provided than too squared cubed factorial or plus minus times contradiction contradicts
contradictory absurd impossible fails
"""
_DOUBTS = frozenset(_DOUBT_WORDS.split())
