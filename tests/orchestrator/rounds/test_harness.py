"""Tasks of lm-evaluation-harness as steps of a run, with a harness that knows one task; the real one is asked in
tests/workers/harness and tests/real."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from orchestrator.commands.fork.command import fork
from orchestrator.commands.verify.command import verify
from orchestrator.config.load import load_job
from orchestrator.driver.harness import digest_of_tasks, with_tasks
from orchestrator.errors import BadInput, RatchetError
from orchestrator.ledger.ledger import Ledger
from orchestrator.reports.page.page import document
from orchestrator.reports.report import report_text
from orchestrator.sources.registry import SOURCES
from orchestrator.tracking.projection import step_figures
from tests.orchestrator.commands.test_verify_facts import records, seal
from tests.support.stand_ins import StandIns, make_project, run_job

TASKS: dict[str, Any] = {"tasks": ["one", "two"], "limit": 6, "num_fewshot": 2}


def project(folder: Path, **changes: Any) -> Path:
    return make_project(folder, rounds=1, evaluate={"harness": TASKS | changes})


@pytest.fixture
def run(tmp_path: Path) -> Path:
    run_job(project(tmp_path), StandIns())
    return tmp_path / "run"


def facts_of(run: Path, step: str) -> dict[str, Any]:
    return dict(Ledger(run / "ledger").state.commits[step].facts)


def test_each_evaluated_model_is_asked_through_its_own_engines(tmp_path: Path) -> None:
    workers = StandIns()
    said = run_job(project(tmp_path), workers)
    run = tmp_path / "run"
    assert workers.calls["harness"] == 2 and workers.calls["tasks"] == 1, (
        "the names are looked at once, before all else"
    )
    base, trained = (plan.model for plan in workers.tasks.plans)
    assert Path(base) == tmp_path / "seed" and Path(trained) == run / "rounds/01/checkpoint"
    plan = workers.tasks.plans[0]
    assert (plan.tasks, plan.limit, plan.num_fewshot, plan.chat) == (("one", "two"), 6, 2, False)
    for step in ("baseline/harness", "rounds/01/harness"):
        facts = facts_of(run, step)
        assert facts["lm_eval"] == "0.4.13" and "unanswered" not in facts
        told = facts["tasks"]["one"]
        assert told["figures"].keys() == {"acc", "f1,strict"} and told["figures"]["f1,strict"] == {"value": 0.5}
        assert (told["documents"], told["shots"], told["version"]) == (6, 2, "1.0") and len(told["asked"]) == 64
        rows = pq.read_table(run / step / "samples.parquet").num_rows
        assert rows == 12 and sorted(path.name for path in (run / step).iterdir()) == [
            "results.json",
            "samples.parquet",
        ]
    assert any("one acc" in line and "±" in line for line in said)


def test_a_resume_asks_nothing_again_and_another_harness_is_refused(tmp_path: Path) -> None:
    job, again = project(tmp_path), StandIns()
    run_job(job, StandIns())
    run_job(job, again)
    assert not again.calls
    other = StandIns()
    other.tasks.known = {"lm_eval": "0.5.0", "include": None}
    with pytest.raises(RatchetError, match="baseline/harness was committed from other inputs"):
        run_job(job, other)


@pytest.mark.parametrize("change", [{"tasks": ["one"]}, {"limit": 3}, {"num_fewshot": 0}, {"chat": True}])
def test_each_key_decides_the_step_and_no_other(tmp_path: Path, change: dict[str, Any]) -> None:
    """A fork takes over all but these steps."""
    run_job(project(tmp_path), StandIns())
    with pytest.raises(BadInput, match=r"evaluate\.harness"):
        run_job(project(tmp_path, **change), StandIns())
    override = [f"evaluate.harness.{key}={json.dumps(value)}" for key, value in change.items()]
    fork(tmp_path / "run", tmp_path / "forked", override)
    workers = StandIns()
    run_job(tmp_path / "forked/job.yaml", workers, *override, f"run_dir={tmp_path / 'forked'}")
    assert workers.calls == {"tasks": 1, "harness": 2, "generate": 2, "score": 2}, "all else is taken over"


def test_it_is_verified_and_told(run: Path) -> None:
    report = verify(run)
    assert not report.findings
    text = report_text(run, SOURCES)
    assert "## Tasks of lm-evaluation-harness" in text and "| figure | base | round 1 |" in text
    [row] = [line for line in text.splitlines() if line.startswith("| one acc |")]
    assert row.count("±") == 2
    told = document(run, SOURCES)["figures"]["harness"]
    assert told["models"] == ["base", "round 1"] and told["rows"][0][0] == "one acc" and not told["notes"]
    figures = {
        figure.key: figure.value for figure in step_figures(1, "harness", facts_of(run, "rounds/01/harness"), 5.0)
    }
    assert figures.keys() >= {"harness/one/acc", "time/harness"} and 0 <= figures["harness/one/acc"] <= 1
    assert not any(key.startswith("round/") for key in figures)


def test_a_figure_that_was_changed_is_found(run: Path) -> None:
    for path, record in records(run).items():
        if record["data"].get("step") == "rounds/01/harness":
            record["data"]["facts"]["tasks"]["one"]["figures"]["acc"]["error"] = 0.2
            seal(path, record)
    assert any("tasks.one.figures.acc.error" in line for line in verify(run).findings)


def test_data_that_have_changed_are_told(tmp_path: Path) -> None:
    workers, job = StandIns(), project(tmp_path)

    def change(name: str) -> None:
        if name == "train":
            workers.tasks.words = "and now?"

    workers._on_call = change
    run_job(job, workers)
    text = report_text(tmp_path / "run", SOURCES)
    assert "round 1: other documents or prompts than of base in one, two" in text.replace("\\", "")


def test_own_tasks_are_found_beside_the_job_and_known_by_their_content(tmp_path: Path) -> None:
    job = project(tmp_path, include_path="own")
    with pytest.raises(BadInput, match=r"evaluate\.harness\.include_path: 'own' does not exist"):
        with_tasks(load_job(job))
    (tmp_path / "own").write_text("")
    with pytest.raises(BadInput, match="is no folder"):
        with_tasks(load_job(job))
    (tmp_path / "own").unlink()
    (tmp_path / "own/below/__pycache__").mkdir(parents=True)
    harness = with_tasks(load_job(job)).evaluate.harness
    assert harness is not None and harness.include_path == str(tmp_path / "own")
    seen = {digest_of_tasks(tmp_path / "own")}
    for name, text in (("one.yaml", "a"), ("one.yaml", "b"), ("below/two.yaml", "b"), ("below/code.py", "b")):
        (tmp_path / "own" / name).write_text(text)
        seen.add(digest_of_tasks(tmp_path / "own"))
    assert len(seen) == 5
    (tmp_path / "own/below/__pycache__/code.pyc").write_text("compiled")
    assert digest_of_tasks(tmp_path / "own") in seen


def test_a_fork_elsewhere_finds_own_tasks(tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    run_job(project(tmp_path, include_path="own"), StandIns())
    fork(tmp_path / "run", tmp_path / "elsewhere/forked", ["promotion.rule=always"])
    harness = load_job(tmp_path / "elsewhere/forked/job.yaml").job.evaluate.harness
    assert harness is not None and harness.include_path == str(tmp_path / "own")


@pytest.mark.parametrize("name", ["/etc/passwd", "../own.yaml", "mmlu_*", "-x", ""])
def test_a_task_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(BadInput, match=r"evaluate\.harness\.tasks"):
        load_job(project(tmp_path, tasks=[name]))
