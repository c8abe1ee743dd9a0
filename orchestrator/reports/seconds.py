"""Where the seconds of each round went: its phases, and what was no work."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from orchestrator.ledger.record_files import Record
from orchestrator.ledger.waves import phase_of_wave
from orchestrator.reports.columns import Column, table
from orchestrator.reports.evidence import Evidence
from orchestrator.reports.rounds import round_and_phase


def walls(records: Iterable[Record]) -> dict[int, float]:
    """Seconds by the clock that each round took, over however many drivers: from the record before its first to its
    last. The time in which no driver was there is nobody's, and the baseline is round 0."""
    found: dict[int, float] = {}
    before, pending = None, 0.0
    for record in records:
        if record.kind == "rollback":  # what was set aside is not counted
            found = {number: took for number, took in found.items() if number <= int(record.data["round"])}
        if record.kind in ("claim", "rollback", "end") or before is None:
            before, pending = record.time, 0.0
            continue
        pending, before = pending + max(0.0, record.time - before), record.time
        if record.kind in ("commit", "shard"):
            number, _ = round_and_phase(record.data["step"])
        elif record.kind == "promotion":
            number = int(record.data["round"])
        else:  # of the round that comes next
            continue
        found[number], pending = found.get(number, 0.0) + pending, 0.0
    return found


def seconds_section(done: Sequence[Evidence], took: Mapping[int, float]) -> str:
    """A table of the rounds; `took` is what `walls` found."""
    phases = list(dict.fromkeys(phase_of_wave(phase) for e in done for phase in e.round.facts))

    def cell(phase: str) -> Callable[[Evidence], str]:
        return lambda e: own(e, phase) or _of_phase(e, phase)

    def of(part: str) -> Callable[[Evidence], str]:
        return lambda e: (
            _told(idle(e, took[e.round.number])[part], took[e.round.number]) if e.round.number in took else ""
        )

    columns = [Column("round", lambda e: str(e.round.number))]
    columns += [Column(phase, cell(phase)) for phase in phases]
    columns += [Column("in all", lambda e: f"{took[e.round.number]:,.1f}" if e.round.number in took else "")]
    columns += [Column(part, of(part)) for part in IDLE]
    return (
        "Grading is hidden behind sampling: the seconds of the verdicts are the graders' own. At the end stands what "
        "was no work, with its share of the round: until engines or ranks were ready (of a phase's seconds, but for "
        "samples), for verdicts after the last sample, and between the steps. What was taken over was done by the run "
        "that this one was forked from.\n\n" + table(columns, done)
    )


def _of_phase(evidence: Evidence, phase: str) -> str:
    """The seconds of a phase, in all waves together where its samples were drawn in waves; empty where it has none."""
    facts = [evidence.round.facts.get(name, {}) for name in evidence.round.waves(phase)]
    told = [said["seconds"] for said in facts if "seconds" in said]
    return f"{sum(told):,.1f}" if told else ""


IDLE = ("starting", "waited for grading", "between steps")
"""What was no work."""


def idle(evidence: Evidence, took: float) -> dict[str, float]:
    """The seconds of a round that were no work, by `IDLE`; it took so many by the clock."""
    return dict(
        zip(IDLE, (_sum(evidence, "starting"), _sum(evidence, "waited"), _between(evidence, took)), strict=True)
    )


def own(evidence: Evidence, phase: str) -> str:
    """What stands for the time and speed of a phase that this run has not done; empty of one that it has."""
    return "taken over" if phase in evidence.round.taken_over else ""


def _told(seconds: float, whole: float) -> str:
    return f"{seconds:.1f} ({100 * seconds / (whole or 1):.1f} %)"


def _sum(evidence: Evidence, name: str) -> float:
    """A fact of the phases that this run did itself."""
    round_ = evidence.round
    own_facts = (facts for phase, facts in round_.facts.items() if phase not in round_.taken_over)
    return float(sum(facts.get(name, 0.0) for facts in own_facts))


def _between(evidence: Evidence, took: float) -> float:
    """What no phase and no wait has: the verdicts' own seconds are beside the samples', and before a sample's first
    shard its seconds do not count."""
    round_ = evidence.round
    phases = sum(round_.seconds(phase) or 0.0 for phase in round_.facts if not phase.endswith("verdicts"))
    before_samples = sum(
        facts.get("starting", 0.0)
        for phase, facts in round_.facts.items()
        if phase.endswith("samples") and phase not in round_.taken_over
    )
    return float(max(0.0, took - phases - before_samples - _sum(evidence, "waited")))
