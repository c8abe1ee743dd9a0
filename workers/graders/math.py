"""Equal as mathematics: as text, as numbers, or as what both are: expressions, equations, sets, intervals, tuples.

A text is brought into one spelling (spelling.py), its kind is found by its form (kind_reader.py), and kinds that may
be compared are (kind_compare.py); math-verify's LaTeX grammar reads the expressions in them (sympy_reader.py), and
their values at a few points decide (equality.py). Little bounds the time or memory of SymPy from within, so this runs
only in a process with limits of its own. The files named are in `mathematics`.
"""

from __future__ import annotations

import logging
import re
from dataclasses import replace
from functools import lru_cache

from workers.graders import choice, exact, number
from workers.graders.judgement import CORRECT, Judgement, short, unreadable
from workers.graders.mathematics.equality import Outcome, expression
from workers.graders.mathematics.evaluation import TooLarge
from workers.graders.mathematics.kind_compare import compare
from workers.graders.mathematics.kind_reader import read
from workers.graders.mathematics.kinds import Kind, Scalar, Words, expressions, title
from workers.graders.mathematics.said import SAID_IN_WORDS
from workers.graders.mathematics.scalar_compare import misrounded
from workers.graders.mathematics.sentence import mathematics_in
from workers.graders.mathematics.spelling import spelled
from workers.graders.mathematics.splitting import split_relation
from workers.graders.numbers.quantity import CONTRADICTORY

MAX_LENGTH = 1000
"""Longest text, in characters, that is read as mathematics."""

_OPTION = re.compile(r"\(?([A-J])\)?")
_OPTION_AND_TEXT = re.compile(
    r"\(([A-J])\)\s+(?P<text>(?:-?[0-9.]|\\(?:frac|sqrt|pi)|(?!and\b|or\b)[A-Za-z][a-z]{2})(?!.*\([A-J]\)).*)"
)
"""An option with its letter: "(D) 12"."""
_MARKED_OPTION = re.compile(
    r"\$?\\(?:text|textbf|textrm|mathrm|mathbf)\s*\{\s*\(([A-J])\)[ .:~]*\}[ ~]*(?:\\[ ,;:]|\\q?quad(?![a-z]))*"
    r" *(?P<text>(?:-?[0-9.]|(?!and\b|or\b)[A-Za-z]|\\(?:frac|dfrac|sqrt|pi|text|\$))(?!.*\([A-J]\)).*)"
)
"""As data write it: "\\textbf{(D)}\\ x^2"."""
_SOME_OPTION = re.compile(r"(?i:(?:option|choice|answer)\s*(?:is)?:?\s*)?\(?([A-Z])(?:\)|[.:]?$|[.:] )")
_OPTIONS = re.compile(r"\(?[A-Z]\)?(?:\s*(?:,|;|&|and|(?<=\))(?=\()|\s)\s*(?:and\s*)?\(?[A-Z]\)?)+")
_TOGETHER = re.compile(r"[A-J]{2,6}")
_STATES = re.compile(
    r"(?P<lead>[A-Za-z][A-Za-z,' ]{1,80}?)\s+(?:is|are|equals|be)(?![a-z]):?\s+(?P<rest>\S.*)", re.DOTALL
)
_LABELLED = re.compile(r"(?P<lead>[A-Za-z][A-Za-z,' ()-]{2,80}):\s*(?P<rest>[^\s:].*)", re.DOTALL)
"""A label that says what follows: "Solution set: ..."."""
_CHANGING_WORDS = "except excluding without half twice double square root least most more less than or and over"
_CHANGING = frozenset(_CHANGING_WORDS.split())
_LEADING_WORDS = """
the a an so thus hence therefore then we get have find that final answer result solution solutions value values set
interval range domain point points coordinates pair equation line function expression simplified form roots root zeros
zero matrix vector ratio probability area volume length distance total inequality required desired correct our it this
given of for in to system general exact all possible real complex sum product and it which number angle side graph plane
"""
_LEADING = frozenset(_LEADING_WORDS.split())
_PREDICATE = re.compile(
    r"(?:(?:[a-z]+\W+){1,8}?(?:is|are|was|were|(?:will|would|must|should) be|falls on)\s+)?"
    r"(?:(?:on|in|at) )?(?P<rest>.+)",
    re.IGNORECASE,
)
_REFUSAL = re.compile(
    r"\b(?:(?:do|does|did|could)(?:n['’]t| not)|can(?:['’]t| ?not)|unable to|not able to|impossible to)\s+(?:be\s+)?"
    r"(?:know|known|tell|say|solved?|determined?|answer(?:ed)?|find|found|computed?|calculated?|figured?)\b"
    r"|\b(?:no idea|give up|not sure|not certain|I refuse|not enough information|insufficient information)\b",
    re.IGNORECASE,
)
_DENIED = re.compile(
    r"(?:[A-Za-z]+ ){0,6}(?:(?:is|are|was|were)(?: not|n['’]t)|can(?:not|['’]t) be|is never)"
    r" (?:equal to |given by )?\$[^$]{1,200}\$\.?",
    re.IGNORECASE,
)
"""A sentence that says what the answer is not, and nothing else."""
_NONE = re.compile(r"none", re.IGNORECASE)
_DIGITS = re.compile(r"[0-9]+")
_PLAIN_SET = re.compile(r"\\(?:mathbf|boldsymbol|bm|bf)(?![A-Za-z])\s*\{?\s*([RZQNC])\b\s*\}?|\A([RZQNC])\Z")
_LETTERS = re.compile(r"(?:[^\W\d_]|\*)+")
_DENIALS = re.compile(r"\b(?:not|no|never|neither|nor|none|cannot|\w+n't|false|wrong|incorrect)\b", re.IGNORECASE)
_SEVERAL_TEXTS = re.compile(r"\b(?:and|or)\b|[,;/&]")
_WARM_UP = (
    ("x^2", "\\frac{1}{x}"),
    ("(1,2)", "[1,2]"),
    ("\\{1,2\\}", "1, 3"),
    ("x=1", "1<x<2"),
    ("x^2+y=3", "y=3-x^2"),
    ("\\begin{pmatrix}1\\\\2\\end{pmatrix}", "\\begin{pmatrix}1\\\\3\\end{pmatrix}"),
    ("\\sqrt{2}", "1.5"),
    ("\\sin x+\\log_2 3", "\\pi e^{-2}"),
    ("2x=4", "x+y=3"),
    ("1<x<2", "x^2<3"),
)


@lru_cache(maxsize=1024)
def _gold(gold: str) -> Kind | None:
    """The kind of the gold answer; None where it is not read in all its parts."""
    kind = _kind(gold) if len(gold) <= MAX_LENGTH else None
    return kind if kind is not None and all(map(_is_read, expressions(kind))) else None


def _is_read(latex: str) -> bool:
    return number.parse(latex) is not None or expression(latex) is not None


def _kind(text: str) -> Kind | None:
    try:
        return read(text)
    except RecursionError:
        return None


def grade(gold: str, answer: str) -> Judgement:
    """Correct when the two are equal as text, as numbers, or as the kind of mathematics that the gold answer is.

    Wrong when both were read and differ. A gold answer in prose is compared as text. An answer that is not read, or
    not as something that can be compared with the gold answer's kind, is unreadable. Time and memory are unbounded:
    call this only where both are limited from outside.
    """
    text = exact.grade(gold, answer)
    if text.verdict == "correct":
        return CORRECT
    numeric, settled = number.settle(gold, answer)
    if settled:
        return numeric
    if len(gold) > MAX_LENGTH:
        return Judgement("wrong", f"{short(answer)!r} is not {short(gold)!r}")
    if (told := _told_apart(gold, answer)) is not None:
        return told
    judgement = _judged(gold, _gold(gold), answer)
    # What the number's grader calls wrong is: several values, a refusal, a denial.
    return numeric if judgement.unreadable and numeric.verdict == "wrong" else judgement


def _told_apart(gold: str, answer: str) -> Judgement | None:
    """The judgement on texts that are equal but for case or article, which `exact` found to mean something; else None.

    Letters alone are a text: "CO" is not "Co". With a star they may be a text or a product: "a* b". "Who" for "The Who"
    may leave out what means nothing.
    """
    if exact.key(gold) == exact.key(answer):
        if exact.article(answer):
            return Judgement("wrong", f"{short(answer)!r} is not {short(gold)!r}")
        return unreadable(f"{short(answer)!r} is {short(gold)!r} without its article")
    one, other = ("".join(side.split()) for side in (gold, answer))
    if one == other or one.casefold() != other.casefold() or not _LETTERS.fullmatch(one) or len(one) < 2:
        return None
    if "*" in one:
        return unreadable(f"{short(answer)!r} has letters of another case than {short(gold)!r}")
    return Judgement("wrong", f"{short(answer)!r} is not {short(gold)!r}")


def _judged(gold: str, wanted: Kind | None, answer: str) -> Judgement:
    if len(answer) > MAX_LENGTH:
        return unreadable(f"{len(answer)} characters are too long to be read as mathematics")
    again, settled = number.settle(spelled(gold), spelled(answer))
    if settled:
        return again
    if (chosen := _options(gold, answer)) is not None:
        return chosen
    if isinstance(wanted, Words):
        return CORRECT if wanted in SAID_IN_WORDS and wanted == _kind(answer) else _text(gold, answer)
    if wanted is None:
        return Judgement("ungradable", f"the gold answer {short(gold)!r} is not read as mathematics", gold_unread=True)
    got = _answer(_PLAIN_SET.sub(r"\\mathbb{\1\2}", answer) if "\\mathbb" in spelled(gold) else answer)
    if (got is None or isinstance(got, Words)) and (_REFUSAL.search(answer) or _DENIED.fullmatch(answer)):
        return Judgement("wrong", f"{short(answer)!r} is no answer")
    if got is None:
        return unreadable(f"{short(answer)!r} is not read as mathematics")
    if isinstance(got, Words) and exact.key(gold).replace(" ", "").isalpha():
        return _text(gold, answer)  # "no solution" is a set and a text
    if isinstance(got, Words):
        return unreadable(f"{short(answer)!r} is prose")
    return _compared(gold, wanted, answer, got)


def _compared(gold: str, wanted: Kind, answer: str, got: Kind) -> Judgement:
    try:
        outcome = compare(wanted, got)
    except TooLarge:
        return Judgement("ungradable", f"{short(answer)!r} or {short(gold)!r} is too large to be computed", failed=True)
    if "\\approx" in (latex := spelled(answer)) and outcome is not Outcome.EQUAL:
        outcome = _rounded(wanted, latex, outcome)
    if outcome is Outcome.EQUAL:
        return unreadable(f"{short(answer)!r} {CONTRADICTORY}") if misrounded(latex) else CORRECT
    titles = title(wanted), title(got)
    if outcome is Outcome.UNCLEAR:
        where = f", {titles[1]}, is not read as {titles[0]}" if titles[0] != titles[1] else " is not compared with it"
        return unreadable(f"{short(answer)!r}{where}")
    if titles[0] != titles[1] and any(_NONE.fullmatch(latex) and other == "0" for latex, other in _both(gold, answer)):
        return unreadable(f"{short(answer)!r} may be {short(gold)!r}: none of something, or nothing at all")
    if titles[0] != titles[1]:
        return Judgement("wrong", f"{short(answer)!r} is {titles[1]}, not {titles[0]}: {short(gold)!r}")
    return Judgement("wrong", f"{short(answer)!r} does not equal {short(gold)!r}")


def _both(gold: str, answer: str) -> tuple[tuple[str, str], tuple[str, str]]:
    one, other = (spelled(side).strip(" .") for side in (gold, answer))
    return (one, other), (other, one)


def _rounded(wanted: Kind, latex: str, otherwise: Outcome) -> Outcome:
    """Equal where the gold answer is what an approximation ends in: "A = 100\\pi \\approx 314.16" for 314.16."""
    last = _kind(split_relation(latex)[0][-1])
    return Outcome.EQUAL if isinstance(last, Scalar) and compare(wanted, last) is Outcome.EQUAL else otherwise


def _answer(text: str) -> Kind | None:
    """The kind of an answer, which may be a sentence that states it, with the unit after it."""
    if stated := mathematics_in(text):
        inner = _kind(stated)
        if isinstance(inner, Scalar) and inner.unit is None:
            return replace(inner, unit=number.without_unit(spelled(text))[1])
        return inner
    found = _kind(text)
    if found is not None and not isinstance(found, Words):
        return found
    for match in (_STATES.fullmatch(spelled(text)), _LABELLED.fullmatch(spelled(text))):
        if match is None:
            continue
        words = set(re.findall("[a-z]{2,}", match["lead"].lower()))
        if words <= _LEADING or (
            match.re is _LABELLED and not words & _CHANGING and not _DENIALS.search(match["lead"])
        ):
            inner = _kind(match["rest"])
            if inner is not None and not isinstance(inner, Words):
                return inner
    return found


def _text(gold: str, answer: str) -> Judgement:
    """A gold answer in words: the same words, or a sentence that ends in them. Unread where they stand elsewhere."""
    match = _PREDICATE.fullmatch(spelled(answer))
    if match is not None and not _DENIALS.search(answer) and exact.grade(gold, match["rest"]).verdict == "correct":
        return CORRECT
    keys = exact.key(gold), exact.key(answer)
    if _DIGITS.search(keys[0]) and _DIGITS.sub("0", keys[0]) != _DIGITS.sub("0", keys[1]):
        return unreadable(f"{short(answer)!r} is not read as {short(gold)!r}")  # 2 h 30 min for 2 hours 30 minutes
    has_it = re.search(rf"(?<![\w-]){re.escape(keys[0])}(?![\w-])", keys[1])
    if has_it and not _DENIALS.search(answer) and not _SEVERAL_TEXTS.search(answer):
        return unreadable(f"{short(answer)!r} is not surely {short(gold)!r}")
    return Judgement("wrong", f"{short(answer)!r} is not {short(gold)!r}")


def _options(gold: str, answer: str) -> Judgement | None:
    """The judgement on a gold answer that is a letter, or several, of a choice; None where it is none."""
    wanted, got = spelled(gold), spelled(answer)
    if (one := _OPTION.fullmatch(wanted)) is not None:
        judged = choice.grade(one[1], answer)
        if judged.verdict in ("correct", "wrong"):
            return judged
        other = _SOME_OPTION.match(got)
        if _OPTIONS.fullmatch(got) or (other is not None and other[1] != one[1]):
            return Judgement("wrong", f"{short(answer)!r} is not {short(gold)!r}")
        return unreadable(f"{short(answer)!r} is not read as an option")
    if (option := _OPTION_AND_TEXT.fullmatch(wanted) or _MARKED_OPTION.match(gold)) is not None:
        if (one := _OPTION.fullmatch(got)) is not None:
            return CORRECT if one[1] == option[1] else Judgement("wrong", f"{short(answer)!r} is not {short(gold)!r}")
        if not _SOME_OPTION.match(got) and grade(option["text"], answer).verdict == "correct":
            return CORRECT
    several = _OPTIONS.fullmatch(wanted) is not None
    if several and (_OPTIONS.fullmatch(got) or _TOGETHER.fullmatch(got) or _OPTION.fullmatch(got)):
        same = set(re.findall("[A-Z]", wanted)) == set(re.findall("[A-Z]", got))
        return CORRECT if same else Judgement("wrong", f"{short(answer)!r} is not {short(gold)!r}")
    if several:
        return unreadable(f"{short(answer)!r} is not read as options")
    if _TOGETHER.fullmatch(wanted) and _OPTIONS.fullmatch(got) and wanted == "".join(sorted(set(wanted))):
        return CORRECT if set(re.findall("[A-Z]", got)) == set(wanted) else None
    return None


def warm_up() -> None:
    """Import the library and fill its tables, so that no answer pays for that."""
    logging.getLogger("math_verify").setLevel(logging.CRITICAL)
    for gold, answer in _WARM_UP:
        grade(gold, answer)
