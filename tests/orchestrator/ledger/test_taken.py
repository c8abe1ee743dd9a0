"""Work that a fork took over: what it was told to expect, and that nobody is shown it as this run's own."""

from __future__ import annotations

import contextlib
import json
import re
from pathlib import Path

import pytest

from orchestrator.commands.fork.command import fork
from orchestrator.commands.gc import clean
from orchestrator.driver.drive import identity
from orchestrator.errors import BadInput
from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.taken import origin, taken, taken_shards
from orchestrator.reports.report import report_text
from orchestrator.reports.status import render, status
from orchestrator.rounds.round import GateStopped
from orchestrator.sources.registry import SOURCES
from orchestrator.tracking.outbox import Outbox
from orchestrator.tracking.tracker import default_address
from tests.orchestrator.reports.test_status import text_of
from tests.orchestrator.test_cli import ratchet
from tests.orchestrator.test_loop import StopAt
from tests.support.sample_run import SampleRun, two_rounds
from tests.support.samples import every
from tests.support.stand_ins import StandIns, make_project, run_job


@pytest.fixture
def parent(tmp_path: Path) -> Path:
    run_job(make_project(tmp_path), StandIns())
    return tmp_path / "run"


# What is to be expected


OVERRIDES = [
    *("loss.beta=0.2", "loss.beta=[0.1, 0.2]", "loss.nll=[1, 1]", "loss.dpo=0", "loss.nll_scope=prompt+response"),
    *("train.learning_rate=1e-5", "train.learning_rate=[7.0e-7, 1e-5]", "train.batch_pairs=3"),
    *("train.max_tokens=1000", "train.precision=fp32", "train.epochs=2", "train.save_minutes=3"),
    *("pairs.per_prompt=1", "pairs.per_prompt=[2, 3]", "pairs.max_pairs=5", "pairs.replay=0.5"),
    *("grade.timeout=9", "grade.strict=false", "grade.processes=2", "grade.graders=[exact]"),
    *("generate.temperature=1.3", "generate.samples=[4, 3]", "generate.top_p=0.9", "generate.max_tokens=7"),
    *("generate.shard_prompts=2", "generate.engines=2", "evaluate.max_tokens=4", "evaluate.max_tokens=8"),
    *("promotion.rule=always", "seed=4", "name=other", "rounds=1", "rounds=3", "init=base", "reference=base"),
    *("data.prompts_per_round=4", "data.template='Q. {question}'", "tracking.experiment=x", "keep.checkpoints=1"),
]


@pytest.mark.parametrize("override", every(3, OVERRIDES))
def test_what_a_fork_says_to_expect_comes_true(parent: Path, tmp_path: Path, override: str) -> None:
    made = fork(parent, tmp_path / "child", [override])
    with contextlib.suppress(GateStopped):
        run_job(tmp_path / "child/job.yaml", StandIns(gain=0.3))  # another training gives another model
    state = Ledger(tmp_path / "child/ledger").state
    assert made.fit.keys() == made.offered.keys()
    reached = {step: fit for step, fit in made.fit.items() if step in state.commits}
    assert {step for step, fit in reached.items() if fit == "taken" and not taken(state, step)} == set()
    assert {step for step, fit in reached.items() if fit == "anew" and taken(state, step)} == set()
    if override.partition(".")[0] in ("loss", "train", "pairs", "grade", "promotion"):
        assert "taken" in made.fit.values(), "it says nothing"


def test_another_loss_is_known_to_train_anew(parent: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ratchet("fork", parent, tmp_path / "child", "loss.beta=0.2") == 0
    said = capsys.readouterr().out.splitlines()
    assert said == [
        "taken     baseline: evaluation, prompts",
        "taken     rounds/01: pairs, prompts, reference, samples (2 shards), verdicts (2 shards)",
        "taken     rounds/02: prompts",
        "anew      rounds/01: train",
        "anew      rounds/02: train",
        "perhaps   rounds/01: evaluation",
        "perhaps   rounds/02: evaluation, pairs, reference, samples (2 shards), verdicts (2 shards)",
        "perhaps means: taken over where what it is made from comes out as it was, and else made anew",
        f"go on     ratchet resume {tmp_path / 'child'}",
    ]
    assert ratchet("fork", parent, tmp_path / "same") == 0
    assert not [line for line in capsys.readouterr().out.splitlines() if line.startswith(("anew", "perhaps"))]


@pytest.mark.parametrize("version", ["now", "earlier"])
def test_a_fork_is_not_started_until_it_is(
    parent: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], version: str
) -> None:
    child = tmp_path / "child"
    fork(parent, child, ["loss.beta=0.2"])
    if version == "earlier":
        path = sorted((child / "ledger").glob("*.json"))[-1]
        record = json.loads(path.read_text())
        record["data"]["state"] = "interrupted"
        record.pop("check")
        path.write_text(json.dumps(record))
    assert ratchet("status", child, "--json") == 0
    assert json.loads(capsys.readouterr().out)["state"] == "not started"
    assert ratchet("status", child) == 0
    assert "child  not started" in capsys.readouterr().out
    clean(child, identity())
    assert status(child)["state"] == "not started" and "State: not started: forked from" in report_text(child, SOURCES)
    with pytest.raises(RuntimeError):
        run_job(child / "job.yaml", StandIns(on_call=StopAt(2, RuntimeError("a bug"))))
    assert status(child)["state"] == "failed"
    run_job(child / "job.yaml", StandIns())
    assert status(child)["state"] == "finished"


# What was taken over


def test_what_was_taken_over_is_told_without_speeds(parent: Path, tmp_path: Path) -> None:
    first = run_job(tmp_path / "tiny.yaml", StandIns())
    child = tmp_path / "child"
    fork(parent, child, ["loss.beta=[0.1, 0.2]"])
    said = {tuple(line.split()[:2]): line for line in run_job(child / "job.yaml", StandIns(gain=0.3))}
    for step in ("baseline =evaluation", "rounds/01 =samples", "rounds/01 =train", "rounds/02 =pairs"):
        line = said.get(tuple(step.split()))
        assert line and line.endswith(", taken over from run"), step
        assert "/s" not in line
    train = said["rounds/02", "train"]
    assert "tokens at 1/s" in train and "taken over" not in train
    assert not [line for line in first if "taken over" in line], "a resumed run has done what it tells"
    report = report_text(child, SOURCES)
    assert re.search(r"^\| 1 \| \d+ \| 1 \| 10 \| 20 \| taken over \|", report, re.M)
    assert re.search(r"^\| 2 \| \d+ \| 1 \| 10 \| 20 \| 1 \|", report, re.M)
    one, two = status(child)["rounds"]
    assert one["seconds"] == {} and len(one["taken_over"]) == 7
    assert set(two["seconds"]) == {"train", "evaluation"} and "samples" in two["taken_over"]
    text = text_of(render(status(child)))
    everything = "prompts, samples, verdicts, pairs, reference, train, evaluation"
    assert f"round 1: {everything} taken over from run" in text and f"- Made from: `{parent}`" in report
    row = next(line for line in text.splitlines() if line.strip().startswith("1 "))
    assert " s " not in row
    assert all("taken_over" in r and r["taken_over"] == [] for r in status(parent)["rounds"])


@pytest.mark.parametrize(("stop", "step"), [(21, "samples"), (23, "verdicts")])
def test_of_a_step_that_was_taken_over_in_part_the_time_is_this_runs_own(tmp_path: Path, stop: int, step: str) -> None:
    job, child = make_project(tmp_path), tmp_path / "child"
    with pytest.raises(RuntimeError):  # in the second shard of that step of round 1
        run_job(job, StandIns(on_call=StopAt(stop, RuntimeError("a bug"))))
    for path in (tmp_path / "run/ledger").glob("*.json"):
        record = json.loads(path.read_text())
        if record["kind"] == "shard":
            record.pop("check")
            record["data"]["facts"] |= {"wall": 1000.0, "waited": 1000.0, "seconds": 1000.0}
            path.write_text(json.dumps(record))
    fork(tmp_path / "run", child)
    said = run_job(child / "job.yaml", StandIns())
    state = Ledger(child / "ledger").state
    assert taken_shards(state, f"rounds/01/{step}") == {0} and not taken(state, f"rounds/01/{step}")
    times = [state.commits[f"rounds/01/{phase}"].facts for phase in ("samples", "verdicts")]
    assert all(facts[key] < 1000 for facts in times for key in ("seconds", "waited") if key in facts)
    assert times[0]["samples"] == times[1]["correct"] + times[1]["wrong"] == 32
    lines = {line.split()[1]: line for line in said if line.startswith("rounds/01")}
    assert lines[step].endswith("; 1 of 2 shards taken over from run")
    if step == "verdicts":  # all of the samples came from there, shard by shard
        assert lines["samples"].endswith("32, taken over from run")


def test_an_offer_that_was_not_taken_is_this_runs_own_work(parent: Path, tmp_path: Path) -> None:
    """Damaged, it was made again: to the same bytes, with the same facts but the time."""
    child = tmp_path / "child"
    fork(parent, child, ["rounds=1"])
    (child / "rounds/01/.pairs-offered/00000.parquet").unlink()
    run_job(child / "job.yaml", StandIns())
    state = Ledger(child / "ledger").state
    assert taken(state, "rounds/01/train") and not taken(state, "rounds/01/pairs")
    assert origin(state) == "run" and "pairs" in status(child)["rounds"][0]["seconds"]


def offered_by_another(run: SampleRun, number: int) -> None:
    """As if all of a round had been taken over."""
    state = run.ledger.state
    for step in [step for step in state.commits if step.startswith(f"rounds/{number:02d}/")]:
        done = [(None, state.commits[step].fingerprint, state.commits[step].artifacts, state.commits[step].facts)]
        done += [(i, "f" * 32, (s.artifact,), s.facts) for i, s in state.shards.get(step, {}).items()]
        for index, fingerprint, artifacts, facts in done:
            data = {"step": step, "index": index, "fingerprint": fingerprint, "facts": facts, "discarded": []}
            run.ledger.append("offer", data | {"artifacts": [a.as_json() for a in artifacts]})


def test_mlflow_gets_no_time_of_what_was_taken_over(tmp_path: Path) -> None:
    run = two_rounds(tmp_path / "sample")
    offered_by_another(run, 1)
    outbox = Outbox(run.root, run.job.tracking, default_address(tmp_path))
    assert outbox.flush(), outbox.problem
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=default_address(tmp_path))
    [experiment] = [e.experiment_id for e in client.search_experiments() if e.name != "Default"]
    runs = {r.data.tags["ratchet.round"]: r for r in client.search_runs([experiment])}
    for key in ("time/train", "time/samples", "time/train_tokens_per_second"):
        assert [m.step for m in client.get_metric_history(runs["0"].info.run_id, key)] == [2], key
        assert key not in runs["1"].data.metrics
    assert runs["1"].data.metrics["round/train_tokens"] == runs["2"].data.metrics["round/train_tokens"]
    assert len(client.get_metric_history(runs["1"].info.run_id, "learning/loss")) == 12
    assert runs["1"].data.tags["ratchet.taken_over.train"] == "another run"
    assert "ratchet.taken_over.train" not in runs["2"].data.tags


def test_a_run_that_is_no_fork_has_taken_over_nothing(parent: Path) -> None:
    state = Ledger(parent / "ledger").state
    assert not [step for step in state.commits if taken(state, step)]
    with pytest.raises(BadInput, match="lies in the run"):
        fork(parent, parent / "child")
