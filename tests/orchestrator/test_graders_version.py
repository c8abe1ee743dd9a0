"""Runs that one version of the graders has begun and another one goes on with: nothing is mixed, nothing is lost."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from orchestrator.commands.fork.command import fork
from orchestrator.commands.rescore import rescore
from orchestrator.commands.verify.command import verify
from orchestrator.driver.signals import signals
from orchestrator.errors import Interrupted
from orchestrator.ledger.ledger import Ledger, State
from orchestrator.records.abstentions import graders_version
from orchestrator.records.rows import EVALUATION, GRADERS_VERSION
from orchestrator.reports.inspection.reading import RunReader
from orchestrator.reports.status import status
from orchestrator.rounds.evaluation import regrade, solved
from orchestrator.rounds.gate import decide
from orchestrator.rounds.spare import spare_checkpoints
from tests.support.sample_run import SampleRun
from tests.support.stand_ins import StandInGraders, StandIns, make_project, run_job
from tests.support.version_stand_ins import First, Second, verdicts_of


def stop_at(name: str, number: int) -> Callable[[str], None]:
    """A driver that is told to end before its piece of work of a kind and number."""
    seen = 0

    def on_call(called: str) -> None:
        nonlocal seen
        seen += called == name
        if seen == number:
            raise Interrupted("SIGTERM")

    return on_call


def begun(folder: Path, name: str, number: int) -> Path:
    """A project whose run the first version has begun."""
    job = make_project(folder)
    with pytest.raises(Interrupted):
        run_job(job, First(on_call=stop_at(name, number)))
    return job


def test_facts_that_name_no_version_are_of_the_first() -> None:
    assert graders_version({"correct": 3}) == 1
    assert graders_version({"graders_version": 2}) == 2


def state_of(run: Path) -> State:
    return Ledger(run / "ledger").state


# An evaluation grades 8 shards, of gate and test, and a round 2.


def test_half_a_step_of_verdicts_is_graded_again_and_its_samples_are_kept(tmp_path: Path) -> None:
    job, run = begun(tmp_path, "grade", 10), tmp_path / "run"
    before = state_of(run)
    assert len(before.shards["rounds/01/verdicts"]) == 1 and "rounds/01/verdicts" not in before.commits
    workers = Second()
    said = run_job(job, workers)
    after = state_of(run)
    shards = after.shards["rounds/01/verdicts"].values()
    assert [shard.facts["graders_version"] for shard in shards] == [GRADERS_VERSION] * 2
    assert after.commits["rounds/01/verdicts"].facts["graders_version"] == GRADERS_VERSION
    assert after.shards["rounds/01/samples"] == before.shards["rounds/01/samples"]
    assert not (run / "rounds/01/verdicts/00000.parquet").exists()
    assert any("1 shard was graded by version 1 of the graders" in line and "again" in line for line in said)
    files = [run / shard.artifact.path for shard in shards]
    assert [file.name for file in files] == ["00000.1.parquet", "00001.parquet"]
    reader = RunReader(run)
    assert sum(table.num_rows for table in reader.samples(1)) == reader.num_graded(1) == len(verdicts_of(files))
    # The same verdicts as in a run that the second version has done alone.
    run_job(make_project(tmp_path / "whole"), Second(), "promotion.rule=always")
    whole = sorted((tmp_path / "whole/run/rounds/01/verdicts").glob("*.parquet"))
    assert verdicts_of(files) == verdicts_of(whole) and "ungradable" in verdicts_of(files)
    assert verify(run).findings == [] and status(run)["state"] == "finished"
    again = StandIns()
    run_job(job, again)
    assert not again.calls


def test_a_step_all_of_whose_shards_were_discarded_has_not_begun(tmp_path: Path) -> None:
    """A driver that ends between the discarded verdicts and the first new ones leaves none."""
    job, run = begun(tmp_path, "grade", 10), tmp_path / "run"
    with pytest.raises(Interrupted):
        run_job(job, Second(on_call=stop_at("grade", 1)))
    assert state_of(run).discarded == {"rounds/01/verdicts/00000.parquet"}
    [first] = status(run)["rounds"]
    assert (first["samples"], first["correct"], first["wrong"], first["ungradable"]) == (32, None, None, None)
    made = fork(run, tmp_path / "child")
    assert "rounds/01/samples" in made.offered and "rounds/01/verdicts" not in made.offered
    run_job(job, Second())
    assert verify(run).findings == []


def test_a_committed_step_stays_as_it_is(tmp_path: Path) -> None:
    job, run = begun(tmp_path, "reference", 1), tmp_path / "run"
    before = state_of(run)
    said = run_job(job, Second())
    after = state_of(run)
    for step in before.commits:
        assert after.commits[step] == before.commits[step]
    assert after.shards["rounds/01/verdicts"] == before.shards["rounds/01/verdicts"]
    assert not any("graded again" in line for line in said)
    # Both versions stand in the report, in words: the base model's evaluation is by the first.
    report = (run / "report.md").read_text()
    assert f"(version 1: base; version {GRADERS_VERSION}: 1, 2)" in report
    assert verify(run).findings == []


def test_a_fork_of_such_a_run_mixes_nothing_either(tmp_path: Path) -> None:
    job, run, child = begun(tmp_path, "grade", 10), tmp_path / "run", tmp_path / "child"
    fork(run, child)
    run_job(child / "job.yaml", Second())
    versions = [shard.facts.get("graders_version") for shard in state_of(child).shards["rounds/01/verdicts"].values()]
    assert versions == [GRADERS_VERSION] * 2
    assert verify(child).findings == [] and verify(run).findings == []
    # And of a run that has graded again, with its shards under their new names.
    run_job(job, Second())
    fork(run, tmp_path / "late", ["train.epochs=2"])
    workers = Second()
    run_job(tmp_path / "late/job.yaml", workers)
    late = state_of(tmp_path / "late")
    assert late.shards["rounds/01/verdicts"][0].artifact.path == "rounds/01/verdicts/00000.1.parquet"
    assert verify(tmp_path / "late").findings == []


def test_a_later_round_of_such_a_run_is_rescored_and_nothing_before_it_is_done_again(tmp_path: Path) -> None:
    """Else its samples would be those of another model, and what differs would not be the grading."""
    run_job(make_project(tmp_path, promotion={"rule": "always"}), First())
    run, child, workers = tmp_path / "run", tmp_path / "child", Second()
    with signals() as received:
        found = rescore(run, child, 2, [], lambda _: None, received, lambda _job, _logs: workers)
    assert found.versions == (1, GRADERS_VERSION) and found.samples == 32 and found.flips
    assert workers.calls == {"grade": 2}
    parent, after = state_of(run), state_of(child)
    for step, commit in parent.commits.items():
        if step.startswith(("baseline/", "rounds/01/")):
            assert (after.commits[step].fingerprint, after.commits[step].facts) == (commit.fingerprint, commit.facts)
    assert verify(child).findings == []
    run_job(child / "job.yaml", workers)
    assert status(child)["state"] == "finished" and verify(child).findings == []
    assert state_of(child).promotions[0]["won"] == parent.promotions[0]["won"]


class FirstAlike(StandIns):
    """The first version, with the verdicts of the present one: all that is made from them comes out as it was."""

    def graders(self, settings: Any) -> StandInGraders:
        graders = StandInGraders(self)
        graders.version = {"graders_version": 1}
        return graders


@pytest.mark.parametrize("changes", [{"keep": {"checkpoints": 1}}, {"train": {"eval_every": 1}, "rounds": 1}])
def test_a_fork_evaluates_again_checkpoints_that_were_removed(tmp_path: Path, changes: dict[str, Any]) -> None:
    """Their evaluations are not offered, and so what made them is not either: it would come without its files."""
    job = make_project(tmp_path, **changes, skill=0.2, promotion={"rule": "always"})
    run_job(job, FirstAlike(steps=2))
    made = fork(tmp_path / "run", tmp_path / "child")
    assert state_of(tmp_path / "run").discarded and made.removed == ["rounds/01/train"]
    run_job(tmp_path / "child/job.yaml", StandIns(steps=2))
    child = state_of(tmp_path / "child")
    assert child.commits["rounds/01/evaluation"].facts["graders_version"] == GRADERS_VERSION
    assert verify(tmp_path / "child").findings == []


def test_the_gate_compares_answers_that_one_version_has_graded(tmp_path: Path) -> None:
    job, run = begun(tmp_path, "generate", 9), tmp_path / "run"
    stored = run / "baseline/evaluation/gate.parquet"
    before = stored.read_bytes()
    said = run_job(job, Second())
    state = state_of(run)
    regraded = state.commits["rounds/01/regraded"]
    told = regraded.facts["evaluations"]["baseline/evaluation"]
    texts = {row["prompt_id"]: row["text"] for row in pq.read_table(stored).to_pylist()}
    golds = {row["prompt_id"]: row["gold"] for row in pq.read_table(run / "baseline/prompts/gate.parquet").to_pylist()}
    truth = {prompt: texts[prompt].rpartition("Final answer: ")[2] == golds[prompt] for prompt in texts}
    was = solved(stored)
    assert told["changed"] == sum(truth[prompt] != was[prompt] for prompt in truth) > 0
    assert told["correct"] == sum(truth.values()) and told["graders_version"] == GRADERS_VERSION
    assert solved(run / "rounds/01/regraded/00.parquet") == truth
    first, second = state.promotions
    candidate = solved(run / "rounds/01/evaluation/gate.parquet")
    honest = decide("not_worse", 0.05, truth, candidate)
    assert (first["won"], first["lost"], first["graders_version"]) == (honest.won, honest.lost, GRADERS_VERSION)
    assert decide("not_worse", 0.05, was, candidate).won > honest.won
    # Its evaluation stays what it is, and nothing is graded again where nothing differs.
    assert stored.read_bytes() == before and "rounds/02/regraded" not in state.commits
    assert second["best"] == "rounds/02/checkpoint"
    assert any(f"are by version 1 of the graders; by version {GRADERS_VERSION}" in line for line in said)
    assert verify(run).findings == []
    again = StandIns()
    run_job(job, again)
    assert not again.calls


def test_a_choice_among_checkpoints_compares_one_version(tmp_path: Path) -> None:
    several = {"train": {"eval_every": 1, "select": "best"}}
    job, run = make_project(tmp_path, **several), tmp_path / "run"
    # 8 shards of the base model, 2 of the round's samples, 4 of each candidate's gate problems.
    with pytest.raises(Interrupted):
        run_job(job, First(steps=2, on_call=stop_at("grade", 15)))
    assert "rounds/01/selection/000001" in state_of(run).commits
    run_job(job, Second(steps=2))
    state = state_of(run)
    told = state.commits["rounds/01/selection/regraded"].facts["evaluations"]
    assert list(told) == ["rounds/01/selection/000001"]
    right = solved(run / "rounds/01/selection/regraded/00.parquet")
    accuracies = (run / "rounds/01/choice/accuracies.json").read_text()
    assert f'"000001": {sum(right.values()) / len(right)}' in accuracies
    assert state.commits["rounds/01/choice"].facts["candidates"] == 2
    assert verify(run).findings == []


def test_a_run_of_the_first_version_is_read_as_before(tmp_path: Path) -> None:
    """Files and facts without causes: by verify, status and report."""
    run_job(make_project(tmp_path), First())
    run = tmp_path / "run"
    assert "cause" not in pq.read_schema(run / "rounds/01/verdicts/00000.parquet").names
    assert verify(run).findings == []
    assert status(run)["rounds"][0]["causes"] == {}
    assert "different versions" not in (run / "report.md").read_text()


def test_stored_answers_are_graded_again_as_they_stand(tmp_path: Path) -> None:
    """Also from a file of the first version, which has no causes; a prompt that was given up stays given up."""
    columns = ("prompt_id", "text", "finish_reason", "verdict")
    said = [("a", "Final answer: 1", "stop", "wrong"), ("b", "Final answer: 20", "stop", "wrong")]
    rows = [dict(zip(columns, row, strict=True)) for row in [*said, ("c", "", "quarantined", "ungradable")]]
    rows = [row | {"split": "gate", "token_ids": [7], "extracted": None, "cause": None} for row in rows]
    stored, output = tmp_path / "gate.parquet", tmp_path / "again.parquet"
    pq.write_table(pa.Table.from_pylist(rows, EVALUATION).drop_columns(["cause", "prompt", "gold"]), stored)
    asked = tmp_path / "asked.parquet"
    pq.write_table(pa.table({"prompt_id": ["c", "b", "a"], "text": ["C?", "B?", "A?"], "gold": ["3", "2", "1"]}), asked)
    facts = regrade(StandInGraders(StandIns()), stored, asked, output)
    assert (facts["problems"], facts["correct"], facts["changed"]) == (3, 1, 1)
    assert solved(output) == {"a": True, "b": False, "c": False}
    again = {row["prompt_id"]: row for row in pq.read_table(output).to_pylist()}
    assert again["c"]["finish_reason"] == "quarantined" and again["a"]["text"] == "Final answer: 1"
    assert (again["a"]["prompt"], again["a"]["gold"], again["c"]["gold"]) == ("A?", "1", "3")
    assert pq.read_schema(output).equals(EVALUATION)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again.parquet", "asked.parquet", "gate.parquet"]


def test_the_checkpoint_that_the_loop_holds_best_is_kept(tmp_path: Path) -> None:
    """Accuracies of different versions do not say which one it is; the promotion does."""
    run = SampleRun(tmp_path)
    run.claim()
    run.configure()
    for number, num_correct in enumerate((60, 50, 40), start=1):
        run.evaluate(number, num_correct)
        run.promote(number)
    assert spare_checkpoints(run.ledger.state, 1) == ["rounds/02/checkpoint"]
    run.ledger.state.promotions[-1]["best"] = "rounds/02/checkpoint"
    assert spare_checkpoints(run.ledger.state, 1) == []
