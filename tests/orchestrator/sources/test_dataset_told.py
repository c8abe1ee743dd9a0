"""Stages over preference data: what is told, which settings are refused, and what is kept of the data."""

from __future__ import annotations

import gc
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.config.load import load_job
from orchestrator.driver.drive import drive
from orchestrator.driver.kept import keep_preferences
from orchestrator.driver.signals import signals
from orchestrator.errors import BadInput, RatchetError
from orchestrator.files import durable
from orchestrator.inputs.preferences import Preference, Preferences, identity_of, read_preferences
from orchestrator.ledger import recipes
from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.run import Run
from orchestrator.reports.report import report_text
from orchestrator.reports.status import status
from orchestrator.rounds.context import preference_plan, tokenizing_plan
from orchestrator.sources.registry import SOURCES
from orchestrator.tracking.outbox import Outbox
from orchestrator.tracking.projection import step_figures
from tests.orchestrator.sources.test_dataset import committed
from tests.support.preference_stand_ins import PreferenceStandIns, make_stages, pair, right, wrong
from tests.support.stand_ins import make_project, run_job

# What is told


def test_a_job_without_problems_reports_its_stages_and_no_accuracy(tmp_path: Path) -> None:
    run_job(make_stages(tmp_path, {"hard": wrong("h", 4), "easy": right("e", 4)}), PreferenceStandIns())
    run = tmp_path / "run"
    state = Ledger(run / "ledger").state
    assert "baseline/evaluation" not in state.commits
    assert state.commits["rounds/01/evaluation"].facts["probe"]["tokens"] == 2
    assert [p["promoted"] for p in state.promotions] == [True, True]
    assert "there are no gate problems" in state.promotions[0]["reason"]
    told = status(run)
    assert told["baseline"] is None
    assert [(r["pairs"], r["accuracy"]) for r in told["rounds"]] == [(4, None), (4, None)]
    text = report_text(run, SOURCES)
    row = next(line for line in text.splitlines() if "| easy.jsonl |" in line)
    assert row == (
        "| 1 | easy.jsonl | 4 | 0 | 1.000 | 1.000 | 1.000 | 1.000 | 0.40 | 0.60 | -0.40 → -0.60 | -0.80 → -1.20 |"
    )
    assert "## Samples and pairs" not in text
    figures = step_figures(1, "policy", state.commits["rounds/01/policy"].facts, 1.0)
    assert {f"round/policy_{name}" for name in ("gamma", "ranking_accuracy", "reward_accuracy")} <= {
        f.key for f in figures
    }


def test_a_job_with_gate_and_test_evaluates_as_any_other(tmp_path: Path) -> None:
    make_project(tmp_path)
    data = {"gate": "gate.jsonl", "test": "test.jsonl"}
    run_job(make_stages(tmp_path, {"a": right("a", 3)}, data=data), PreferenceStandIns())
    told = status(tmp_path / "run")
    assert told["baseline"] is not None and told["rounds"][0]["accuracy"] is not None


def test_mlflow_takes_a_run_without_problems(tmp_path: Path) -> None:
    mlflow = pytest.importorskip("mlflow")
    job = make_stages(tmp_path, {"hard": wrong("h", 4), "easy": right("e", 4)})
    run_job(job, PreferenceStandIns())
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    outbox = Outbox(tmp_path / "run", load_job(job).job.tracking, uri)
    assert outbox.flush(), outbox.problem
    assert outbox.problem is None
    client = mlflow.MlflowClient(uri)
    [parent] = [
        run
        for experiment in client.search_experiments()
        for run in client.search_runs([experiment.experiment_id])
        if run.info.run_name == "tiny"
    ]
    metrics = parent.data.metrics
    assert metrics["round/policy_reward_accuracy"] == 0.0
    assert metrics["round/reference_gamma"] == pytest.approx(-0.6)
    assert not [key for key in metrics if key.startswith("accuracy/")]
    sources = {data.dataset.name: json.loads(data.dataset.source)["uri"] for data in parent.inputs.dataset_inputs}
    assert sources == {"stages.sources.0": "hard.jsonl", "stages.sources.1": "easy.jsonl"}


def test_a_prompt_among_the_test_problems_is_refused(tmp_path: Path) -> None:
    make_project(tmp_path)
    data = {"gate": "gate.jsonl", "test": "test.jsonl"}
    job = make_stages(tmp_path, {"a": [pair("test 3?", "1", "2")]}, data=data)
    with pytest.raises(BadInput, match=r"data.test: problem 'test-3' has the same text as '1/1' in stages.sources"):
        run_job(job, PreferenceStandIns())
    run_job(job, PreferenceStandIns(), "data.allow_overlap=true")


# Settings


def refused(folder: Path, **changes: Any) -> str:
    job = make_stages(folder, {"a": right("a", 3)})
    job.write_text(yaml.safe_dump(yaml.safe_load(job.read_text()) | changes))
    with pytest.raises(BadInput) as error:
        load_job(job)
    return str(error.value)


def test_problems_are_only_missing_where_nothing_needs_them(tmp_path: Path) -> None:
    assert load_job(make_stages(tmp_path, {"a": right("a", 3)})).job.rounds == 1
    assert "needs `data.gate`, the held-out problems that decide" in refused(tmp_path, promotion={"rule": "not_worse"})
    assert "there is no `data.gate`" in refused(tmp_path, train={"eval_every": 5})
    assert "needs `data.train`" in refused(tmp_path, method="irpo", stages=None)


def test_more_rounds_than_chunks_are_refused(tmp_path: Path) -> None:
    assert "`rounds` is 3, and `stages` gives 1 chunks" in refused(tmp_path, rounds=3)


def test_all_pairs_too_long(tmp_path: Path) -> None:
    job = make_stages(tmp_path, {"a": right("a", 3)}, train={"max_tokens": 3})
    with pytest.raises(BadInput, match=r"a.jsonl has no pair that can be used; left out: 3 too long"):
        run_job(job, PreferenceStandIns())


def test_long_pairs_are_left_out_and_counted(tmp_path: Path) -> None:
    rows = [*right("a", 3), pair("a much longer prompt than the others?", "1", "2")]
    said = run_job(make_stages(tmp_path, {"a": rows}, train={"max_tokens": 20}), PreferenceStandIns())
    assert committed(tmp_path, "baseline/chunks")["chunks"] == [{"name": "a.jsonl", "pairs": 3, "too_long": 1}]
    assert any("a.jsonl; left out: 1 too long" in line for line in said)
    assert json.dumps(committed(tmp_path, "rounds/01/pairs"))


@pytest.mark.full
def test_data_that_the_run_has_kept_are_not_held_in_memory_too(tmp_path: Path) -> None:
    """A large data set would be there for the whole run."""
    job, alive = make_stages(tmp_path, {"easy": right("easy", 3), "other": right("other", 3)}), list[int]()

    def hire(*_: Any) -> PreferenceStandIns:
        gc.collect()
        alive.append(sum(isinstance(thing, Preferences | Preference) for thing in gc.get_objects()))
        return PreferenceStandIns()

    with signals() as received:
        drive(load_job(job), lambda text: None, received, hire)
    assert alive == [0]


def test_a_reading_is_part_of_what_preferences_are_made_from(tmp_path: Path) -> None:
    """An earlier version's inputs had no number of it, and its plans no date: what it did is gone on with."""
    job = load_job(make_stages(tmp_path, {"easy": right("easy", 3)}))
    given = identity_of(job.job, job.find)
    earlier = {key: value for key, value in given.items() if key != "reading"}
    assert recipes.fingerprints(given, 1, None, []) == recipes.fingerprints(earlier, 1, None, [])
    assert recipes.fingerprint(given) != recipes.fingerprint(earlier)
    for plan in (make(job.job, str(tmp_path / "seed")) for make in (preference_plan, tokenizing_plan)):
        known = {name: getattr(plan, name) for name in recipes.FIELDS_1[type(plan).__name__]}
        assert recipes.fingerprints({"plan": plan}, 1, None, []) == {durable.fingerprint({"plan": known})}
    run = Run(tmp_path / "run")
    run.claim({})
    early = read_preferences(job.job, job.find)
    keep_preferences(run, job, given, early, {}, checked=True)
    keep_preferences(run, job, given, None, {}, checked=True)
    with pytest.raises(RatchetError, match="committed from other inputs"):
        keep_preferences(run, job, given | {"chat": True}, None, {}, checked=True)
