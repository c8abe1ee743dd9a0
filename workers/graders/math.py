"""Equal as mathematics: as text, as numbers, or to math-verify, which parses LaTeX into SymPy.

Nothing bounds the time or memory of SymPy from within (its own alarms cannot interrupt arithmetic on
huge integers), so math-verify's time-outs are off and this runs only in a process with limits of its
own. Of math-verify's parsers only the one of LaTeX is used, see sympy_reader.py: the one of plain expressions
evaluates Python.
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from typing import Any

from workers.graders import exact, guard, number
from workers.graders.judgement import CORRECT, Judgement, short
from workers.graders.normalise import normalise
from workers.graders.sentence import mathematics_in

MAX_LENGTH = 1000
"""Longest text, in characters, that is read as mathematics."""

_SYMBOLS = str.maketrans(
    {
        "π": "\\pi ",
        "τ": "\\tau ",
        "θ": "\\theta ",
        "∞": "\\infty ",
        "≤": "\\le ",
        "≥": "\\ge ",
        "≠": "\\ne ",
        "±": "\\pm ",
        "×": "\\times ",
        "·": "\\cdot ",
        "⋅": "\\cdot ",
        "÷": "\\div ",
        "∪": "\\cup ",
        "∩": "\\cap ",
        "∈": "\\in ",
        "∅": "\\emptyset ",
    }
)
_FUNCTION_NAMES = """
sqrt sin cos tan sec csc cot arcsin arccos arctan sinh cosh tanh log ln exp pi infty inf min max gcd
lcm mod and or frac
"""
_FUNCTIONS = frozenset(_FUNCTION_NAMES.split())
_COMMAND = re.compile(r"\\(?:begin|end)\s*\{\w+\*?\}|\\[A-Za-z]+")
_SHORT = "am an as at be by do go he hi if in is it me my no of oh ok on or so to up us we"
_SHORT_WORDS = frozenset(_SHORT.split())
_WORD = re.compile(r"[A-Za-z]{2,}")
_ROOT = re.compile(r"√\s*(?:\(([^()]*)\)|([0-9]+|[A-Za-z]))")
_ODDS = re.compile(r"^([0-9]+) to ([0-9]+)$")
_CLOCK = re.compile(r"[0-9]{1,2}:[0-5][0-9](?![0-9])")
_RATIO = re.compile(r"[:/]|\\frac")
_BASE = re.compile(r"[0-9A-F]+_\{?([0-9]+)\}?")
_WARM_UP = (
    ("x^2", "\\frac{1}{x}"),
    ("(1,2)", "[1,2]"),
    ("\\{1,2\\}", "1, 3"),
    ("x=1", "1<x<2"),
    ("\\begin{pmatrix}1\\\\2\\end{pmatrix}", "\\begin{pmatrix}1\\\\3\\end{pmatrix}"),
    ("\\sqrt{2}", "1.5"),
    ("2x=4", "x+y=3"),
)
_TWO_NUMBERS = re.compile(r"[0-9]\s+(?=[0-9])")
_MIXED = re.compile(r"(?<![0-9./])([0-9]+) ([0-9]{1,9})/([0-9]{1,9})(?![0-9])")


def _latex(text: str) -> str:
    text = normalise(text).replace("$", " ").translate(_SYMBOLS)
    text = _ROOT.sub(lambda m: f"\\sqrt{{{m[1] or m[2]}}}", text).replace("**", "^")
    text = _braced_exponents(text)
    text = _ODDS.sub(r"\1:\2", text)
    text = _MIXED.sub(lambda m: rf"{m[1]}\frac{{{m[2]}}}{{{m[3]}}}" if int(m[2]) < int(m[3]) else m[0], text)
    return re.sub(r"(?<![A-Za-z\\])(pi|infinity)(?![A-Za-z])", lambda m: {"pi": "\\pi "}.get(m[1], "\\infty "), text)


def _braced_exponents(text: str) -> str:
    """Write `2^(x+1)` as the `2^{(x+1)}` that LaTeX needs; one pass, and unclosed parentheses stay."""
    pieces = list(text)
    stack: list[int] = []
    for at, char in enumerate(text):
        if char == "(":
            stack.append(at)
        elif char == ")" and stack:
            start = stack.pop()
            if start and text[start - 1] == "^":
                pieces[start], pieces[at] = "{(", ")}"
    return "".join(pieces)


def _is_prose(latex: str) -> bool:
    # The parser reads a word as a product of its letters, by which "tea" equals "eat".
    words = [w for w in _WORD.findall(_COMMAND.sub(" ", latex)) if w.lower() not in _FUNCTIONS]
    if not words:
        return False
    if len(words) == 1 and len(latex) == 2:  # "ab" is more often a product than a word
        return latex.lower() in _SHORT_WORDS
    return any(len(word) > 3 for word in words) or latex.replace(" ", "").isalpha()


@cache
def _library() -> tuple[Any, Any]:
    """How LaTeX is read, and how two readings are compared; importing it takes a second."""
    from math_verify import verify

    from workers.graders.sympy_reader import read

    logging.getLogger("math_verify").setLevel(logging.CRITICAL)
    return read, verify


def _parse(latex: str) -> Any:
    """What the library makes of `latex`; None where it cannot read it."""
    if not latex or len(latex) > MAX_LENGTH:
        return None
    try:
        return _library()[0](latex)
    except (MemoryError, guard.Refused):
        raise
    except Exception:  # ANTLR and SymPy raise whatever they like, and a bare Exception among it
        return None


@dataclass(frozen=True, slots=True)
class _Read:
    """A text, as far as it is read as mathematics. Example: "2\\pi cm" has the unit "centimeter"."""

    latex: str
    unit: str | None
    prose: bool


def _read(text: str) -> _Read:
    latex, unit = number.without_unit(_latex(text))
    return _Read(latex, unit, _is_prose(latex))


def _read_answer(text: str) -> _Read:
    """As `_read`, or what a sentence states, with the unit after it."""
    read, stated = _read(text), mathematics_in(text)
    if not stated:
        return read
    inner = _read(stated)
    return replace(inner, unit=inner.unit or read.unit)


@lru_cache(maxsize=1024)
def _gold(gold: str) -> tuple[_Read, Any, str]:
    """How the gold answer is read, what the library makes of it, and its key as text."""
    if len(gold) > MAX_LENGTH:
        return _Read("", None, True), None, exact.key(gold)
    read = _read(gold)
    return read, None if read.prose else _parse(read.latex), exact.key(gold)


def grade(gold: str, answer: str) -> Judgement:
    """Correct when the two are equal as text, as numbers, or to math-verify, which minds their order.

    A gold answer in prose is compared as text, and a number that differs from the gold's is wrong for
    certain. Ungradable when the gold answer is mathematics that does not parse. An answer that does not parse
    is wrong. Time and memory are unbounded: call this only where both are limited from outside.
    """
    wanted, expression, key = _gold(gold)
    if key and exact.key(answer) == key:
        return CORRECT
    numeric = number.grade(gold, answer)
    if numeric.verdict == "correct" or numeric.final:
        return numeric
    if wanted.prose:
        return Judgement("wrong", f"{short(answer)!r} is not {short(gold)!r}")
    if expression is None:
        return Judgement("ungradable", f"the gold answer {short(gold)!r} is not read as mathematics", failed=True)
    if len(answer) > MAX_LENGTH:
        return Judgement("wrong", f"{len(answer)} characters are too long to be read as mathematics")
    got = _read_answer(answer)
    if got.prose:
        return Judgement("wrong", f"{short(answer)!r} is prose")
    if (reason := _unlike(wanted, got, numeric.verdict != "ungradable")) is not None:
        return Judgement("wrong", reason)
    value = _parse(got.latex)
    if value is None:
        return Judgement("wrong", f"{short(answer)!r} is not read as mathematics")
    if _verified(expression, value):
        return CORRECT
    return Judgement("wrong", f"{short(answer)!r} does not equal {short(gold)!r}")


def _unlike(gold: _Read, answer: _Read, gold_is_number: bool) -> str | None:
    """Why two texts differ that the library would take for equal; None where it may decide."""
    if gold.unit and answer.unit and gold.unit != answer.unit:
        return f"{answer.unit} is not {gold.unit}"
    if gold_is_number and "," in answer.latex:  # it reads "7, 7" as the set {7}, and "0,123" as a decimal
        return "a list is not one number"
    if _TWO_NUMBERS.search(answer.latex):
        return "two numbers without a sign between them"
    if {gold.latex[:1] + gold.latex[-1:], answer.latex[:2] + answer.latex[-1:]} == {"()", "\\{}"}:
        return "a set is not a pair"
    if ":" in gold.latex + answer.latex and not all(_RATIO.search(side.latex) for side in (gold, answer)):
        return "a ratio, or a time of day, is not a number"
    if all(_CLOCK.match(side.latex) for side in (gold, answer)):
        return "another time of day"
    bases = [_BASE.fullmatch(side.latex) for side in (gold, answer)]
    if bases[0] and bases[1] and bases[0][1] != bases[1][1]:
        return f"base {bases[1][1]} is not base {bases[0][1]}"
    return None


def _verified(gold: Any, answer: Any) -> bool:
    if not _library()[1](gold, answer, allow_set_relation_comp=True, timeout_seconds=None):
        return False
    from sympy import Eq, simplify, solve

    if not (isinstance(gold, Eq) and isinstance(answer, Eq)) or solve(gold) or solve(answer):
        return True
    # To the library any two equations without a solution are equal.
    ratio = simplify((gold.lhs - gold.rhs) / (answer.lhs - answer.rhs))
    return bool(ratio.is_number)


def warm_up() -> None:
    """Import the library and fill its tables, so that no answer pays for that."""
    for gold, answer in _WARM_UP:
        grade(gold, answer)
