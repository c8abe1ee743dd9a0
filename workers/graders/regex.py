"""Equal in what a pattern of the user's finds: `regex:PATTERN`.

The pattern has one group, which is looked for in the gold answer and in the answer: `regex:(\\d+) km`
compares the kilometres alone. The last match that is not empty counts. A pattern may take any time, so it
belongs in a process that can be killed.
"""

from __future__ import annotations

import re

from workers.graders.combine import Grader
from workers.graders.exact import key
from workers.graders.judgement import CORRECT, Judgement, short


def make(argument: str) -> Grader:
    """The grader of a pattern. Raises ValueError where it is no regular expression with one group."""
    try:
        pattern = re.compile(argument)
    except (re.error, RecursionError, OverflowError) as error:
        raise ValueError(f"regex:{argument}: no regular expression ({error})") from error
    if pattern.groups != 1:
        raise ValueError(f"regex:{argument}: {pattern.groups} groups, and one is needed; write (?:...) for the others")

    def grade(gold: str, answer: str) -> Judgement:
        wanted, got = _found(pattern, gold), _found(pattern, answer)
        if not wanted:
            return Judgement("ungradable", f"the pattern finds nothing in the gold answer {short(gold)!r}")
        if not got:
            return Judgement("wrong", f"the pattern finds nothing in {short(answer)!r}")
        return CORRECT if key(wanted) == key(got) else Judgement("wrong", f"{short(got)!r} is not {short(wanted)!r}")

    return grade


def _found(pattern: re.Pattern[str], text: str) -> str | None:
    found = None
    for match in pattern.finditer(text):
        found = match[1] or found
    return found
