"""What turns in a run while it goes on, told once: as soon as the step is committed by which it is seen."""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.ledger.ledger import State
from orchestrator.reports.evidence import by_ledger
from orchestrator.reports.gate_words import gate_said
from orchestrator.reports.health import health
from orchestrator.reports.progress.model import MOST_TEXT, MOST_WARNINGS, RoundLine
from orchestrator.reports.symptoms import Check, by_round

SEEN_BY = frozenset({"verdicts", "pairs", "train", "evaluation", "drift"})
"""Phases whose facts, once they are committed, may show that something has turned."""


class Turning:
    """The warnings of one run. `checks` are those of its source of pairs."""

    def __init__(self, checks: Sequence[Check] = ()) -> None:
        self._checks = checks
        self._told: dict[int, tuple[str, ...]] = {}

    def look(self, state: State) -> list[tuple[int, str]]:
        """What has turned since the last look, with the number of its round."""
        new = []
        for number, found in by_round(*by_ledger(state), self._checks).items():
            told = tuple(said[:MOST_TEXT] for said in found[:MOST_WARNINGS])
            new += [(number, said) for said in told if said not in self._told.get(number, ())]
            self._told[number] = told
        return new

    def of(self, number: int | None) -> tuple[str, ...]:
        """What had turned in a round by the last look."""
        return self._told.get(number or 0, ())

    def said_of(self, line: RoundLine, state: State) -> RoundLine:
        """The round's line with the gate's word, its health and its warnings."""
        self.look(state)
        evidence = next((one for one in by_ledger(state)[1] if one.round.number == line.number), None)
        if evidence is None:
            return line
        decision = gate_said(evidence.promotion, evidence.round.facts.get("evaluation")) if evidence.promotion else ""
        told = {"decision": decision[:MOST_TEXT], "health": health(evidence), "warnings": self.of(line.number)}
        return line.model_copy(update=told)
