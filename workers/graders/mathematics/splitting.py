"""Taking LaTeX apart at its outermost signs: commas, words, relations, brackets. Each is one pass over the text."""

from __future__ import annotations

import re
from collections.abc import Sequence

_TOKEN = re.compile(r"\\begin\s*\{\w+\*?\}|\\end\s*\{\w+\*?\}|\\[A-Za-z]+|\\.|[A-Za-z]+|.", re.DOTALL)
_OPENING = frozenset(["(", "[", "{", "\\{", "\\langle", "\\lfloor", "\\lceil"])
_CLOSING = frozenset([")", "]", "}", "\\}", "\\rangle", "\\rfloor", "\\rceil"])
_PARTNERS = {"(": ")]", "[": ")]", "{": "}", "\\{": ("\\}",), "\\langle": ("\\rangle",)}
_RELATIONS = frozenset(["=", "<", ">", "\\le", "\\ge", "\\ne", "\\approx", "\\in", "\\notin", "\\equiv"])
_GREEK = (
    r"\\(?:alpha|beta|gamma|delta|epsilon|varepsilon|theta|lambda|mu|phi|varphi|rho|sigma|tau|omega|psi|eta|xi|Delta)"
)
_VARIABLE = re.compile(rf"(?:[A-Za-z]|{_GREEK})\s*(?:_\s*(?:\{{[A-Za-z0-9, ]+\}}|[A-Za-z0-9]))?'*")
_LEFT_SIDE = re.compile(
    rf"(?:[A-Za-z]|{_GREEK})\s*(?:_\s*(?:\{{[A-Za-z0-9, ]+\}}|[A-Za-z0-9]))?'*(?:\^\s*\{{-1\}}|\^\s*\{{?\([0-9]\)\}}?)?"
    r"\s*(?P<call>\((?P<arguments>[^()=]{1,30})\))?"
    r"|\|?[A-Z]{2,4}\|?|m?\s*\\(?:angle|measuredangle|overline|vec|hat|bar|triangle|overrightarrow)\s*\{?\s*[A-Za-z]{1,3}\s*\}?"
    r"|\\(?:det|dim|deg)\s*(?:\{\s*[A-Z]\s*\}|\(\s*[A-Z]\s*\)|[A-Z])"
    r"|\|?\\vec\s*\{?[a-z]\}?\|?|[A-Za-z]{3,15}(?: [A-Za-z]{2,15}){0,4}"
)
_OF_SEGMENTS = re.compile(
    r"(?:\\(?:frac|overline|angle|triangle)|[{}\s:/|']|[A-Z](?:_\{?[A-Z0-9]++\}?)?|(?<=\})_\{?[0-9]\}?)+"
)
"""The ratio AB:CD, or a fraction of lengths."""
_ARGUMENTS = re.compile(r"[a-z](?:\s*,\s*[a-z])*")
_CHANGING_WORDS = """
not no half twice double square cube squared cubed root log sin cos tan ln exp max min minus plus times negative
"""
_CHANGING = frozenset(_CHANGING_WORDS.split())
OF_UNKNOWNS = re.compile(r"\|[a-z]\||[w-z]{2,4}|[a-d]{2,4}|[k-n]{2,3}|[p-r]{2,3}|[u-w]{2,3}")
"""What is no name: the absolute value of an unknown, or a product of several; "AB" names a line."""
_BUILDER = re.compile(r"^(?P<member>[^|:<>=]*?)(?:\\mid(?![a-z])|\\vert|\||:|such that)(?P<condition>.*)$", re.DOTALL)
_MEMBER = re.compile(r"\s*(?:[a-z]|\\theta)\s*(?:\\in\s*(?P<domain>\\mathbb\{R\}|R)\s*)?")


def split(latex: str, separators: Sequence[str]) -> tuple[list[str], frozenset[str]]:
    """The pieces between separators that stand in no bracket, without empty ones, and the separators that occur."""
    if not any(separator in latex for separator in separators):
        return [latex.strip()] if latex.strip() else [], frozenset()
    pieces: list[list[str]] = [[]]
    used = set()
    depth = 0
    for token in _TOKEN.findall(latex):
        if not depth and token in separators:
            used.add(token)
            pieces.append([])
            continue
        depth = max(0, depth + _change(token))
        pieces[-1].append(token)
    return [made for piece in pieces if (made := "".join(piece).strip())], frozenset(used)


def split_relation(latex: str) -> tuple[list[str], list[str]]:
    """The sides of a relation, and the signs between them; no signs where it is none. Sides may be empty."""
    sides: list[list[str]] = [[]]
    signs: list[str] = []
    depth = 0
    for token in _TOKEN.findall(latex):
        if not depth and token in _RELATIONS:
            signs.append(token)
            sides.append([])
            continue
        depth = max(0, depth + _change(token))
        sides[-1].append(token)
    return ["".join(side).strip() for side in sides], signs


def _change(token: str) -> int:
    if token in _OPENING or token.startswith("\\begin"):
        return 1
    return -1 if token in _CLOSING or token.startswith("\\end") else 0


def enclosed(latex: str) -> tuple[str, str, str] | None:
    """(opening, inner, closing) where `latex` is one pair of brackets and what they hold; else None."""
    tokens = _TOKEN.findall(latex.strip())
    if len(tokens) < 2 or tokens[0] not in _PARTNERS or tokens[-1] not in _PARTNERS[tokens[0]]:
        return None
    depth = 0
    for at, token in enumerate(tokens):
        depth += _change(token)
        if not depth:
            return (tokens[0], "".join(tokens[1:-1]), tokens[-1]) if at == len(tokens) - 1 else None
    return None


def halves(inner: str) -> str | None:
    """The condition of a set such as "x \\in \\mathbb{R} \\mid x < 3"; None where it is no such set of real numbers."""
    match = _BUILDER.match(inner)
    if match is None or not _MEMBER.fullmatch(match["member"]):
        return None
    return match["condition"].strip()


def named_left_side(latex: str) -> tuple[str, str] | None:
    """(name, argument) of what an equation defines: ("y", ""), ("f", "x"), ("Area", ""); None for an expression."""
    match = _LEFT_SIDE.fullmatch(latex.strip())
    if match is None and _OF_SEGMENTS.fullmatch(latex.strip()):
        return latex.strip(), ""
    if match is None or latex.strip() in ("e", "i") or OF_UNKNOWNS.fullmatch(latex.strip()):
        return None
    if set(re.findall("[a-z]+", latex.lower())) & _CHANGING:
        return None
    if match["call"]:
        name = latex[: match.start("call")].strip()
        arguments = match["arguments"].strip()
        if name in ("x", "y", "z", "t", "n") or is_product(name, arguments):
            return None
        return (name, arguments) if _ARGUMENTS.fullmatch(arguments) else (f"{name}({arguments})", "")
    return latex.strip(), ""


def is_product(name: str, argument: str) -> bool:
    """Whether a letter before parentheses is a factor: x(x+1) and a(b+1) are products, f(x+1) is not."""
    if not re.search("[-+*/^]", argument):
        return False
    return name in argument or (name not in "fghpqFGHPQE" and re.search("[a-z]", argument) is not None)


def variable(latex: str) -> str | None:
    """`latex` where it is one variable, else None."""
    return latex.strip() if _VARIABLE.fullmatch(latex.strip()) else None
