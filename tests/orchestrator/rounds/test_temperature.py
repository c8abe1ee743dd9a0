"""A temperature that follows the share of mixed prompts: decided by the verdicts of the round before, and committed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.commands.fork.command import fork
from orchestrator.commands.verify.command import verify
from orchestrator.config import AdaptTemperature
from orchestrator.errors import Interrupted
from orchestrator.ledger.ledger import Ledger
from orchestrator.records.rows import SamplingPlan, Shard
from orchestrator.rounds.temperature import adapted
from tests.orchestrator.commands.test_verify_facts import records, seal
from tests.orchestrator.test_loop import StopAt, history
from tests.support.stand_ins import StandInEngines, StandIns, make_project, run_job, skill_of

ADAPT = "generate.adapt_temperature={mixed: 0.95, step: 0.2, highest: 1.3}"


class Seeing(StandIns):
    """Notes at which temperature the engines sample."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.temperatures: list[float] = []

    def engines(self, model: str, probe: Path | None = None) -> StandInEngines:
        return _Engines(self, skill_of(model))


class _Engines(StandInEngines):
    def generate(self, shards: list[Shard], plan: SamplingPlan) -> Iterator[tuple[Shard, dict[str, Any]]]:
        assert isinstance(self.workers, Seeing)
        if plan.temperature:  # no evaluation
            self.workers.temperatures.append(plan.temperature)
        return super().generate(shards, plan)


def decisions(run: Path) -> dict[str, dict[str, Any]]:
    commits = Ledger(run / "ledger").state.commits
    return {step: commits[step].facts for step in commits if step.endswith("/temperature")}


@pytest.mark.parametrize(
    ("before", "mixed", "right", "wrong", "ungradable", "after"),
    [
        (1.0, 5, 5, 0, 0, 1.0),  # as many as wanted
        (1.0, 4, 4, 2, 0, 1.1),  # most others are too easy
        (1.0, 4, 2, 4, 0, 0.9),
        (1.0, 4, 3, 3, 0, 0.9),  # of equals: no right sample is worse than only right ones
        (1.0, 4, 3, 0, 4, 0.9),
        (1.45, 0, 9, 0, 0, 1.5),
        (1.5, 0, 9, 0, 0, 1.5),
        (0.5, 0, 0, 9, 0, 0.5),
        (0.7, 0, 9, 0, 0, 0.8),  # and no 0.7999999999999999
        (1.0, 0, 0, 0, 0, 1.0),
    ],
)
def test_the_kinds_of_prompts_decide(
    before: float, mixed: int, right: int, wrong: int, ungradable: int, after: float
) -> None:
    kinds = {"mixed": mixed, "all_correct": right, "all_wrong": wrong, "ungradable": ungradable}
    assert adapted(before, kinds, AdaptTemperature()) == after


def test_each_round_samples_at_the_temperature_that_was_decided(tmp_path: Path) -> None:
    workers = Seeing(gain=0.0)
    said = run_job(make_project(tmp_path, skill=0.9), workers, "rounds=4", ADAPT)
    assert list(dict.fromkeys(workers.temperatures)) == [1.0, 1.2, 1.3]
    made = decisions(tmp_path / "run")
    assert [facts["temperature"] for facts in made.values()] == [1.2, 1.3, 1.3]
    assert list(made) == [f"rounds/0{number}/temperature" for number in (2, 3, 4)]
    pairs = Ledger(tmp_path / "run/ledger").state.commits["rounds/01/pairs"].facts
    second = made["rounds/02/temperature"]
    kinds = ("mixed", "all_correct", "all_wrong", "ungradable")
    assert [second[f"prompts_{kind}"] for kind in kinds] == [pairs[f"prompts_{kind}"] for kind in kinds]
    assert any("rounds/02" in line and "temperature 1.2, 1 before" in " ".join(line.split()) for line in said)
    report = (tmp_path / "run/report.md").read_text()
    assert "## Temperature" in report and "| 3 | 1.3 | 1.2 |" in report
    found = verify(tmp_path / "run")
    assert found.findings == [] and found.followed


@pytest.mark.parametrize("stop", [9, 16])
def test_a_resumed_run_decides_the_same(tmp_path: Path, stop: int) -> None:
    undisturbed = make_project(tmp_path / "undisturbed", skill=0.9)
    run_job(undisturbed, StandIns(gain=0.0), ADAPT)
    job = make_project(tmp_path / "resumed", skill=0.9)
    with pytest.raises(Interrupted):
        run_job(job, StandIns(gain=0.0, on_call=StopAt(stop, Interrupted("SIGTERM"))), ADAPT)
    run_job(job, StandIns(gain=0.0), ADAPT)
    assert history(tmp_path / "resumed/run") == history(tmp_path / "undisturbed/run")


def test_verify_finds_a_temperature_that_the_verdicts_did_not_decide(tmp_path: Path) -> None:
    run_job(make_project(tmp_path, skill=0.9), StandIns(gain=0.0), ADAPT)
    run = tmp_path / "run"
    path, document = next(r for r in records(run).items() if r[1]["data"].get("step") == "rounds/02/temperature")
    document["data"]["facts"]["temperature"] = 1.1
    seal(path, document)
    assert any(path.name in line and "temperature" in line for line in verify(run).findings)


def test_a_fork_takes_over_what_comes_out_at_the_same_temperature(tmp_path: Path) -> None:
    run_job(make_project(tmp_path, skill=0.9), StandIns(gain=0.0), ADAPT)
    fork(tmp_path / "run", tmp_path / "same", ["generate.adapt_temperature.mixed=0.94"])
    fork(tmp_path / "run", tmp_path / "other", ["generate.adapt_temperature.step=0.1"])
    same, other = Seeing(gain=0.0), Seeing(gain=0.0)
    run_job(tmp_path / "same/job.yaml", same)
    run_job(tmp_path / "other/job.yaml", other)
    assert same.temperatures == [] and set(other.temperatures) == {1.1}
    assert verify(tmp_path / "same").findings == verify(tmp_path / "other").findings == []
