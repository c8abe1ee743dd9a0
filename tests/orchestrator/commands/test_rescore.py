"""`ratchet rescore`: stored samples graded in another way, in a run that shares them."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from orchestrator.commands.fork.command import fork
from orchestrator.commands.gc import clean
from orchestrator.commands.rescore import Rescored, rescore
from orchestrator.commands.verify.command import verify
from orchestrator.config import Tracking
from orchestrator.errors import BadInput, Damaged, Interrupted
from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.run import Run
from orchestrator.ledger.taken import left_offers
from orchestrator.reports.report import report_text
from orchestrator.reports.status import status
from orchestrator.rounds.round import NoPairs
from orchestrator.sources.registry import SOURCES
from orchestrator.tracking.tracker import sync
from tests.support.stand_ins import StandInGraders, StandIns, make_project, run_job


class Graders(StandInGraders):
    """Lenient ones let a wrong answer of an odd sample pass."""

    def __init__(self, workers: StandIns, strict: bool) -> None:
        super().__init__(workers)
        self.strict = strict

    def _verdict(self, sample: dict[str, Any], gold: str) -> dict[str, Any]:
        verdict = super()._verdict(sample, gold)
        lenient = not self.strict and sample["sample_index"] % 2
        return verdict | {"verdict": "correct"} if lenient else verdict


class Workers(StandIns):
    def graders(self, settings: Any) -> Graders:
        return Graders(self, settings.strict)


def hire(_job: object, _logs: Path) -> Workers:
    return Workers()


def again(tmp_path: Path, number: int, *overrides: str) -> tuple[Rescored, Workers]:
    workers, said = Workers(), []
    found = rescore(tmp_path / "run", tmp_path / "new", number, overrides, said.append, [], lambda _job, _logs: workers)
    return found, workers


def verdicts(run: Path, number: int) -> dict[tuple[str, int], str]:
    files = sorted((run / f"rounds/{number:02d}/verdicts").glob("*.parquet"))
    rows = [row for file in files for row in pq.read_table(file).to_pylist()]
    return {(row["prompt_id"], row["sample_index"]): row["verdict"] for row in rows}


@pytest.mark.parametrize("number", [1, 2])
def test_a_round_is_graded_again_and_what_differs_is_told(tmp_path: Path, number: int) -> None:
    run_job(make_project(tmp_path), Workers())
    found, workers = again(tmp_path, number, "grade.strict=false")
    old, new = verdicts(tmp_path / "run", number), verdicts(tmp_path / "new", number)
    assert workers.calls["generate"] == workers.calls["train"] == 0
    assert old.keys() == new.keys()
    flips = [key for key in old if old[key] != new[key]]
    assert flips
    assert dict(found.flips) == {("wrong", "correct"): len(flips)}
    examples = found.examples["wrong", "correct"]
    assert {(e["prompt_id"], e["sample_index"]) for e in examples} <= set(flips)
    assert all(e["extracted"][0] != e["gold"] for e in examples)
    assert found.samples == len(old)
    before, after = (
        pq.read_metadata(tmp_path / run / f"rounds/{number:02d}/pairs/00000.parquet").num_rows for run in ("run", "new")
    )
    assert (found.pairs_before, found.pairs_after) == (before, after)
    assert found.pairs_kept < before
    assert (tmp_path / "new/rescored.json").exists()
    assert verify(tmp_path / "new").findings == []
    assert verify(tmp_path / "run").findings == []


def test_earlier_rounds_stay_as_they_were_and_later_ones_follow(tmp_path: Path) -> None:
    run_job(make_project(tmp_path), Workers())
    again(tmp_path, 2, "grade.strict=false")
    assert verdicts(tmp_path / "new", 1) == verdicts(tmp_path / "run", 1)
    state = Ledger(tmp_path / "new/ledger").state
    assert "rounds/02/pairs" in state.commits
    assert "rounds/02/train" not in state.commits
    workers = Workers()
    run_job(tmp_path / "new/job.yaml", workers, "rounds=3")
    assert workers.calls["train"] == 2, "rounds 2 and 3"
    odd = {key: verdict for key, verdict in verdicts(tmp_path / "new", 3).items() if key[1] % 2}
    assert set(odd.values()) == {"correct"}
    assert verify(tmp_path / "new").findings == []


def test_the_same_grading_is_done_again_and_nothing_flips(tmp_path: Path) -> None:
    """The graders themselves may have changed."""
    run_job(make_project(tmp_path), Workers())
    found, workers = again(tmp_path, 1)
    assert workers.calls["grade"] == 2
    assert not found.flips
    assert found.pairs_kept == found.pairs_before == found.pairs_after


def test_a_grading_that_leaves_no_pair_is_told_too(tmp_path: Path) -> None:
    class Generous(Workers):
        def graders(self, settings: Any) -> Graders:
            return AllCorrect(self, settings.strict)

    class AllCorrect(Graders):
        def _verdict(self, sample: dict[str, Any], gold: str) -> dict[str, Any]:
            return super()._verdict(sample, gold) | {"verdict": "correct"}

    run_job(make_project(tmp_path), Workers())
    said: list[str] = []
    found = rescore(tmp_path / "run", tmp_path / "new", 1, [], said.append, [], lambda _job, _logs: Generous())
    assert found.pairs_after == 0 < found.pairs_before
    assert "gives no pairs" in said[-1]
    assert status(tmp_path / "new")["state"] == "finished" and verify(tmp_path / "new").findings == []
    with pytest.raises(NoPairs):  # which is no way on
        run_job(tmp_path / "new/job.yaml", Generous())
    assert status(tmp_path / "new")["state"] == "failed"


@pytest.mark.parametrize(
    ("number", "override", "said"),
    [
        (9, "grade.strict=false", "round 9 has no verdicts; rounds with verdicts: [1, 2]"),
        (1, "train.learning_rate=1", "rescoring changes the grading alone"),
        (1, "grade.strickt=false", "did you mean `strict`"),
    ],
)
def test_what_cannot_be_rescored_is_refused(tmp_path: Path, number: int, override: str, said: str) -> None:
    run_job(make_project(tmp_path), Workers())
    with pytest.raises(BadInput) as refused:
        again(tmp_path, number, override)
    assert said in str(refused.value)
    assert not (tmp_path / "new").exists()


# How it ends


def test_a_rescoring_is_finished_when_its_pairs_are(tmp_path: Path) -> None:
    run_job(make_project(tmp_path), Workers())
    again(tmp_path, 1, "grade.strict=false")
    new = tmp_path / "new"
    assert status(new)["state"] == "finished"
    assert "- State: finished: it was to come as far as rounds/01/pairs" in report_text(new, SOURCES)
    assert verify(new).findings == []
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    sync(new, Tracking(uri=uri, experiment="again"))
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    [experiment] = client.search_experiments(filter_string="name = 'again'")
    tracked = client.search_runs([experiment.experiment_id])
    assert [run.info.status for run in tracked] == ["FINISHED"] * 2  # the job's and that of round 1
    assert any("finished" in run.data.tags.get("ratchet.end", "") for run in tracked)


def without_end(run: Path) -> Run:
    """A run whose driver has not come to say how it ended, to be driven on."""
    last = max((run / "ledger").glob("*.json"))
    assert '"end"' in last.read_text()
    last.unlink()
    driver = Run(run)
    driver.claim({"host": socket.gethostname(), "pid": 2**30})  # a process that is gone
    return driver


def unended(run: Path) -> None:
    """As a kill leaves it between the last step and the word of how it ended."""
    without_end(run)


def ended_as_in_0_1_0(run: Path) -> None:
    """What an earlier version wrote at the end of a rescoring."""
    without_end(run).end("interrupted", "it was to go as far as the pairs of round 1")


@pytest.mark.parametrize("end", [None, unended, ended_as_in_0_1_0])
def test_a_rescored_run_goes_on_and_is_forked_however_it_ended(
    tmp_path: Path, end: Callable[[Path], None] | None
) -> None:
    run_job(make_project(tmp_path), Workers())
    again(tmp_path, 1, "grade.strict=false")
    new = tmp_path / "new"
    if end:
        end(new)
        assert status(new)["state"] == "interrupted"
    fork(new, tmp_path / "child", ["loss.beta=0.3"])
    assert verify(tmp_path / "child").findings == []
    for run, beta in ((new, 0.1), (tmp_path / "child", 0.3)):
        workers = Workers()
        run_job(run / "job.yaml", workers)
        assert workers.calls["train"] == 2 and status(run)["state"] == "finished"
        assert [round_["promoted"] for round_ in status(run)["rounds"]] == [True, True]
        assert verify(run).findings == []
        assert Ledger(run / "ledger").state.configs[-1]["job"]["loss"]["beta"] == beta
    assert verdicts(tmp_path / "child", 1) == verdicts(new, 1) != verdicts(tmp_path / "run", 1)


@pytest.mark.parametrize("end", [unended, ended_as_in_0_1_0])
def test_one_that_has_its_pairs_and_was_not_said_to_be_finished_is_finished_by_the_same_command(
    tmp_path: Path, end: Callable[[Path], None]
) -> None:
    run_job(make_project(tmp_path), Workers())
    again(tmp_path, 1, "grade.strict=false")
    end(tmp_path / "new")
    _, workers = again(tmp_path, 1, "grade.strict=false")
    assert status(tmp_path / "new")["state"] == "finished" and not workers.calls


def test_one_that_has_gone_on_and_was_interrupted_is_left_as_it_is(tmp_path: Path) -> None:
    run_job(make_project(tmp_path), Workers())
    again(tmp_path, 1, "grade.strict=false")

    def interrupt(name: str) -> None:
        if name == "generate":  # in round 2
            raise Interrupted("SIGTERM")

    with pytest.raises(Interrupted):
        run_job(tmp_path / "new/job.yaml", Workers(on_call=interrupt), "rounds=3")
    records = len(Ledger(tmp_path / "new/ledger").records)
    again(tmp_path, 1, "grade.strict=false")
    assert len(Ledger(tmp_path / "new/ledger").records) == records
    assert status(tmp_path / "new")["state"] == "interrupted"


def test_what_it_was_offered_stays_for_the_rounds_to_come(tmp_path: Path) -> None:
    """Where the pairs come out as they were, so does all that is made of them."""
    run_job(make_project(tmp_path), Workers())
    again(tmp_path, 1)
    clean(tmp_path / "new", {"host": "here", "pid": 1})
    (tmp_path / "run").rename(tmp_path / "gone")
    workers = Workers()
    run_job(tmp_path / "new/job.yaml", workers)
    assert workers.calls["train"] == workers.calls["generate"] == 0
    run = Run(tmp_path / "new")
    assert run.ledger.state.finished and not left_offers(run.root, run.ledger.state)


@pytest.mark.parametrize("goal", ["rounds/01/train", None])
def test_an_end_that_says_more_than_there_is_is_found(tmp_path: Path, goal: str | None) -> None:
    run_job(make_project(tmp_path), Workers())
    again(tmp_path, 1, "grade.strict=false")
    without_end(tmp_path / "new").end("finished", "", goal)
    [found] = verify(tmp_path / "new").findings
    assert "says that the run is finished" in found and ("rounds/01/train" if goal else "0 of its 2 rounds") in found


# What was removed, and what was begun


def test_a_round_whose_start_was_removed_is_refused_with_the_cure(tmp_path: Path) -> None:
    job = make_project(tmp_path, rounds=4, promotion={"rule": "always"}, keep={"checkpoints": 1})
    run_job(job, Workers(gain=0.1))
    kept = [n for n in range(1, 5) if (tmp_path / f"run/rounds/{n:02d}/checkpoint").exists()]
    assert kept == [4]
    with pytest.raises(BadInput) as refused:
        again(tmp_path, 3, "grade.strict=false")
    said = str(refused.value)
    assert "round 3 starts from what rounds/01/train, rounds/02/train made, which was removed" in said
    assert "Rounds that have all they need: 1." in said
    assert f"`ratchet fork {tmp_path / 'run'} NEWRUN keep.checkpoints=null`" in said
    assert not (tmp_path / "new").exists()
    found, workers = again(tmp_path, 1, "grade.strict=false")
    assert found.flips and workers.calls["train"] == 0


def test_a_rescoring_that_is_done_is_told_again_and_its_run_left_as_it_is(tmp_path: Path) -> None:
    run_job(make_project(tmp_path), Workers())
    before, _ = again(tmp_path, 1, "grade.strict=false")
    run_job(tmp_path / "new/job.yaml", Workers())
    (tmp_path / "new/rescored.json").unlink()
    records = len(Ledger(tmp_path / "new/ledger").records)
    found, workers = again(tmp_path, 1, "grade.strict=false")
    assert found.as_json() == before.as_json() and not workers.calls
    assert (tmp_path / "new/rescored.json").exists()
    assert len(Ledger(tmp_path / "new/ledger").records) == records and status(tmp_path / "new")["state"] == "finished"


def test_a_fork_with_another_grade_says_what_it_would_not_reach(tmp_path: Path) -> None:
    """The samples of a run that was scored again are graded by `regrade.grade`, whatever becomes of `grade`."""
    run_job(make_project(tmp_path), Workers())
    again(tmp_path, 2, "grade.strict=false")
    new = tmp_path / "new"
    with pytest.raises(BadInput, match=r"grade.strict: in this run.* from round 2 on.*regrade.grade.strict=VALUE"):
        fork(new, tmp_path / "child", ["grade.strict=true"])
    with pytest.raises(BadInput, match=r"^grade: in this run"):
        fork(new, tmp_path / "child", ["grade={strict: true}"])
    assert not (tmp_path / "child").exists()
    meant = ["grade.strict=true", "regrade.grade.strict=true"], ["grade.strict=true", "regrade.round=2"]
    for number, overrides in enumerate([*meant, ["grade.strict=true", "regrade=null"], ["grade.processes=1"]]):
        fork(new, tmp_path / f"child-{number}", overrides)


@pytest.mark.parametrize("other", ["round", "overrides", "fork", "run"])
def test_what_another_command_has_made_is_not_gone_on_with(tmp_path: Path, other: str) -> None:
    run_job(make_project(tmp_path), Workers())
    if other == "round":
        again(tmp_path, 2, "grade.strict=false")
    elif other == "overrides":
        again(tmp_path, 1, "grade.timeout=9")
    elif other == "fork":
        fork(tmp_path / "run", tmp_path / "new", ["grade.strict=false"])
    else:
        run_job(tmp_path / "tiny.yaml", Workers(), f"run_dir={tmp_path / 'new'}", "rounds=1")
    records = len(Ledger(tmp_path / "new/ledger").records)
    with pytest.raises(BadInput, match="new: exists already, a run"):
        again(tmp_path, 1, "grade.strict=false")
    assert len(Ledger(tmp_path / "new/ledger").records) == records


@pytest.mark.parametrize("trick", ["link", "pipe", "edited", "missing"])
def test_old_verdicts_that_are_none_are_refused_before_anything_is_made(tmp_path: Path, trick: str) -> None:
    run_job(make_project(tmp_path), Workers())
    file = tmp_path / "run/rounds/01/verdicts/00001.parquet"
    if trick == "edited":
        file.write_bytes(file.read_bytes()[:-1] + b"?")
    else:
        file.rename(tmp_path / "elsewhere")
    if trick == "link":
        file.symlink_to(tmp_path / "elsewhere")
    elif trick == "pipe":
        os.mkfifo(file)
    with pytest.raises(Damaged, match=r"verdicts/00001\.parquet"):
        again(tmp_path, 1, "grade.strict=false")
    assert not (tmp_path / "new").exists()


def test_a_rescored_run_is_rescored_from_where_it_was_and_not_from_a_later_round(tmp_path: Path) -> None:
    """A job knows one round from which on it is graded in another way."""
    run_job(make_project(tmp_path), Workers())
    again(tmp_path, 1, "grade.strict=false")
    run_job(tmp_path / "new/job.yaml", Workers())
    with pytest.raises(BadInput, match=r"made by rescoring round 1, .* Rescore its round 1, or round 2 of the run"):
        rescore(
            tmp_path / "new", tmp_path / "newer", 2, ["grade.strict=true"], print, [], lambda _job, _logs: Workers()
        )
    assert not (tmp_path / "newer").exists()
    rescore(tmp_path / "new", tmp_path / "newer", 1, ["grade.strict=true"], print, [], hire)
    run_job(tmp_path / "newer/job.yaml", Workers())
    assert verdicts(tmp_path / "newer", 1) == verdicts(tmp_path / "run", 1)
    assert verify(tmp_path / "newer").findings == []
