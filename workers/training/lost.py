"""How a group of ranks may be lost, and what is done once about a want of memory. Imports neither torch nor Ray."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pyarrow.compute as pc

from orchestrator.config import Train
from orchestrator.errors import RatchetError
from orchestrator.records.executed import HALVED
from orchestrator.records.parquet import read_table

_KEY = "train.tokens_per_microbatch"


class TrainingFailed(RatchetError):
    """A training rank failed; the message is the worker's own, with the rank in front."""


class RanksLost(Exception):
    """A rank died or hangs, and with it the group: the others would wait for it forever."""


class NodeLost(RanksLost):
    """So that there was no place for a rank to start in."""


class OutOfMemory(RanksLost):
    """A rank had not enough memory; with the same settings it would not have next time either."""


class Halving:
    """The size of the ranks' micro-batches: as the job says, and half of it from the first want of memory on. One for
    all groups of a driver, so that the next phase does not run out of memory again. `keep` is told of the half, and
    gives it to the next start as `begun`, unless the user has seen to the memory since. `estimated` says that the job
    left the size to the machine."""

    def __init__(
        self,
        settings: Train,
        say: Callable[[str], None] = lambda line: None,
        begun: int | None = None,
        keep: Callable[[int], None] = lambda tokens: None,
        estimated: bool = False,
    ) -> None:
        self._asked, self._estimated = settings.microbatch, estimated
        self.tokens = min(begun or self._asked, self._asked)
        self._most = settings.max_tokens
        self._say, self._keep = say, keep
        if self.executed:
            say(
                f"training  it begins with half of train.tokens_per_microbatch, {self.tokens}, since memory was short "
                "before; another value of it, or other ranks, ZeRO, checkpointing or offload, are taken at their word"
            )

    @property
    def executed(self) -> dict[str, Any]:
        """What is otherwise than the job says, by its key, and of which keys that is a half (`HALVED`)."""
        return {} if self.tokens == self._asked else {_KEY: self.tokens, HALVED: [_KEY]}

    def halve(self, short: OutOfMemory, files: Sequence[str]) -> None:
        """Go on with half; `files` are the pairs that are worked on.

        Raises:
            TrainingFailed: that was not enough, or there is nothing to halve.
        """
        half = self._asked // 2
        alone = self._alone(files, max(half, 1))
        if self.executed or not half:
            raise TrainingFailed(
                f"{short}. That was with train.tokens_per_microbatch: {self.tokens}"
                f"{self._half_of if self.executed else ''}, and it is not tried with less{alone}. Set "
                "train.activation_checkpointing: true, train.offload_optimizer: true, a higher train.zero, more "
                "train.ranks or a smaller train.tokens_per_microbatch, all of which may change at every start; then "
                "the same command goes on"
            ) from short
        self.tokens = half
        self._keep(half)
        cure = "; what fits was estimated: set it, or train.activation_checkpointing: true" if self._estimated else ""
        self._say(
            f"training  {short}; it is tried once more with half of train.tokens_per_microbatch, {half}{cure}{alone}"
        )

    @property
    def _half_of(self) -> str:
        return f", half of what {'was estimated to fit' if self._estimated else 'the job says'}"

    def _alone(self, files: Sequence[str], limit: int) -> str:
        """A clause where a single pair is larger than a micro-batch may be: no smaller limit divides it."""
        largest = _largest_pair(files, self._most)
        if largest <= limit:
            return ""
        return (
            f"; but the largest pair has {largest} tokens, which go through the model at once whatever the limit is, "
            "and only train.max_tokens drops it (in a fork of the run)"
        )


def _largest_pair(files: Sequence[str], most: int | None) -> int:
    """Tokens of the largest pair, prompt and sides, of those that `max_tokens` does not drop; 0 for none."""
    largest = 0
    for file in files:
        table = read_table(file, columns=["prompt_token_ids", "chosen_token_ids", "rejected_token_ids"])
        lengths = [pc.fill_null(pc.list_value_length(table[name]), 0).to_pylist() for name in table.column_names]
        for prompt, *sides in zip(*lengths, strict=True):
            if most is None or prompt + max(sides) <= most:
                largest = max(largest, prompt + sum(sides))
    return largest
