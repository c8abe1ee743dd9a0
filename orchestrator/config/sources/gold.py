"""Worked gold solutions, to be imitated: supervised fine-tuning."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, ClassVar, Literal

from orchestrator.config.sources.base import PROBLEMS, SourceSettings, gold_solutions

if TYPE_CHECKING:
    from orchestrator.config.job import Job


class Gold(SourceSettings):
    """The gold solutions; which field they are in is in `data`."""

    type: Literal["gold"] = "gold"

    what: ClassVar[str] = "the gold solutions"
    reads: ClassVar[frozenset[str]] = frozenset(PROBLEMS)
    imitates: ClassVar[bool] = True

    def contradictions(self, job: Job) -> Iterator[str]:
        yield from gold_solutions(job, "source: gold")
