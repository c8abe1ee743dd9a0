"""Where in a completion the answer is.

Every rule looks for the last mark of its kind. Only `last_number` guesses, and only a job that is not strict
has it. The built-in rules take time linear in the text. A `pattern:` is the user's own regular expression,
which may not be, so it belongs in a process that can be killed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

_FINAL_ANSWER = re.compile(r"final[ \t]{1,8}answer[ \t]{0,8}(?:\*\*|__)?[ \t]{0,8}[:：]", re.IGNORECASE)
_ANSWER_IS = re.compile(r"\banswer[ \t]{0,8}(?:\*\*|__)?[ \t]{0,8}(?:[:：=]|is\b:?)", re.IGNORECASE)
_LEAD = re.compile(r"(?:the |my )?(?:final |correct )?answer is:?\s", re.IGNORECASE)
_LINE_END = re.compile(r"[\r\n]")
_BRACES = re.compile(r"\\{1,2}(?:boxed|fbox)\s*\{|\\.|[{}]", re.DOTALL)
_NEXT_SENTENCE = re.compile(r"(?<=[0-9$)}%*\]])\.\**\s+(?=[A-Z*#])")
_BOLD = re.compile(r"(?<![\w)*])\*\*([^*\n]{1,200})\*\*(?![\w(*])")
_NUMBER = re.compile(
    r"(?<![\w.])[-−+]?(?:US)?\\?[$€£¥]?(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]+)?(?:/[0-9]+)?[ ]?%?"
    r"|(?<![\w.])[-−+]?\.[0-9]+%?|-?\\[dt]?frac\{-?[0-9]+\}\{[0-9]+\}"
)
_DELIMITERS = frozenset(["", "\\[", "\\]", "$$", "$", "```", "\\(", "\\begin{align*}", "\\begin{aligned}", ":"])
_GAP = r"(?:[ \t$]|\\[()\[\]]|\\q?quad(?![A-Za-z])|\\[,;: ])*+"
_TEXT_AND = r"\\(?:text|textrm|mathrm|mbox)\{[^{}]*\b(?:and|or)\b ?\}"  # \text{ for part (a) and }
_VARIABLE = r"[A-Za-z](?:_?[0-9A-Za-z]|_\{[0-9A-Za-z]+\})? ?= ?"  # y_1 =
_AND = rf"(?:[,;](?: and)?|(?:[A-Za-z]+[ ]){{0,3}}(?:and|or)|{_TEXT_AND})?"
_JOINED = re.compile(rf"{_GAP}{_AND}{_GAP}(?:{_VARIABLE})?{_GAP}")
MAX_BETWEEN = 60
"""Longest text, in characters, between two boxes of one answer."""
MAX_BOXES = 20
"""Most boxes of one answer; those before them are left out."""
_SPECIAL_TOKEN = re.compile(r"(?:<\|\w{1,40}\|>|</s>)\s*\Z")
_CHATTER = re.compile(r"(?:<\|\w{1,40}\|>|\bI hope (?:it|this) is correct\b).*", re.IGNORECASE | re.DOTALL)
PATTERN = "pattern:"
LENIENT = ("answer_is", "last_number")
"""What a job that is not strict tries besides, after its own rules."""


def rules_of(rules: Sequence[str], strict: bool) -> list[str]:
    """All rules that are tried, in order."""
    return [*rules, *(rule for rule in LENIENT if not strict and rule not in rules)]


def extract(text: str, rules: Sequence[str]) -> tuple[str, str] | None:
    """The answer and the rule that found it, or None. Rules are tried in order; an empty answer is none.

    `final_answer` is what follows the last "Final answer:" on its line, or on the next one that is not empty;
    `boxed` the content of the last closed \\boxed{}, with those joined to it ("\\boxed{1} and \\boxed{2}");
    `hash` what follows the last #### on its line; `answer_is` what follows the last "answer is" or "Answer:";
    `whole` the whole text; `pattern:REGEX` the regular expression's group in its last match; and `last_number`
    the last number anywhere.
    """
    for rule in rules:
        answer = _pattern(text, rule.removeprefix(PATTERN)) if rule.startswith(PATTERN) else _RULES[rule](text)
        answer = _tidy(answer or "")
        if answer:
            return answer, rule
    return None


def boxed(text: str) -> str | None:
    """Content of the last \\boxed{...} (or \\fbox{...}) whose braces close; None without one.

    Boxes that are joined to it, as in "\\boxed{1} and \\boxed{2}", belong to the same answer: "1, 2".
    """
    boxes = _boxes(text)
    if not boxes:
        return None
    last = boxes.pop()
    contents = [text[last.start : last.end]]
    while boxes and len(contents) < MAX_BOXES:
        before = boxes.pop()
        if before.end >= last.command:  # a box around the last one
            continue
        between = text[before.end + 1 : last.command]
        if len(between) > MAX_BETWEEN or not _JOINED.fullmatch(between):
            break
        contents.append(text[before.start : before.end])
        last = before
    stripped = [content.strip(" ") for content in reversed(contents)]
    return ", ".join(dict.fromkeys(filter(None, stripped)))


@dataclass(frozen=True, slots=True)
class _Box:
    """Where in a text a box begins, and where its content begins and ends."""

    command: int
    start: int
    end: int


def _boxes(text: str) -> list[_Box]:
    """The closed boxes in the order in which they begin.

    One pass with a stack, so that a megabyte of braces costs no more than its length.
    """
    stack: list[tuple[int, int, bool]] = []
    boxes: list[_Box] = []
    for token in _BRACES.finditer(text):
        mark = token[0]
        if mark == "}":
            if stack:
                command, start, is_box = stack.pop()
                if is_box:
                    boxes.append(_Box(command, start, token.start()))
        elif mark == "{" or len(mark) > 2:
            stack.append((token.start(), token.end(), len(mark) > 2))
    return sorted(boxes, key=lambda box: box.command)


def _final_answer(text: str) -> str | None:
    return _after(text, _last_end(_FINAL_ANSWER, text))


def _answer_is(text: str) -> str | None:
    return _after(text, _last_end(_ANSWER_IS, text))


def _last_end(mark: re.Pattern[str], text: str) -> int | None:
    end = None
    for match in mark.finditer(text):
        end = match.end()
    return end


def _after(text: str, start: int | None) -> str | None:
    """The answer that a mark which ends at `start` announces: on its line, else on the next one with content."""
    if start is None:
        return None
    for number, line in enumerate(_lines(text, start)):
        if _tidy(line) in _DELIMITERS:
            continue
        box = boxed(line if number == 0 else text[start:])
        return _sentence(line) if box is None else box
    return None


def _sentence(line: str) -> str:
    """A line without "the answer is" before, and without another sentence, or a new turn, after what it says."""
    line = _CHATTER.sub("", line.lstrip())
    lead = _LEAD.match(line)
    return _NEXT_SENTENCE.split(line[lead.end() :] if lead else line, maxsplit=1)[0]


def _hash(text: str) -> str | None:
    at = text.rfind("####")
    return None if at < 0 else _line(text, at + 4)


def _whole(text: str) -> str:
    return text


def _last_number(text: str) -> str | None:
    last = None
    for match in _NUMBER.finditer(text):
        last = match[0]
    return last


def _lines(text: str, start: int) -> Iterator[str]:
    while start <= len(text):
        line = _line(text, start)
        yield line
        start += len(line) + 1


def _line(text: str, start: int) -> str:
    # Only real line ends count: str.splitlines would also break at form feeds and the like.
    end = _LINE_END.search(text, start)
    return text[start : end.start() if end else len(text)]


def _pattern(text: str, regex: str) -> str | None:
    answer = None
    for match in re.finditer(regex, text):
        answer = match[1] or answer
    return answer


def _tidy(answer: str) -> str:
    """`answer` without Markdown's emphasis, and without the full stop or a special token after it."""
    answer = _BOLD.sub(r"\1", _SPECIAL_TOKEN.sub("", answer))
    for _ in range(3):  # "**7.**" takes two; a bound keeps endless decoration from costing its square
        answer = answer.strip().strip("*`").strip()
        if answer.startswith("__") and answer.endswith("__"):
            answer = answer[2:-2].strip()
        if answer.endswith(".") and not answer.endswith(".."):
            answer = answer[:-1]
    return answer.strip()


_RULES = {
    "final_answer": _final_answer,
    "boxed": boxed,
    "hash": _hash,
    "answer_is": _answer_is,
    "whole": _whole,
    "last_number": _last_number,
}
