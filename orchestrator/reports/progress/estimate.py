"""How long a run will still take, by what its earlier rounds took: the times of the ledger's records."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from orchestrator.ledger.ledger import State
from orchestrator.ledger.record_files import Record
from orchestrator.ledger.taken import taken
from orchestrator.reports.rounds import round_and_phase

GATE = "gate"


def timed_as(phase: str) -> str:
    """Samples and verdicts are made at once: their records tell one time."""
    return f"{phase.removesuffix('verdicts')}samples" if phase.endswith("verdicts") else phase


class Durations:
    """Seconds by round and phase, from record to record of one driver: starts of workers count for the phase that they
    were for, and the time between two drivers for none."""

    def __init__(self) -> None:
        self._last: float | None = None
        self._seconds: dict[int, dict[str, float]] = {}
        self._over: set[int] = set()
        self._foreign: set[int] = set()  # rounds of which another run has done a part

    def follow(self, records: Sequence[Record], state: State) -> None:
        """Count new records; `state` is the fold of the ledger up to them or further."""
        for record in records:
            took = 0.0 if self._last is None else max(0.0, record.time - self._last)
            self._last = record.time  # also a claim's: the time before it counts for nothing
            if record.kind in ("shard", "commit"):
                number, phase = round_and_phase(step := record.data["step"])
                self._add(number, phase, took)
                if number not in self._foreign and taken(state, step):
                    self._foreign.add(number)
            elif record.kind == "promotion":
                number = int(record.data["round"])
                self._add(number, GATE, took)
                self._over.add(number)
            elif record.kind == "rollback":
                self._forget(int(record.data["round"]))

    def _add(self, number: int, phase: str, seconds: float) -> None:
        by_phase, phase = self._seconds.setdefault(number, {}), timed_as(phase)
        by_phase[phase] = by_phase.get(phase, 0.0) + seconds

    def _forget(self, last: int) -> None:
        """What follows a round was set aside."""
        self._seconds = {number: by_phase for number, by_phase in self._seconds.items() if number <= last}
        self._over = {number for number in self._over if number <= last}
        self._foreign = {number for number in self._foreign if number <= last}

    def of(self, number: int) -> float | None:
        """What a round took this run, so far; None where another run has done a part of it."""
        return None if number in self._foreign else sum(self._seconds.get(number, {}).values())

    def usual(self) -> dict[str, float]:
        """What each phase takes in the mean of the rounds that are over; empty where there is none."""
        rounds = [self._seconds[n] for n in self._over - self._foreign]
        phases = dict.fromkeys(phase for by_phase in rounds for phase in by_phase)
        return {p: sum(by_phase.get(p, 0.0) for by_phase in rounds) / len(rounds) for p in phases}

    def left(
        self,
        number: int,
        rounds: int,
        done: Collection[str],
        running: str | None,
        elapsed: float,
        by_rate: float | None,
    ) -> float | None:
        """Seconds that the run still takes, from within round `number` (0: before the first) of `rounds`.

        `done` are the phases of it that are over, `running` is the one under way, `elapsed` seconds old; `by_rate` is
        what its own rate says is left of it. None: no round is over that could tell.
        """
        usual = self.usual()
        if not usual:
            return None
        later = max(0, rounds - max(number, 0)) * sum(usual.values())
        if number == 0:
            return later
        left = 0.0
        for phase, seconds in usual.items():
            if phase == running:
                left += by_rate if by_rate is not None else max(0.0, seconds - elapsed)
            elif phase not in done:
                left += seconds
        return left + later
