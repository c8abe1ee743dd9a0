"""Where in a completion the answer is.

Every rule looks for the last mark of its kind, and none guesses: a number that happens to stand at
the end of a text is not an answer. The built-in rules take time linear in the text. A `pattern:` is
the user's own regular expression, which may not be, so it belongs in a process that can be killed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

_FINAL_ANSWER = re.compile(r"final[ \t]{1,8}answer[ \t]{0,8}(?:\*\*|__)?[ \t]{0,8}[:：]", re.IGNORECASE)
_LINE_END = re.compile(r"[\r\n]")
_BRACES = re.compile(r"\\(?:boxed|fbox)\s*\{|\\.|[{}]", re.DOTALL)
PATTERN = "pattern:"


def check_rules(rules: Sequence[str]) -> None:
    """Raise ValueError, naming the rule and the cure, for a rule that is unknown or does not compile."""
    for rule in rules:
        if not rule.startswith(PATTERN):
            if rule not in _RULES:
                known = ", ".join(_RULES)
                raise ValueError(f"grade.answer: {rule!r} is no rule; use one of {known} or {PATTERN}REGEX")
            continue
        try:
            groups = re.compile(rule.removeprefix(PATTERN)).groups
        except (re.error, RecursionError, OverflowError) as error:
            raise ValueError(f"grade.answer: {rule!r} is no regular expression: {error}") from error
        if groups != 1:
            raise ValueError(
                f"grade.answer: {rule!r} has {groups} groups and needs one, around the answer; "
                "write (?:...) for the others"
            )


def extract(text: str, rules: Sequence[str]) -> tuple[str, str] | None:
    """The answer and the rule that found it, or None. Rules are tried in order; an empty answer is none.

    `final_answer` is what follows the last "Final answer:" on its line, `boxed` the content of the last
    closed \\boxed{}, `hash` what follows the last #### on its line, and `pattern:REGEX` the regular
    expression's group in its last match.
    """
    for rule in rules:
        answer = _pattern(text, rule.removeprefix(PATTERN)) if rule.startswith(PATTERN) else _RULES[rule](text)
        answer = _tidy(answer or "")
        if answer:
            return answer, rule
    return None


def last_boxed(text: str) -> str | None:
    """Content of the last \\boxed{...} (or \\fbox{...}) whose braces close; None without one.

    One pass with a stack, so that a megabyte of braces costs no more than its length.
    """
    stack: list[tuple[int, bool]] = []
    best: tuple[int, int] | None = None
    for token in _BRACES.finditer(text):
        mark = token[0]
        if mark == "}":
            if stack:
                start, is_box = stack.pop()
                if is_box and (best is None or start > best[0]):
                    best = (start, token.start())
        elif mark == "{" or len(mark) > 2:
            stack.append((token.end(), len(mark) > 2))
    return text[best[0] : best[1]] if best else None


def _final_answer(text: str) -> str | None:
    end = None
    for match in _FINAL_ANSWER.finditer(text):
        end = match.end()
    if end is None:
        return None
    line = _line(text, end)
    box = last_boxed(line)
    return line if box is None else box


def _hash(text: str) -> str | None:
    at = text.rfind("####")
    return None if at < 0 else _line(text, at + 4)


def _line(text: str, start: int) -> str:
    # Only real line ends count: str.splitlines would also break at form feeds and the like.
    end = _LINE_END.search(text, start)
    return text[start : end.start() if end else len(text)]


def _pattern(text: str, regex: str) -> str | None:
    answer = None
    for match in re.finditer(regex, text):
        answer = match[1]
    return answer


def _tidy(answer: str) -> str:
    """`answer` without the Markdown emphasis and the full stop around it."""
    for _ in range(3):  # "**7.**" takes two; a bound keeps endless decoration from costing its square
        answer = answer.strip().strip("*`").strip()
        if answer.startswith("__") and answer.endswith("__"):
            answer = answer[2:-2].strip()
        if answer.endswith(".") and not answer.endswith(".."):
            answer = answer[:-1]
    return answer.strip()


_RULES = {"final_answer": _final_answer, "boxed": last_boxed, "hash": _hash}
