"""Where in a completion the answer is.

Every rule looks for the last mark of its kind. Only `last_number` guesses, and only a job that is not strict
has it. The built-in rules take time linear in the text. A `pattern:` is the user's own regular expression,
which may not be, so it belongs in a process that can be killed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from workers.graders.extraction.boxes import boxed
from workers.graders.extraction.marks import answer_is, final_answer, line_at, next_content
from workers.graders.extraction.text import (
    MAX_ANSWER,
    is_placeholder,
    sentence,
    tidy,
    unstruck,
    without_environment,
    without_reason,
)

__all__ = ["LENIENT", "PATTERN", "boxed", "extract", "rules_of"]

_NUMBER = re.compile(
    r"(?<![\w.])[-−+]?(?:US)?\\?[$€£¥]?(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]+)?(?:/[0-9]+)?[ ]?%?"
    r"|(?<![\w.])[-−+]?\.[0-9]+%?|-?\\[dt]?frac\{-?[0-9]+\}\{[0-9]+\}"
)
_HASH = re.compile(r"#{4,10}")
_LINE_END = re.compile(r"[\r\n]")
_HEADING = re.compile(
    r"(?:(?:explanation|reasoning|solution|notes?|verification|check|steps?|summary|remarks?|details?|conclusion|proof"
    r"|calculations?|analysis|question|problem|given|approach)\b[ \t]{0,4}[0-9.]{0,5}(?:[:.].{0,200})?)?",
    re.IGNORECASE,
)
_HASH_TITLE = re.compile(r"(?:the )?(?:final )?(?:answer|result)[ \t]{0,4}[:.]?", re.IGNORECASE)
_NEXT_TURN = re.compile(
    r"[\r\n][ \t]{0,4}(?:#{1,4} ?|\*\*)?(?:Next )?(?:Question|Problem|Exercise|Instruction|Human|User|USER|Q)"
    r"(?: ?[0-9]{1,3})?\s?(?:\*\*)?[:：]|<\|(?:im_end|im_start|eot_id|endoftext|start_header_id|user)\|>|\[INST\]"
)
_TURN_WORDS = ("Q", "Problem", "Exercise", "Instruction", "Human", "User", "USER", "<|", "[INST]")
"""What every next turn has one of."""
MOST_TURNS = 4
"""Places at which a next turn may begin that are looked at."""
MOST_HASHES = 20
"""Marks #### from the end that are looked at."""
PATTERN = "pattern:"
LENIENT = ("answer_is", "last_number")
"""What a job that is not strict tries besides, after its own rules."""
DEFAULT = ("final_answer", "boxed", "hash")
"""The rules of a job that names none: the default of `grade.answer`, which a grader's process does not import."""
DECLARED = "answer_is"
"""What a job that leaves the rules as they are tries besides, where none of them finds anything. One that names its
rules has exactly those: there the form of the answer is what is learned."""
_WHOLE_TEXT = ("whole", "last_number")
"""Rules that do not stop at a next turn; nor does `pattern:`."""


def rules_of(rules: Sequence[str], strict: bool) -> list[str]:
    """All rules that are tried, in order."""
    default = tuple(rules) == DEFAULT
    wanted = LENIENT if not strict else (DECLARED,) if default else ()
    return [*rules, *(rule for rule in wanted if rule not in rules)]


def extract(text: str, rules: Sequence[str]) -> tuple[str, str] | None:
    """The answer and the rule that found it, or None. Rules are tried in order; an empty answer is none.

    `final_answer` is what follows the last "Final answer:" on its line, or on the next one that is not empty;
    `boxed` the content of the last closed \\boxed{}, with those joined to it ("\\boxed{1} and \\boxed{2}");
    `hash` what follows the last #### on its line; `answer_is` what follows the last "answer is" or "Answer:", or
    the option that is said to be the right one ("option B is correct");
    `whole` the whole text; `pattern:REGEX` the regular expression's group in its last match; and `last_number`
    the last number anywhere. Where a model goes on with another question behind its answer, what is asked and
    answered there does not count for the rules that look for a mark.
    """
    read = unstruck(text[: _end_of_answer(text, rules)])
    for rule in rules:
        if answer := _found(text if _reads_all(rule) else read, rule):
            return answer, rule
    return None


def _end_of_answer(text: str, rules: Sequence[str]) -> int:
    """Where the first next turn begins that has an answer before it; the end of the text without one."""
    for word in _TURN_WORDS:
        if word in text:
            break
    else:
        return len(text)
    for number, turn in enumerate(_NEXT_TURN.finditer(text)):
        if number == MOST_TURNS:
            break
        before = text[: turn.start()]
        if any(_found(before, rule) for rule in rules if not _reads_all(rule)):
            return turn.start()
    return len(text)


def _reads_all(rule: str) -> bool:
    return rule in _WHOLE_TEXT or rule.startswith(PATTERN)


def _found(text: str, rule: str) -> str:
    answer = _pattern(text, rule.removeprefix(PATTERN)) if rule.startswith(PATTERN) else _RULES[rule](text)
    return tidy(answer or "")


def _boxed(text: str) -> str | None:
    content = boxed(text)
    return None if content is None else without_reason(without_environment(content))


def _hash(text: str) -> str | None:
    """What the last #### announces that is not the title of a section."""
    marks = list(_HASH.finditer(text))
    for mark in reversed(marks[-MOST_HASHES:]):
        line = line_at(text, mark.end())
        content = line.strip().rstrip("#").strip()
        bare = tidy(content).rstrip(":")
        behind = text[mark.end() + len(line) : mark.end() + len(line) + MAX_ANSWER] if not bare else ""
        if _HASH_TITLE.fullmatch(bare) or (behind.strip() and not _LINE_END.search(behind.strip())):
            content = next_content(text, mark.end() + len(line) + 1) or ""
        elif _HEADING.fullmatch(bare):
            continue
        if content and not is_placeholder(content):
            box = boxed(content)
            return sentence(content) if box is None else box
    return None


def _whole(text: str) -> str:
    return text


def _last_number(text: str) -> str | None:
    last = None
    for match in _NUMBER.finditer(text):
        last = match[0]
    return last


def _pattern(text: str, regex: str) -> str | None:
    answer = None
    for match in re.finditer(regex, text):
        answer = match[1] or answer
    return answer


_RULES = {
    "final_answer": final_answer,
    "boxed": _boxed,
    "hash": _hash,
    "answer_is": answer_is,
    "whole": _whole,
    "last_number": _last_number,
}
