"""Which prompt takes engines down: narrowed from death to death, so that no other prompt is given up.

A shard is first sampled beside others. After a death, each prompt that was in the engine has a strike, and the shard
has an engine to itself; small parts of shards share one. Prompts with two strikes are sampled one at a time: whose turn
it is at the third death is given up (quarantined), and the run goes on without it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from orchestrator.records.rows import Shard

STRIKES = 3
"""Deaths that a prompt must be in, the last one alone, to be given up."""


@dataclass
class Work:
    """What is left to do of a shard: of a commit unit, or of a part of one."""

    shard: Shard
    unit: Shard
    strikes: Counter[str] = field(default_factory=Counter)
    quarantined: list[str] = field(default_factory=list)
    only: Sequence[str] | None = None
    """The prompts of the next call, or of the one under way; None is all."""
    finished: int = 0
    """How many of its prompts were known to be finished at its last death."""
    begun: bool = False
    """Whether an engine has had it: then its finished prompts are in a file, and it is not cut any more."""

    @property
    def exclusive(self) -> bool:
        """Whether it must have an engine to itself."""
        return bool(self.strikes)

    @property
    def alone(self) -> bool:
        """Whether the next call is of a suspect, which must be the only prompt in its engine."""
        return any(self.strikes[prompt] >= STRIKES - 1 for prompt in self.only or [])

    def choose(self, prompts: Sequence[str], finished: Collection[str]) -> None:
        """Choose the prompts of the next call: all that are not suspect, else the next suspect."""
        left = [p for p in prompts if p not in finished and p not in self.quarantined]
        self.only = [p for p in left if self.strikes[p] < STRIKES - 1] or left[:1]

    def engine_died(self, prompts: Sequence[str], finished: Collection[str]) -> None:
        """Charge the prompts that were in the engine, and give up the one that was there alone a third time."""
        for prompt in prompts if self.only is None else self.only:
            if prompt not in finished and prompt not in self.quarantined:
                self.strikes[prompt] += 1
                if self.strikes[prompt] == STRIKES:
                    self.quarantined.append(prompt)
