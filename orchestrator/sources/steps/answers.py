"""Answers in reasoning steps: where one begins and ends, in text and in tokens, and which prefix to probe next. Pure.

    opening           sampled text
    ... \\nStep 1:     6 + 2 = 8\\nStep 2: 8 * 2 = 18\\nFinal answer: 18
                     ^prefix 0        ^prefix 1                       ^prefix 2, the whole answer
                      └step 1─┘        └step 2─────────────────────┘

A prefix of j right steps ends behind the marker of step j + 1, where the text has one: what follows it is that step
(arXiv 2406.18629, section 3.1). Prefix 0 is what was not sampled: where the opening has no marker, the first step's
follows it. It counts as right and the whole answer as wrong, so neither is ever probed.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

_MARKERS = {"markers": r"(?m)^[ \t]*Step \d+:", "lines": r"(?m)^(?=[^\n]*\S)"}


class ReasoningStep(NamedTuple):
    """Characters of a reasoning step in the sampled text. Example: ReasoningStep(begin=0, end=10, stop=11)"""

    begin: int
    """Behind its marker."""
    end: int
    """Behind its last character that is no white space."""
    stop: int
    """Where the next step's marker begins, or where the text ends."""


def split(opening: str, text: str, how: str) -> list[ReasoningStep]:
    """The steps of a sampled text that goes on from `opening`; `how` is config.Steps.split. At least one.

    What stands before the first marker is a step of its own unless it is blank. The last marker of the opening begins
    the first step.
    """
    pattern = _MARKERS.get(how) or how.removeprefix("pattern:")
    offset, answer = len(opening), opening + text
    # A marker that has only its beginning in the opening stands in the text.
    found = [m for m in re.finditer(pattern, answer) if m.end() > offset]
    marks = [(max(0, m.start() - offset), m.end() - offset) for m in found]
    if not marks or text[: marks[0][0]].strip():
        marks.insert(0, (0, 0))
    stops = [start for start, _ in marks[1:]] + [len(text)]
    return [ReasoningStep(begin, _end(text, begin, stop), stop) for (_, begin), stop in zip(marks, stops, strict=True)]


def _end(text: str, begin: int, stop: int) -> int:
    return begin + len(text[begin:stop].rstrip())


@dataclass(frozen=True)
class Answer:
    """A sampled answer and its reasoning steps, which are numbered from 1."""

    opening: str
    text: str
    """What was sampled, decoded."""
    token_ends: Sequence[int]
    """For each sampled token, how many characters of `text` are complete with it."""
    how: str = "markers"

    @cached_property
    def steps(self) -> list[ReasoningStep]:
        return split(self.opening, self.text, self.how)

    @property
    def step_texts(self) -> tuple[str, ...]:
        """The steps without their markers and the white space around them."""
        return tuple(self.text[step.begin : step.end].strip() for step in self.steps)

    def prefix_tokens(self, right: int) -> int:
        """How many sampled tokens the first `right` steps are, the next one's marker included. A token that reaches
        into what follows is not among them. No right step is no token, even where the text has the first marker."""
        if right == 0:
            return 0
        return self._boundary(self.steps[right].begin) if right < len(self.steps) else len(self.token_ends)

    def prefix_text(self, right: int) -> str:
        """The text of those tokens."""
        return self.text[: self.characters(self.prefix_tokens(right))]

    def step_tokens(self, number: int) -> int:
        """How many sampled tokens there are to the end of a step. The white space behind it is left out where a token
        begins there (as in the paper's data), and so is EOS."""
        step = self.steps[number - 1]
        exact = bisect_left(self.token_ends, step.end) + 1
        if exact <= len(self.token_ends) and self.token_ends[exact - 1] <= step.stop:
            return exact
        return self._boundary(step.end)

    def characters(self, tokens: int) -> int:
        """How many characters the first `tokens` sampled tokens are."""
        return self.token_ends[tokens - 1] if tokens else 0

    def _boundary(self, position: int) -> int:
        """The most tokens that end at or before a position, without those that complete no character."""
        count = bisect_right(self.token_ends, position)
        while count and self.token_ends[count - 1] == self.characters(count - 1):
            count -= 1
        return count


MIN_JUDGED = 0.5
"""Share of a prefix's rollouts that need a verdict; with fewer, nothing is known of the prefix."""


def is_right(correct: int, judged: int, drawn: int, threshold: float) -> bool | None:
    """Whether a prefix from which `correct` of `judged` rollouts reach the gold answer counts as right. Rollouts that
    are ungradable say nothing; None where fewer than half of all `drawn` have a verdict."""
    if judged < MIN_JUDGED * drawn:
        return None
    return correct > 0 and correct / judged >= threshold


class BinarySearch:
    """The search for the first wrong step of an answer with a wrong final answer. It halves the steps among which that
    one is (OmegaPRM, arXiv 2406.06592, section 3.2): about log2 of them are probed. Where nothing can be known of the
    middle one, what is nearest to it is probed instead. No prefix is taken to be right that goes on from a wrong one.
    """

    def __init__(self, num_steps: int) -> None:
        self._right, self._wrong = 0, num_steps
        """The longest prefix that is known to be right, and the shortest that is known to be wrong."""
        self._unknown: set[int] = set()
        """Those in between of which nothing can be known."""

    def probe(self) -> int | None:
        """How many first steps to test next; None once the first wrong one is known, or cannot be."""
        between = [right for right in range(self._right + 1, self._wrong) if right not in self._unknown]
        middle = (self._right + self._wrong) // 2
        return min(between, key=lambda right: abs(right - middle)) if between else None  # of equals the shortest

    def tell(self, right: bool | None) -> None:
        """Whether that prefix is right; None where it cannot be known."""
        probed = self.probe()
        if probed is None:
            raise ValueError("nothing was asked")
        if right is None:
            self._unknown.add(probed)
        elif right:
            self._right = probed
        else:
            self._wrong = probed

    @property
    def first_wrong(self) -> int | None:
        """Number of the first wrong step, once `probe` is None. None where that cannot be known: of the longest prefix
        that is right and the shortest that is wrong, the one is not a step longer than the other."""
        return self._wrong if self._wrong - self._right == 1 else None
