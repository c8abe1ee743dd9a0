"""From wrong answers, their first wrong steps and right continuations to pairs of reasoning steps. Pure.

A pair's prompt is the problem, the opening and the right steps, and its two sides are one step each. Neither is closed
by EOS, not even where it was the answer's last step: what is compared is the step, not that the answer ends there.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from typing import Literal

from orchestrator.sources.steps.answers import Answer

Refusal = Literal["not_a_prefix", "empty", "equal", "duplicate"]


@dataclass(frozen=True)
class Error:
    """A finished sample with a wrong final answer."""

    prompt_id: str
    sample_index: int
    prompt: list[int]
    """Ids of the problem's prompt and of the opening."""
    token_ids: list[int]
    answer: Answer
    mask: list[bool] | None = None
    """Which of `token_ids` are the model's own; None where all are."""

    @property
    def error_id(self) -> str:
        return f"{self.prompt_id}/{self.sample_index}"

    def prefix(self, right: int) -> list[int]:
        """Ids of the prompt, the opening and the first `right` steps."""
        return [*self.prompt, *self.token_ids[: self.answer.prefix_tokens(right)]]

    def probe_id(self, right: int) -> str:
        """Name of a prefix, which all answers to the problem share that begin so; prefix 0 is the prompt itself."""
        if right == 0:
            return self.prompt_id
        ids = array("i", self.token_ids[: self.answer.prefix_tokens(right)])
        return f"{self.prompt_id}:{hashlib.blake2b(ids.tobytes(), digest_size=8).hexdigest()}"


@dataclass(frozen=True)
class Continuation:
    """A sample that reached the gold answer, from a prefix whose ids are `prompt`."""

    source: str
    sample_index: int
    prompt: list[int]
    token_ids: list[int]
    text: str
    token_ends: list[int]
    mask: list[bool] | None = None
    """As `Error.mask`."""


@dataclass(frozen=True)
class StepPair:
    """A wrong step and a right one in its place. Texts begin behind "Step k:", but for a first step whose marker was
    sampled."""

    error: Error
    first_wrong: int
    continuation: Continuation
    corrected: Answer
    """The right steps and the continuation."""
    reason_steps: str
    """The opening and the right steps, ending in "Step k:"."""
    chosen: str
    rejected: str
    chosen_ids: list[int]
    rejected_ids: list[int]
    chosen_mask: list[bool] | None = None
    rejected_mask: list[bool] | None = None

    @property
    def prompt_ids(self) -> list[int]:
        return self.continuation.prompt

    @property
    def full_rejected(self) -> str:
        """The wrong step and all that followed."""
        answer = self.error.answer
        return answer.text[len(answer.prefix_text(self.first_wrong - 1)) :]


def step_pair(error: Error, first_wrong: int, continuation: Continuation) -> StepPair | Refusal:
    """The pair of an error and a continuation of its right steps, or why there is none."""
    answer, first = error.answer, error.answer.prefix_tokens(first_wrong - 1)
    if continuation.prompt != error.prefix(first_wrong - 1):
        return "not_a_prefix"
    right = answer.prefix_text(first_wrong - 1)
    ends = [*answer.token_ends[:first], *(len(right) + end for end in continuation.token_ends)]
    corrected = Answer(answer.opening, right + continuation.text, ends, answer.how)
    if len(corrected.steps) < first_wrong:
        return "empty"
    # Where a token of the answer reached over the marker, the prefix lacks it, and the step before may have gone on.
    if first_wrong > 1 and corrected.steps[first_wrong - 2].end != answer.steps[first_wrong - 2].end:
        return "not_a_prefix"
    stop, chosen_stop = answer.step_tokens(first_wrong), corrected.step_tokens(first_wrong)
    pair = StepPair(
        error,
        first_wrong,
        continuation,
        corrected,
        answer.opening + right,
        corrected.text[len(right) : corrected.characters(chosen_stop)],
        answer.text[len(right) : answer.characters(stop)],
        continuation.token_ids[: max(0, chosen_stop - first)],
        error.token_ids[first:stop],
        _part(continuation.mask, 0, max(0, chosen_stop - first)),
        _part(error.mask, first, stop),
    )
    # A step that is not the model's own, such as what a tool has answered, cannot be trained on.
    if not all(mask is None or any(mask) for mask in (pair.chosen_mask, pair.rejected_mask)):
        return "empty"
    # A side may begin with a piece of the marker, which is no step.
    steps = [(pair.chosen, corrected), (pair.rejected, answer)]
    if not all(text.strip() and whole.step_texts[first_wrong - 1] for text, whole in steps):
        return "empty"
    return "equal" if pair.chosen.strip() == pair.rejected.strip() else pair


def _part(mask: list[bool] | None, start: int, stop: int) -> list[bool] | None:
    """A piece of a mask; None where all of it is the model's own."""
    return None if mask is None or all(mask[start:stop]) else mask[start:stop]


def pairs_of_problem(
    errors: Sequence[tuple[Error, int]],
    continuations: Mapping[str, Sequence[Continuation]],
    per_prompt: int,
    refused: Counter[str],
) -> tuple[list[StepPair], int]:
    """At most `per_prompt` pairs of a problem, one an error before any gets a second, and how many there were.

    `errors` come with the number of the first wrong step, `continuations` by the name of their prefix. `refused` counts
    what makes no pair: continuations by `Refusal`, where a duplicate has the texts of another pair, and errors without
    any continuation as "not_rectified".
    """
    seen: set[tuple[str, str, str]] = set()
    found: list[list[StepPair]] = []
    for error, first_wrong in errors:
        right = continuations.get(error.probe_id(first_wrong - 1), ())
        refused["not_rectified"] += not right
        found.append(list(_distinct(error, first_wrong, right, seen, refused)))
    in_turn = [pair for pair in chain.from_iterable(zip_longest(*found)) if pair is not None]
    return in_turn[:per_prompt], len(in_turn)


def _distinct(
    error: Error,
    first_wrong: int,
    continuations: Sequence[Continuation],
    seen: set[tuple[str, str, str]],
    refused: Counter[str],
) -> Iterator[StepPair]:
    for continuation in continuations:
        pair = step_pair(error, first_wrong, continuation)
        if isinstance(pair, str):
            refused[pair] += 1
            continue
        texts = (pair.reason_steps, pair.chosen, pair.rejected)
        if texts in seen:
            refused["duplicate"] += 1
        else:
            seen.add(texts)
            yield pair
