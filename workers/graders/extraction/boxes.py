"""The boxes of a text: \\boxed{}, \\fbox{}, \\framebox{}, and which of them make one answer.

Everything here takes time linear in the text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

from workers.graders.extraction.text import is_placeholder

_COMMAND = r"(?:(?:\\{1,2}|\x08|(?<![A-Za-z\\]))(?:boxed|fbox|framebox)|\x08oxed)"  # "\b" in JSON is a backspace
_ARGUMENT = r"(?:\{[^{}]{1,60}\}|[0-9A-Za-z])"
_BARE = (  # what TeX takes without braces is one token; what is meant is the number, the fraction, the command
    rf"\\[dt]?frac[ ]{{0,3}}{_ARGUMENT}[ ]{{0,3}}{_ARGUMENT}|\\sqrt[ ]{{0,3}}{_ARGUMENT}|\\[A-Za-z]{{2,20}}"
    r"|[-+−]?[0-9](?:[0-9]|[.,](?=[0-9])){0,200}(?:\\?%)?|\([^()\n]{1,60}\)|[A-Za-z](?![A-Za-z])"
)
_TOKENS = re.compile(
    rf"(?P<box>{_COMMAND}\s{{0,20}}\{{)|\\boxed[ ]{{0,20}}(?P<bare>{_BARE})|\\.|[{{}}]",
    re.DOTALL,
)
_GAP = r"(?:[ \t\r\n$&]|\\[()\[\]]|\\{2}|\\q?quad(?![A-Za-z])|\\[,;: ])*+"
_WORDS = r"(?:and|or|as well as)"
_TEXT_AND = rf"\\(?:text|textrm|mathrm|mbox)\{{[^{{}}]*\b{_WORDS}\b ?\}}"  # \text{ for part (a) and }
_VARIABLE = r"[A-Za-z](?:_?[0-9A-Za-z]|_\{[0-9A-Za-z]+\})? ?= ?"  # y_1 =
_AND = rf"(?:[,;.](?: {_WORDS})?|(?:[A-Za-z]+[ ]){{0,3}}{_WORDS}|{_TEXT_AND}|[&/])?"
_JOINED = re.compile(rf"{_GAP}{_AND}{_GAP}(?:{_VARIABLE})?{_GAP}")
_RESTATED = re.compile(
    rf"{_GAP}(?:(?P<equals>=)|\\approx|≈|,? ?\(?(?:or,? (?:equivalently|simply|in other words)|i\.e\.|that is|"
    rf"in other words|which (?:is|equals)(?: about)?|equivalently),?:?){_GAP}"
)
_SIMPLE = re.compile(
    r"(?P<n>-?[0-9]{1,40}(?:\.[0-9]{1,40})?)(?:/(?P<d>[0-9]{1,40}))?"
    r"|(?P<sign>-?)\\[dt]?frac(?:\{(?P<n2>[0-9]{1,40})\}\{(?P<d2>[0-9]{1,40})\}|(?P<n3>[0-9])(?P<d3>[0-9]))"
)
_LINE = re.compile(r"(?P<content>[^\r\n]{0,300}?)[ \t$.]{0,9}(?=[\r\n]|\Z)")
MAX_BETWEEN = 60
"""Longest text, in characters, between two boxes of one answer."""
MAX_BOXES = 20
"""Most boxes of one answer; those before them are left out."""


@dataclass(frozen=True, slots=True)
class _Box:
    """Where in a text a box begins, where its content begins and ends, and where what follows it begins."""

    command: int
    start: int
    end: int
    after: int


def boxed(text: str) -> str | None:
    """Content of the last \\boxed{...} (or \\fbox{...}, \\framebox{...}, \\boxed 7) that closes; None without one.

    Boxes that are joined to it, as in "\\boxed{1} and \\boxed{2}", belong to the same answer: "1, 2". Those that say
    the same again ("\\boxed{\\frac12} or \\boxed{0.5}") do not count, nor do examples: \\boxed{}, \\boxed{answer}.
    """
    if "box" not in text and "\x08oxed" not in text:
        return None
    boxes = [box for box in _boxes(text) if not is_placeholder(text[box.start : box.end].rstrip("$ "))]
    if not boxes:
        return None
    last = boxes.pop()
    contents = [text[last.start : last.end]]
    while boxes and len(contents) < MAX_BOXES:
        before = boxes.pop()
        if before.end >= last.command:  # a box around the last one
            continue
        between = text[before.after : last.command]
        if len(between) > MAX_BETWEEN:
            break
        content = text[before.start : before.end]
        if (again := _RESTATED.fullmatch(between)) is not None:
            contents[-1] = f"{content} = {contents[-1]}" if again["equals"] else content
        elif _JOINED.fullmatch(between):
            contents.append(content)
        else:
            break
        last = before
    return ", ".join(_distinct([content.strip() for content in reversed(contents)]))


def _distinct(contents: list[str]) -> list[str]:
    """The contents without those that another one says already, as the same text or as the same plain number."""
    found: dict[str | Fraction, str] = {}
    for content in contents:
        found.setdefault(_value(content), content)
    return list(found.values())


def _value(content: str) -> Fraction | str:
    match = _SIMPLE.fullmatch(content.replace(" ", "").strip("$"))
    if match is None:
        return content
    numerator, denominator = match["n"] or match["n2"] or match["n3"], match["d"] or match["d2"] or match["d3"] or "1"
    if not int(denominator):
        return content
    value = Fraction(numerator) / int(denominator)
    return -value if match["sign"] else value


def _first(text: str) -> int:
    """Where the first box may begin; braces before it are not paired with those of a box."""
    start = min(at for word in ("box", "\x08oxed") if (at := text.find(word)) >= 0)
    for name in ("frame", "f"):
        if text.endswith(name, 0, start):
            start -= len(name)
            break
    while start and text[start - 1] in "\\\x08":
        start -= 1
    return start


def _boxes(text: str) -> list[_Box]:
    """The closed boxes in the order in which they begin; one behind them that lacks its last brace ends with its line.

    One pass with a stack, so that a megabyte of braces costs no more than its length.
    """
    stack: list[tuple[int, int, bool]] = []
    boxes: list[_Box] = []
    for token in _TOKENS.finditer(text, _first(text)):
        if token["bare"] is not None:
            boxes.append(_Box(token.start(), token.start("bare"), token.end(), token.end()))
            continue
        mark = token[0]
        if mark == "}":
            if stack:
                command, start, is_box = stack.pop()
                if is_box:
                    boxes.append(_Box(command, start, token.start(), token.end()))
        elif mark == "{" or token["box"] is not None:
            stack.append((token.start(), token.end(), token["box"] is not None))
    boxes.sort(key=lambda box: box.command)
    if stack and stack[-1][2] and (not boxes or stack[-1][0] > boxes[-1].command):
        command, start, _ = stack[-1]
        line = _LINE.match(text, start)
        if line is not None and "}" in line["content"]:  # one without any brace was broken off
            boxes.append(_Box(command, start, line.end("content"), line.end()))
    return boxes
