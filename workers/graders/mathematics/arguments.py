"""Where the argument of a function ends that has no parentheses: "\\sin x / 2" is half of \\sin x.

math-verify's grammar takes whatever is multiplied or divided behind a function into its argument, so that
"\\ln 2 \\cdot 3" would be the logarithm of 6. Here parentheses are put around what belongs to it: factors that stand
side by side ("\\sin 2x"), and behind a "/" what else has no sense ("\\sin \\pi/6", "\\log_2 1/8", "\\arctan 3/4").
"""

from __future__ import annotations

import re

from workers.graders.mathematics.spelling import closing

_CIRCULAR = "sin|cos|tan|sec|csc|cot"
_FUNCTION = re.compile(rf"\\(?P<name>(?P<inverse>arc|ar)?(?:{_CIRCULAR})h?|ln|log|exp)(?![A-Za-z])")
_INVERSE_POWER = re.compile(r"\s*\^\s*\{\s*-\s*1\s*\}")
_OPERATOR = re.compile(r"\s*(?P<sign>/|\*|:|\\(?:cdot|times|div)(?![A-Za-z]))\s*")
_FOLLOWS = re.compile(rf"[0-9A-Za-z}})|]\s*\(|{_OPERATOR.pattern}")
_NO_FACTORS = "sin|cos|tan|sec|csc|cot|sinh|cosh|tanh|arcsin|arccos|arctan|ln|log|exp|cdot|times|div|pm|mp|mod|pmod"
_FACTOR = re.compile(
    rf"\s*(?:(?P<grouping>\\(?:frac|sqrt|binom)(?![A-Za-z])(?:\s*\[[^\[\]]*\])?)|[0-9]+(?:\.[0-9]+)?|\.[0-9]+|[A-Za-z]'*"
    rf"|\\(?!(?:{_NO_FACTORS}|left|right|l?floor|rfloor|lceil|rceil|to|in|infty|int|sum|prod|lim)(?![A-Za-z]))[A-Za-z]+"
    r"|(?=\{))"
)
_MARK = re.compile(r"\s*[\^_]\s*|\s*!")
_SIGN = re.compile(r"\s*[-+]")
_DIVISOR = re.compile(r"[0-9]+|[A-Za-z](?![A-Za-z])")
_COEFFICIENT = re.compile(r"\s*[0-9.]*\s*(?:\\pi)?\s*")
_NUMBER = re.compile(r"(?:[0-9]+|\\sqrt\{[0-9]+\})")


def closed(latex: str) -> str:
    """`latex`, as `spelled` makes it, with parentheses around each argument that a product or quotient follows."""
    if "\\" not in latex or _FOLLOWS.search(latex) is None or _FUNCTION.search(latex) is None:
        return latex
    pieces, at = [], 0
    while (match := _FUNCTION.search(latex, at)) is not None:
        start = _behind_marks(latex, match.end("name"))
        end = None if start is None else _end(latex, start, match)
        if start is None or end is None:
            pieces.append(latex[at : match.end("name")])
            at = match.end("name")
            continue
        argument = latex[start:end].strip()
        pieces.append(f"{latex[at:start]}({closed(argument)})")
        at = end
    return "".join([*pieces, latex[at:]])


def _behind_marks(latex: str, at: int) -> int | None:
    """Where the argument begins: behind powers and bases of the function."""
    while (mark := _MARK.match(latex, at)) is not None and "!" not in mark[0]:
        behind = _one(latex, mark.end())
        if behind is None:
            return None
        at = behind
    return at


def _one(latex: str, at: int) -> int | None:
    """Where a group in braces, or one sign, ends that begins at `at`."""
    if latex[at : at + 1] == "{":
        return closing(latex, at)
    command = re.compile(r"\\[A-Za-z]+|[0-9A-Za-z]").match(latex, at)
    return None if command is None else command.end()


def _end(latex: str, start: int, function: re.Match[str]) -> int | None:
    """Where the argument that begins at `start` ends; None where the grammar reads it so anyway."""
    at = _run(latex, start)
    if at is not None and latex[at:].lstrip().startswith("(") and not _COEFFICIENT.fullmatch(latex[start:at]):
        return at  # sin x (x+1) is a product, and sin 2(x+1) of one angle
    if at is None or (operator := _OPERATOR.match(latex, at)) is None:
        return None
    if operator["sign"] == "/" and (divisor := _DIVISOR.match(latex, operator.end())) is not None:
        run = latex[start:at].strip()
        if _divided(run, divisor[0], function, latex[function.end("name") : start]):
            rest = latex[divisor.end() :]
            return divisor.end() if _FACTOR.match(rest) is None and _MARK.match(rest) is None else None
    return at


def _divided(run: str, divisor: str, function: re.Match[str], marks: str) -> bool:
    """Whether a quotient behind a function is its argument, since the function of the dividend alone has no sense."""
    if run == "1":
        return True
    circular = re.search(_CIRCULAR, function["name"]) is not None
    inverse = bool(function["inverse"]) or _INVERSE_POWER.fullmatch(marks) is not None
    if inverse:
        return divisor.isdigit() and _NUMBER.fullmatch(run) is not None
    return circular and "\\pi" in run


def _run(latex: str, at: int) -> int | None:
    """Where the factors that stand side by side from `at` end; None where there is none, or it has brackets."""
    if (sign := _SIGN.match(latex, at)) is not None:
        at = sign.end()
    bar = re.compile(r"\s*\|").match(latex, at)
    if bar is not None:
        other = latex.find("|", bar.end())
        return None if other < 0 else other + 1
    begin = at
    while True:
        if at == begin and (inner := _FUNCTION.match(latex[at:].lstrip())) is not None:
            shift = len(latex) - len(latex[at:].lstrip())
            start = _behind_marks(latex, shift + inner.end("name"))
            return None if start is None else _run(latex, start)
        factor = _FACTOR.match(latex, at)
        if factor is None:
            break
        end: int | None = factor.end()
        if factor["grouping"] is not None or latex[factor.end() : factor.end() + 1] == "{":
            for _ in range(2 if factor["grouping"] and "sqrt" not in factor["grouping"] else 1):
                end = None if end is None else closing(latex, end) if latex[end : end + 1] == "{" else None
        if end is None:
            return None
        at = end
        while (mark := _MARK.match(latex, at)) is not None:
            behind = mark.end() if "!" in mark[0] else _one(latex, mark.end())
            if behind is None:
                return None
            at = behind
    return at if at > begin else None
