"""Which steps of a job are there already, which are to be done, and why."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from orchestrator.commands.fork.fit import Fit, outlook
from orchestrator.commands.fork.job import jobs
from orchestrator.config import Job
from orchestrator.errors import RatchetError
from orchestrator.ledger.ledger import State
from orchestrator.ledger.taken import origin, parent
from orchestrator.reports.status import open_run
from orchestrator.sources.source import Source

Standing = Fit | Literal["done", "part", "to do"]


@dataclass(frozen=True)
class Step:
    """A step of the job, how it stands, and why."""

    name: str
    standing: Standing
    why: str

    @property
    def round(self) -> int:
        """0 is the baseline."""
        return int(self.name.split("/")[1]) if self.name.startswith("rounds/") else 0

    @property
    def phase(self) -> str:
        """The name within its round."""
        return self.name.split("/", 2 if self.round else 1)[-1]


def steps_of(job: Job, source: Source, sets: Mapping[str, object]) -> Iterator[str]:
    """The steps that are known of a job before it runs, in order. What a round finds may ask for more, such as samples
    in waves."""
    if sets.keys() - {"train", "stages"}:
        yield from ("baseline/prompts", "baseline/evaluation")
    for number in range(1, job.rounds + 1):
        phases = [*reversed(source.trail.of(job.model_dump()))]
        phases += ["replay"] if job.pairs.replay and number > 1 else []
        phases += ["reference"] if job.loss.of_round(number).reads_reference else []
        phases += ["train"]
        phases += ["choice"] if job.train.eval_every is not None else []
        phases += ["retrain"] if job.train.retrain else []
        phases += ["policy"] if source.scores_policy else []
        yield from (f"rounds/{number:02d}/{phase}" for phase in (*phases, "evaluation", "gate"))


def standing(root: Path, state: State, job: Job, source: Source, sets: Mapping[str, object]) -> list[Step]:
    """How each step stands in the run that the job would go on with."""
    names = list(steps_of(job, source, sets))
    fits = _fits(root, state, job)
    decided = {f"rounds/{int(said['round']):02d}/gate" for said in state.promotions}
    found = []
    for name in names:
        if name in state.commits or name in decided:
            found.append(Step(name, "done", "committed by this run"))
        elif name in fits:
            found.append(Step(name, fits[name], _why(fits[name], origin(state))))
        elif shards := state.shards.get(name):
            found.append(Step(name, "part", f"{len(shards)} shards are committed by this run"))
        else:
            found.append(Step(name, "to do", "not committed" if state.configs else "no run of this name is there"))
    return found


def _why(fit: Fit, giver: str) -> str:
    if fit == "taken":
        return f"offered by {giver}, made from the same inputs"
    if fit == "anew":
        return f"offered by {giver}, and its own settings are others now"
    return f"offered by {giver}, and taken if what it is made from comes out as it was"


def _fits(root: Path, state: State, job: Job) -> Mapping[str, Fit]:
    """How what another run offers fits; what is known of that run no more is `perhaps` for all."""
    offered = {step for step, _ in state.offers}
    folder = parent(state)
    if not offered or folder is None:
        return {}
    try:
        before = open_run(Path(folder)).state
        was, _, _ = jobs(before, root, ())
        return outlook(before, was, job, offered, ())
    except (RatchetError, OSError):
        return dict.fromkeys(offered, "perhaps")
