"""What the runs of a comparison have come to: test accuracy by round, and what was spent on it. Read from the ledgers
alone, so that the table can be made again at any time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from statistics import fmean
from typing import Any

from orchestrator.commands.compare.file import Plan, PlannedRun
from orchestrator.driver.kept import KEPT_MODEL
from orchestrator.ledger.ledger import Ledger, State
from orchestrator.records.abstentions import graders_version
from orchestrator.reports.rounds import round_and_phase
from orchestrator.reports.status import run_state

_OFFERED = "-offered"


@dataclass(frozen=True)
class Accuracy:
    """Test accuracy after a round of a run; round 0 is the base model."""

    round: int
    correct: int
    problems: int
    accuracy: float
    """A fraction, as all figures here."""
    low: float
    high: float
    """95 % interval (Wilson)."""
    promoted: bool
    """False where the gate refused the checkpoint."""


@dataclass(frozen=True)
class RunFigures:
    """What one run has done."""

    run: str
    seed: int
    state: str
    """As `ratchet status` says it; `missing` where there is no such run yet."""
    reason: str
    """Why it stopped or failed."""
    rounds: list[Accuracy]
    samples: int | None = None
    """Samples that its rounds were made from, of hints, rollouts and judgements too; not those of evaluations. This
    and what follows is None while nothing of it was done: 0 is said of runs that are over."""
    shared: int | None = None
    """How many of them another run of the comparison had drawn."""
    training_tokens: int | None = None
    pairs: int | None = None
    seconds: float | None = None
    """Seconds of the rounds' steps, those that were shared too; grading is hidden behind sampling."""
    graders_versions: tuple[int, ...] = ()
    """Of the graders that the accuracies are by; several where the run went on with another."""
    outdated: str = ""
    """How what it started from is no longer what its arm's `start` has come to, in words."""


@dataclass(frozen=True)
class Point:
    """Test accuracy of an arm after a round, over its seeds."""

    round: int
    accuracy: float
    """The mean."""
    low: float
    high: float
    """Of one seed its 95 % interval (Wilson); of several seeds the lowest and the highest."""
    seeds: list[float]
    """The accuracy of each."""
    refused: bool
    """Whether the gate refused one of these checkpoints."""


@dataclass(frozen=True)
class ArmFigures:
    """An arm: its runs, and its accuracy by round over them."""

    arm: str
    method: str
    start: str | None
    """The arm that its base model is from."""
    runs: list[RunFigures]
    points: list[Point] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "points", list(_points(self.runs)))

    def mean(self, what: str) -> float | None:
        """A figure of the runs that have it, on average; None without any."""
        known = [float(value) for run in self.runs if (value := getattr(run, what)) is not None]
        return fmean(known) if known else None


def figures(plan: Plan) -> list[ArmFigures]:
    """What the runs have come to, arm by arm."""
    figures_by_arm = []
    for arm, group in groupby(plan.runs, key=lambda planned: planned.arm):
        runs = list(group)
        start = runs[0].start.rpartition("-seed")[0] if runs[0].start else None
        figures_by_arm.append(ArmFigures(arm, runs[0].file.job.method, start, [run_figures(plan, run) for run in runs]))
    return figures_by_arm


def run_figures(plan: Plan, planned: PlannedRun) -> RunFigures:
    """What one run has come to so far."""
    root = plan.folder / planned.name
    if not (root / "ledger").is_dir():
        return RunFigures(planned.name, planned.seed, "missing", "", [])
    state = Ledger(root / "ledger").state
    sampled = [shard for step, shards in state.shards.items() if _is(step, "samples") for shard in shards.values()]
    facts = {step: commit.facts for step, commit in state.commits.items() if round_and_phase(step)[0]}
    trained = [said for step, said in facts.items() if _is(step, "train") or _is(step, "retrain")]
    now = run_state(root, state)
    over = now in ("finished", "stopped")
    paired = [said for step, said in facts.items() if round_and_phase(step)[1] == "pairs"]
    took = round(sum(said.get("seconds", 0.0) for step, said in facts.items() if not _is(step, "verdicts")), 1)
    left = [shard for shard in sampled if shard.artifact.hidden.endswith(_OFFERED)]
    return RunFigures(
        planned.name,
        planned.seed,
        now,
        str((state.end or {}).get("reason", "")),
        list(_accuracies(state)),
        samples=sum(shard.facts["samples"] for shard in sampled) if sampled or over else None,
        shared=sum(shard.facts["samples"] for shard in left) if sampled or over else None,
        training_tokens=sum(said["tokens"] for said in trained) if trained or over else None,
        pairs=sum(said["pairs"] for said in paired) if paired or over else None,
        seconds=took if took or over else None,
        graders_versions=tuple(sorted({graders_version(said) for said in _evaluations(state).values()})),
        outdated=_outdated(plan, planned.start, state) if planned.start else "",
    )


def _outdated(plan: Plan, start: str, state: State) -> str:
    """Where the run called `start` has gone on, back or was made anew since a run has kept its checkpoint."""
    kept, root = state.commits.get(KEPT_MODEL), plan.folder / start
    if kept is None:
        return ""
    said = f"started from round {kept.facts.get('round')} of {start}"
    if not (root / "ledger").is_dir():
        return f"{said}, which is not there any more"
    now = Ledger(root / "ledger").state
    if kept.facts.get("run_id") != now.configs[-1].get("run_id"):
        return f"{said}, in whose place there is another run now"
    number = round_and_phase(now.promotions[-1]["reference"])[0] if now.promotions else 0
    has = f"come to round {number}" if number else "gone back to its base model"
    return f"{said}, which has {has} since" if number != kept.facts.get("round") else ""


def _is(step: str, phase: str) -> bool:
    """Whether a step is a round's step of that name, or that of one of its parts."""
    return round_and_phase(step)[0] > 0 and step.rpartition("/")[2] == phase


def _accuracies(state: State) -> Iterator[Accuracy]:
    refused = {decision["round"] for decision in state.promotions if not decision["promoted"]}
    for number, facts in sorted(_evaluations(state).items()):
        test = facts["test"]
        counts = (test["correct"], test["problems"], test["accuracy"], test["low"], test["high"])
        yield Accuracy(number, *counts, number not in refused)


def _evaluations(state: State) -> dict[int, dict[str, Any]]:
    """Facts of the evaluations on test problems, by round."""
    every = {round_and_phase(s)[0]: c.facts for s, c in state.commits.items() if s.endswith("/evaluation")}
    return {number: facts for number, facts in every.items() if facts.get("test")}


def _points(runs: Sequence[RunFigures]) -> Iterator[Point]:
    for number in sorted({accuracy.round for run in runs for accuracy in run.rounds}):
        accuracies = [accuracy for run in runs for accuracy in run.rounds if accuracy.round == number]
        if number == 0 and len({(accuracy.correct, accuracy.problems) for accuracy in accuracies}) == 1:
            accuracies = accuracies[:1]  # a base model that all share
        each = [accuracy.accuracy for accuracy in accuracies]
        low, high = (accuracies[0].low, accuracies[0].high) if len(accuracies) == 1 else (min(each), max(each))
        yield Point(number, fmean(each), low, high, each, not all(accuracy.promoted for accuracy in accuracies))
