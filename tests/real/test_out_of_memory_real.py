"""A whole run whose training dies of memory once: the driver, its ledger and a real Ray with a group of real actors.
What computes in them is a stand-in, which raises what torch does."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from orchestrator.commands.verify.command import verify
from orchestrator.config import Grade, Job, Train
from orchestrator.config.load import load_job
from orchestrator.driver.cluster import Cluster
from orchestrator.driver.drive import drive
from orchestrator.driver.signals import signals
from orchestrator.driver.wiring import RealWorkers
from orchestrator.errors import Interrupted
from orchestrator.ledger.ledger import Ledger
from orchestrator.records.rows import Problem, ScoringPlan, TokenizingPlan, TrainingPlan
from orchestrator.reports.status import render, status
from tests.support.local_ray import local_ray
from tests.support.stand_in_ranks import OutOfMemoryError, Rank
from tests.support.stand_ins import StandIns, StandInTrainers, all_read, make_project
from workers.training.group import TrainerGroup

pytestmark = [pytest.mark.real, pytest.mark.full]

KEY = "train.tokens_per_microbatch"
HOLDS = 60
"""Tokens of a micro-batch that a device has memory for while it trains; scoring takes less."""


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    with local_ray():
        yield


class Here(Cluster):
    """The Ray that this process is in already: Ray keeps a private one's token for all of a process's life."""

    def __enter__(self) -> Here:
        return self

    def __exit__(self, *_: object) -> None:
        self._helper = None


class SmallRank(Rank):
    """Trains as the stand-in trainers do, on a device that has little memory."""

    def reference_logprobs(self, plan: ScoringPlan) -> list[tuple[str, float, int]]:
        return [("key", -1.0, 1)]

    def train(self, plan: TrainingPlan, reference_file: str | None) -> Any:
        if self.tokens > HOLDS:
            raise OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        yield "facts", StandInTrainers(StandIns()).train(plan, reference_file)


class Small(RealWorkers):
    """The run's own workers with such ranks; engines and graders are the stand-ins."""

    def __init__(self, job: Job, logs: Path, on_call: Callable[[str], None] = lambda name: None) -> None:
        super().__init__(job, logs)
        self._cluster = Here(job.cluster, logs)
        self.others = StandIns(on_call=on_call)

    def tokenize(self, problems: list[Problem], plan: TokenizingPlan, output: str) -> dict[str, Any]:
        return self.others.tokenize(problems, plan, output)

    def engines(self, model: str, probe: Path | None = None) -> Any:
        self._release()
        return self.others.engines(model)

    def graders(self, settings: Grade) -> Any:
        return self.others.graders(settings)

    def _ranks(self, settings: Train, placement: Any) -> Any:
        return TrainerGroup(settings, placement, halving=self._halving, rank=SmallRank)


def driven(job: Path, *overrides: str, on_call: Callable[[str], None] = lambda name: None) -> list[str]:
    """Drive a job with a device that has memory for `HOLDS` tokens; returns what was said."""
    said: list[str] = []
    with signals() as received:
        file = load_job(job, overrides)
        drive(file, said.append, received, lambda job, logs: Small(job, logs, on_call), ask=all_read)
    return said


def shown(run: Path) -> str:
    text = io.StringIO()
    Console(file=text, width=200).print(render(status(run)))
    return text.getvalue()


def test_a_training_that_runs_out_of_memory_ends_well_and_the_run_says_with_what(tmp_path: Path) -> None:
    job, run = make_project(tmp_path), tmp_path / "run"
    of_evaluation: list[str] = []

    def interrupt(name: str) -> None:
        """At the round's evaluation, when its training is done."""
        if name == "generate" and "rounds/01/train" in Ledger(run / "ledger").state.commits:
            of_evaluation.append(name)
            raise Interrupted("SIGTERM")

    asked = [f"{KEY}=100", "rounds=1", "train.ranks=1"]
    with pytest.raises(Interrupted):
        driven(job, *asked, on_call=interrupt)
    assert of_evaluation
    commits = Ledger(run / "ledger").state.commits
    scored, trained = (commits[f"rounds/01/{phase}"].facts for phase in ("reference", "train"))
    assert scored["executed"][KEY] == 100 and "halved" not in scored["executed"] and scored["restarts"] == 0
    assert trained["executed"][KEY] == 50 and trained["executed"]["halved"] == [KEY] and trained["restarts"] == 1

    said = driven(job, *asked)
    assert Ledger(run / "ledger").state.commits["rounds/01/train"] == commits["rounds/01/train"], "it is kept"
    assert not any("out of memory" in line for line in said), "and not done again"
    word = f"train with half of {KEY}, 50, since memory was short"
    assert status(run)["rounds"][0]["halved"] == {"train": {KEY: 50}} and f"round 1: {word}" in shown(run)
    report = (run / "report.md").read_text()
    assert word in report.replace("\\", "") and f"{KEY} | 100 from rounds/01/reference, 50 from" in report
    assert verify(run).findings == []

    said = driven(job, f"{KEY}=100", "rounds=2", "train.ranks=1")
    assert not any("out of memory" in line for line in said), "a start begins with what the last one has come to"
    [line] = [line for line in said if "it begins with half of train.tokens_per_microbatch, 50" in line]
    assert status(run)["state"] == "finished" and "train" in status(run)["rounds"][1]["halved"]
    assert Ledger(run / "ledger").state.commits["rounds/02/train"].facts["restarts"] == 0

    [line] = [line for line in driven(job, f"{KEY}=102", "rounds=3", "train.ranks=1") if "memory" in line]
    assert "tried once more with half of train.tokens_per_microbatch, 51" in line, "another value is taken at its word"


def test_too_little_memory_for_half_ends_the_run_and_the_same_command_goes_on_with_less(tmp_path: Path) -> None:
    job, run = make_project(tmp_path), tmp_path / "run"
    with pytest.raises(Exception, match=f"{KEY}: 200, half of what the job says, and it is not tried with less"):
        driven(job, f"{KEY}=400", "rounds=1")
    assert status(run)["state"] == "failed"
    before = Ledger(run / "ledger").state.commits
    driven(job, f"{KEY}={HOLDS}", "rounds=1")
    assert status(run)["state"] == "finished" and status(run)["rounds"][0]["halved"] == {}
    after = Ledger(run / "ledger").state.commits
    assert {step: after[step] for step in before} == before, "nothing is done twice"
