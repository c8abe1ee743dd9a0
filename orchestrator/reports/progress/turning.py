"""What turns in a run while it goes on, told once: as soon as the step is committed by which it is seen."""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.ledger.ledger import State
from orchestrator.reports.evidence import Evidence, by_ledger
from orchestrator.reports.gate_words import gate_said
from orchestrator.reports.health import health
from orchestrator.reports.progress.model import MOST_TEXT, MOST_WARNINGS, RoundLine
from orchestrator.reports.rounds import accuracy
from orchestrator.reports.symptoms import Check, by_round

BASE = "baseline/evaluation"
SEEN_BY = frozenset({"verdicts", "pairs", "train", "evaluation", "drift"})
"""Phases whose facts, once they are committed, may show that something has turned."""


class Turning:
    """The warnings of one run. `checks` are those of its source of pairs."""

    def __init__(self, checks: Sequence[Check] = ()) -> None:
        self._checks = checks
        self._told: dict[int, tuple[str, ...]] = {}
        self._evidence: dict[int, Evidence] = {}

    def look(self, state: State, at: int | None = None) -> list[tuple[int, str]]:
        """What has turned since the last look, with the number of its round; `at` is the one round that anything is
        new of, where that is known: a run may have thousands."""
        new = []
        base, done = by_ledger(state)
        self._evidence = {one.round.number: one for one in done}
        for number, found in by_round(base, done, self._checks, at).items():
            told = tuple(said[:MOST_TEXT] for said in found[:MOST_WARNINGS])
            new += [(number, said) for said in told if said not in self._told.get(number, ())]
            self._told[number] = told
        return new

    def of(self, number: int | None) -> tuple[str, ...]:
        """What had turned in a round by the last look."""
        return self._told.get(number or 0, ())

    def line_of(self, number: int, state: State) -> RoundLine:
        """A round that the gate has decided on, by the last look."""
        if (evidence := self._evidence.get(number)) is None:
            return RoundLine(number=number)
        found = evidence.round
        figures, decision = found.facts.get("evaluation"), found.promotion or {}
        split = "test" if accuracy(figures) is not None else "gate"
        earlier = [p for p in state.promotions if int(p["round"]) < number and p["promoted"]]
        before = state.commits.get(f"rounds/{int(earlier[-1]['round']):02d}/evaluation" if earlier else BASE)
        return RoundLine(
            number=number,
            promoted=bool(decision["promoted"]) if decision else None,
            gate=accuracy(figures, "gate"),
            test=accuracy(figures),
            before=accuracy(before.facts if before else None, split),
            pairs=found.known("pairs", "pairs"),
            won=decision.get("won"),
            lost=decision.get("lost"),
        )

    def said_of(self, line: RoundLine) -> RoundLine:
        """The round's line with the gate's word, its health and its warnings by the last look."""
        if (evidence := self._evidence.get(line.number)) is None:
            return line
        decision = gate_said(evidence.promotion, evidence.round.facts.get("evaluation")) if evidence.promotion else ""
        told = {"decision": decision[:MOST_TEXT], "health": health(evidence), "warnings": self.of(line.number)}
        return line.model_copy(update=told)


def base_line(state: State) -> RoundLine:
    """The base model."""
    facts = state.commits[BASE].facts
    return RoundLine(number=0, gate=accuracy(facts, "gate"), test=accuracy(facts))
