"""What the journal says, told to a real MLflow while a training is under way: each step once, with its time."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from orchestrator.config import Tracking
from orchestrator.reports.journal import JOURNAL
from orchestrator.tracking.tracker import default_address, sync
from tests.support.sample_run import NUM_STEPS, SampleRun

TRAIN = "rounds/01/train"


def told(run: SampleRun, what: str, *updates: tuple[int, float], **values: float) -> None:
    """Add lines to the journal: updates with their seconds since the run began."""
    begin = run.ledger.records[0].time
    with open(run.root / JOURNAL, "a") as file:
        for number, after in updates:
            line = {"time": begin + after, "what": what, "number": number, "values": values or {"loss": 0.5}}
            file.write(json.dumps(line) + "\n")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One database for all tests, since a fresh one takes seconds."""
    return tmp_path_factory.mktemp("maths")


def client(folder: Path) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=default_address(folder))


def points(folder: Path, run: SampleRun, number: int, key: str) -> list[tuple[int, float]]:
    """Steps and seconds since the run began, of one of its MLflow runs."""
    begin, mlflow = run.ledger.records[0].time, client(folder)
    [found] = mlflow.search_runs(
        [e.experiment_id for e in mlflow.search_experiments()],
        f"tags.`ratchet.run_id` = '{run.run_id}' and tags.`ratchet.round` = '{number}'",
    )
    history = mlflow.get_metric_history(found.info.run_id, key)
    return sorted((m.step, round(m.timestamp / 1000 - begin, 1)) for m in history)


def training(folder: Path, name: str) -> SampleRun:
    """A run in the midst of its first training."""
    run = SampleRun(folder / name, name=name)
    run.claim()
    run.configure()
    run.baseline()
    run.prompts(1)
    return run


def test_a_training_under_way_is_seen_and_its_end_doubles_nothing(folder: Path) -> None:
    run = training(folder, "under-way")
    told(run, TRAIN, (1, 60.0), (2, 61.0))
    sync(run.root)
    assert points(folder, run, 1, "learning/loss") == [(1, 60.0), (2, 61.0)]
    told(run, TRAIN, (2, 65.0), (3, 66.0))  # ranks were lost, and did the second once more
    sync(run.root)
    seen = [(1, 60.0), (2, 61.0), (3, 66.0)]
    assert points(folder, run, 0, "learning/loss") == points(folder, run, 1, "learning/loss") == seen
    run.train(1)
    sync(run.root)
    whole = points(folder, run, 0, "learning/loss")
    assert [step for step, _ in whole] == list(range(1, NUM_STEPS + 1)) and whole[:3] == seen
    for lost in ("tracking.json", JOURNAL):
        (run.root / "tracking.json").unlink(missing_ok=True)
        (run.root / lost).unlink(missing_ok=True)
        sync(run.root)
        assert points(folder, run, 0, "learning/loss") == whole
        assert len(points(folder, run, 1, "learning/loss")) == NUM_STEPS


def test_without_the_journal_what_is_committed_is_told(folder: Path) -> None:
    run = training(folder, "without")
    run.train(1)
    sync(run.root)
    assert len(points(folder, run, 1, "learning/loss")) == NUM_STEPS


def test_steps_are_counted_over_rounds(folder: Path) -> None:
    run = training(folder, "rounds")
    run.train(1)
    run.evaluate(1, 50)
    run.promote(1)
    run.prompts(2)
    told(run, "rounds/02/train", (1, 90.0))
    sync(run.root)
    assert points(folder, run, 0, "learning/loss")[-1] == (NUM_STEPS + 1, 90.0)
    assert points(folder, run, 2, "learning/loss") == [(1, 90.0)]


def test_the_load_of_nodes_stands_beside_it(folder: Path) -> None:
    run = training(folder, "nodes")
    told(run, "nodes/a b", (0, 15.0), (0, 30.0), cpu_utilization_percentage=50.0)
    told(run, "nodes/c/../d", (0, 30.0), cpu_utilization_percentage=60.0)
    for _ in range(2):
        sync(run.root)
        (run.root / "tracking.json").unlink()
    assert points(folder, run, 0, "system/a b/cpu_utilization_percentage") == [(15, 15.0), (30, 30.0)]
    assert points(folder, run, 0, "system/c_.._d/cpu_utilization_percentage") == [(30, 30.0)]


def test_a_journal_that_somebody_made_up_makes_no_runs(folder: Path) -> None:
    run = training(folder, "made-up")
    for what in ("rounds/99/train", "rounds/1/train", "rounds/01/retrain", "baseline/train", "rounds/00/train", "x"):
        told(run, what, (1, 60.0))
    sync(run.root)
    mlflow = client(folder)
    experiments = [e.experiment_id for e in mlflow.search_experiments()]
    found = mlflow.search_runs(experiments, f"tags.`ratchet.run_id` = '{run.run_id}'")
    assert sorted(r.data.tags["ratchet.round"] for r in found) == ["0", "1"]
    assert points(folder, run, 1, "learning/loss") == []


def test_rounds_say_in_what_they_differ(folder: Path) -> None:
    run = SampleRun(folder / "differ", name="differ", method="irpo")
    run.claim()
    run.configure(loss=run.job.loss.model_copy(update={"beta": [0.1, 0.2]}))
    run.baseline()
    for number in (1, 2):
        run.prompts(number)
        run.train(number)
        run.evaluate(number, 50)
        run.promote(number, promoted=number == 2)
    sync(run.root, Tracking(experiment="another"))
    mlflow = client(folder)
    experiment = mlflow.get_experiment_by_name("another").experiment_id
    runs = {r.data.tags["ratchet.round"]: r for r in mlflow.search_runs([experiment])}
    params = {number: found.data.params for number, found in runs.items()}
    assert [params[n]["loss.beta"] for n in ("1", "2")] == ["0.1", "0.2"]
    assert [params[n]["reference"] for n in ("1", "2")] == ["base model", "base model"]
    tags = runs["0"].data.tags
    assert (tags["model"], tags["promoted"], tags["mlflow.source.name"]) == ("seed", "1 of 2", "sample.yaml")
    assert runs["1"].data.tags["promoted"] == "no" and runs["2"].data.tags["promoted"] == "yes"
    note = tags["mlflow.note.content"]
    assert "1 of 2 rounds promoted" in note and "Round 1: refused: " in note
    assert f"ratchet resume {run.root} rounds=4" in note
    assert tags.get("mlflow.user") or not os.environ.get("USER")
