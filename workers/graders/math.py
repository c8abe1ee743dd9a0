"""Equal as mathematics: math-verify, which parses LaTeX into SymPy.

Nothing bounds the time or memory of SymPy from within (its own alarms cannot interrupt arithmetic on
huge integers), so math-verify's time-outs are off and this runs only in a process with limits of its
own. Only math-verify's LaTeX parser is used: its parser of plain expressions evaluates Python.
"""

from __future__ import annotations

import logging
import re
from functools import cache, lru_cache
from typing import Any

from workers.graders import number
from workers.graders.judgement import CORRECT, Judgement, short
from workers.graders.normalise import normalise

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
_COMMAND = re.compile(r"\\[A-Za-z]+")
_WORD = re.compile(r"[A-Za-z]{2,}")
_ROOT = re.compile(r"√\s*(?:\(([^()]*)\)|([0-9]+|[A-Za-z]))")
_TWO_NUMBERS = re.compile(r"[0-9]\s+(?=[0-9])")
_MIXED = re.compile(r"(?<![0-9./])([0-9]+) ([0-9]+)/([0-9]+)")


def _latex(text: str) -> str:
    text = normalise(text).replace("$", " ").translate(_SYMBOLS)
    text = _ROOT.sub(lambda m: f"\\sqrt{{{m[1] or m[2]}}}", text).replace("**", "^")
    text = _braced_exponents(text)
    text = _MIXED.sub(r"\1\\frac{\2}{\3}", text)
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
    return any(len(word) > 3 for word in words) or latex.replace(" ", "").isalpha()


@cache
def _library() -> tuple[Any, Any, Any]:
    import math_verify

    logging.getLogger("math_verify").setLevel(logging.CRITICAL)
    return math_verify.parse, math_verify.verify, (math_verify.LatexExtractionConfig(),)


def _parse(latex: str) -> list[Any]:
    if not latex or len(latex) > MAX_LENGTH:
        return []
    parse, _, config = _library()
    return list(parse(f"${latex}$", extraction_config=config, fallback_mode="no_fallback", parsing_timeout=None))


@lru_cache(maxsize=256)
def _parse_gold(gold: str) -> tuple[str, list[Any]]:
    latex = _latex(gold[: MAX_LENGTH + 1])
    return latex, [] if len(gold) > MAX_LENGTH or _is_prose(latex) else _parse(latex)


def grade(gold: str, answer: str) -> Judgement:
    """Correct when math-verify finds the answer equal to the gold; the order of the two matters to it.

    Ungradable when the gold answer is prose or does not parse. An answer that does not parse is wrong.
    Time and memory are unbounded: call this only where both are limited from outside.
    """
    _, wanted = _parse_gold(gold)
    if not wanted:
        return Judgement("ungradable", f"the gold answer {short(gold)!r} is not read as mathematics")
    if len(answer) > MAX_LENGTH:
        return Judgement("wrong", f"{len(answer)} characters are too long to be read as mathematics")
    latex = _latex(answer)
    if "," in latex and number.parse(gold) is not None and number.parse(answer) is None:
        # The library reads "7, 7" as the set {7}, and "0,123" as a decimal.
        return Judgement("wrong", f"{short(answer)!r} is a list, and {short(gold)!r} one number")
    got = [] if _TWO_NUMBERS.search(latex) else _parse(latex)
    if not got:
        return Judgement("wrong", f"{short(answer)!r} is not read as mathematics")
    _, verify, _ = _library()
    if verify(wanted, got, timeout_seconds=None):
        return CORRECT
    return Judgement("wrong", f"{short(answer)!r} does not equal {short(gold)!r}")


def warm_up() -> None:
    """Import the library and fill its tables, so that no answer pays for that."""
    grade("x^2", "\\frac{1}{2}")
