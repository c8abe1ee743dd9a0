"""How far a step is whose work comes back piece by piece, and is committed as a whole."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.records.progress import UNWATCHED, Watch


@dataclass(frozen=True)
class Answers:
    """Tells how far the evaluation `step` is."""

    watch: Watch = UNWATCHED
    step: str = ""

    def expect(self, answers: int, unit: str = "problems") -> None:
        """The engines are there, for so many."""
        self.watch.expect(self.step, answers, unit)

    def shard(self, facts: Mapping[str, Any]) -> None:
        """A shard was sampled, or graded, with these facts."""
        if "samples" in facts:
            self.watch.grow(self.step, 0, tokens=facts["tokens"])
        else:
            counts = {verdict: facts.get(verdict, 0) for verdict in ("correct", "wrong", "ungradable")}
            self.watch.grow(self.step, sum(counts.values()), **counts)

    def requests(self, number: int, facts: Mapping[str, Any]) -> None:
        """So many requests were answered, with these facts."""
        self.watch.grow(self.step, number, tokens=facts["tokens"])


class Updates:
    """Tells how far the training `step` is."""

    def __init__(self, watch: Watch, step: str) -> None:
        self._watch, self._step, self._last = watch, step, 0

    def told(self, row: Mapping[str, Any]) -> None:
        """An update has ended; see `Trainers.train`. Its number is lower than the last one's where ranks were lost."""
        number, loss = int(row["step"]), row.get("loss")
        if not self._last:
            self._last = number - 1
            self._watch.expect(self._step, row.get("updates", 0), "updates", had=self._last)
        newest = "" if loss is None else f"loss {loss:.3f}"
        self._watch.grow(self._step, number - self._last, newest, tokens=row.get("tokens", 0))
        self._watch.measure(self._step, number, {name: row[name] for name in row if name not in ("step", "updates")})
        self._last = number
