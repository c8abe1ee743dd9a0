"""The rounds of a run as its ledger tells them. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from orchestrator.ledger.ledger import State
from orchestrator.ledger.taken import taken
from orchestrator.ledger.waves import phase_of_wave
from orchestrator.records.executed import halved


@dataclass
class RoundStatus:
    """One round as the ledger tells it: facts by phase ("samples", "train", ...), and the gate's word."""

    number: int
    facts: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Facts of the steps that are committed."""
    so_far: dict[str, dict[str, int]] = field(default_factory=dict)
    """Sums over the committed shards of a phase, whether or not the phase has ended."""
    promotion: dict[str, Any] | None = None
    taken_over: set[str] = field(default_factory=set)
    """Phases that another run has done: their facts tell its seconds (see ledger/taken.py)."""

    def seconds(self, phase: str) -> float | None:
        """What a phase took this run; None where it did not do it."""
        facts = self.facts.get(phase, {})
        return float(facts["seconds"]) if "seconds" in facts and phase not in self.taken_over else None

    def halved(self) -> dict[str, dict[str, Any]]:
        """By phase: what it was done with half of since memory was short, by key of the job."""
        return {phase: half for phase, facts in self.facts.items() if (half := halved(facts))}

    def count(self, phase: str, key: str) -> int:
        """A count of a phase: its commit's if it has ended, else the sum of its committed shards; of samples that are
        drawn in waves, that of all waves."""
        return sum(int(self.facts.get(p, self.so_far.get(p, {})).get(key, 0)) for p in self.waves(phase))

    def waves(self, phase: str) -> list[str]:
        """The phase as it stands, and as it is of each later wave."""
        known = self.so_far.keys() | self.facts.keys()
        return [phase, *sorted(p for p in known if p != phase and phase_of_wave(p) == phase)]

    def known(self, phase: str, key: str) -> int | None:
        """The same; None for a phase of which nothing is done, or that the round does not have."""
        return self.count(phase, key) if phase in self.facts or phase in self.so_far else None


def rounds(state: State) -> list[RoundStatus]:
    """Every round that anything was committed for, in order."""
    rounds_by_number: dict[int, RoundStatus] = {}

    def round_of(number: int) -> RoundStatus:
        return rounds_by_number.setdefault(number, RoundStatus(number))

    for step, commit in state.commits.items():
        number, phase = round_and_phase(step)
        round_of(number).facts[phase] = commit.facts
        if taken(state, step):
            round_of(number).taken_over.add(phase)
    for step, shards in state.shards.items():
        number, phase = round_and_phase(step)
        sums = round_of(number).so_far.setdefault(phase, {})
        for shard in shards.values():
            for key, value in shard.facts.items():
                if isinstance(value, int) and not isinstance(value, bool):
                    sums[key] = sums.get(key, 0) + value
    for promotion in state.promotions:
        round_of(int(promotion["round"])).promotion = promotion
    rounds_by_number.pop(0, None)  # the baseline
    return [rounds_by_number[number] for number in sorted(rounds_by_number)]


def round_and_phase(step: str) -> tuple[int, str]:
    """Split a step's name: "rounds/02/pairs" is (2, "pairs"), "baseline/evaluation" is (0, "evaluation")."""
    first, _, rest = step.partition("/")
    if first == "rounds":
        number, _, phase = rest.partition("/")
        if number.isascii() and number.isdigit():
            return int(number), phase
    return 0, rest or first


def accuracy(evaluation: Mapping[str, Any] | None, split: str = "test") -> float | None:
    """Accuracy, as a fraction, from the facts of an evaluation step."""
    figures = (evaluation or {}).get(split)
    return None if figures is None else float(figures["accuracy"])
