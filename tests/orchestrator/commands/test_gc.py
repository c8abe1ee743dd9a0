"""`ratchet gc` and `keep.checkpoints`: what is needed stays, a run goes on, and a dry run touches nothing."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import pytest

from orchestrator.commands.gc import clean, spare_checkpoints, waste
from orchestrator.commands.verify.command import verify
from orchestrator.driver.drive import identity
from orchestrator.errors import Displaced
from orchestrator.files.processes import process_start
from orchestrator.ledger.ledger import CLEANING, Ledger, State
from orchestrator.ledger.record_files import Record
from orchestrator.reports.status import status
from orchestrator.rounds.round import GateStopped
from tests.orchestrator.commands.test_verify import files_of
from tests.orchestrator.test_cli import ratchet
from tests.orchestrator.test_loop import StopAt, history
from tests.support.sample_run import SampleRun
from tests.support.stand_ins import StandIns, make_project, run_job


def checkpoints(run: Path) -> list[str]:
    return sorted(path.parent.name for path in run.glob("rounds/*/checkpoint"))


def state_with(accuracies: list[float], refused: tuple[int, ...] = ()) -> State:
    """Rounds with these accuracies on the gate problems, in order."""
    state, reference = State(), "/seed"
    for number, accuracy in enumerate(accuracies, 1):
        promoted = number not in refused
        reference = f"rounds/{number:02d}/checkpoint" if promoted else reference
        state.promotions.append({"round": number, "promoted": promoted, "reference": reference})
        facts = {"gate": {"accuracy": accuracy}}
        commit = {"step": f"rounds/{number:02d}/evaluation", "fingerprint": "f", "artifacts": [], "facts": facts}
        state.apply(Record(0, 1, "commit", 0.0, commit))
    return state


@pytest.mark.parametrize(
    ("accuracies", "keep", "spare"),
    [
        ([0.1, 0.2, 0.3, 0.4], None, []),
        ([0.1, 0.2, 0.3, 0.4], 1, [1, 2, 3]),
        ([0.1, 0.2, 0.3, 0.4], 3, [1]),
        ([0.1, 0.2, 0.3, 0.4], 9, []),
        ([0.1, 0.9, 0.3, 0.4], 1, [1, 3]),  # the best
        ([0.1, 0.9, 0.9, 0.4], 1, [1, 3]),  # of equals the earliest
        ([0.5], 1, []),
        ([], 1, []),
    ],
)
def test_the_newest_the_reference_and_the_best_stay(
    accuracies: list[float], keep: int | None, spare: list[int]
) -> None:
    found = spare_checkpoints(state_with(accuracies), keep)
    assert found == [f"rounds/{number:02d}/checkpoint" for number in spare]


def test_a_refused_round_does_not_take_the_place_of_a_promoted_one() -> None:
    assert spare_checkpoints(state_with([0.3, 0.4, 0.1], refused=(3,)), 1) == ["rounds/01/checkpoint"]


def test_a_run_keeps_as_many_checkpoints_as_it_is_told(tmp_path: Path) -> None:
    job = make_project(tmp_path, skill=0.2)
    run_job(job, StandIns(gain=0.1), "rounds=4", "keep.checkpoints=2")
    run = tmp_path / "run"
    assert checkpoints(run) == ["03", "04"]
    assert verify(run).findings == []
    more = StandIns(gain=0.1)
    run_job(job, more, "rounds=5", "keep.checkpoints=1")
    assert more.calls["train"] == 1
    assert checkpoints(run) == ["05"]
    assert verify(run).findings == []


def test_removing_checkpoints_changes_nothing_else(tmp_path: Path) -> None:
    run_job(make_project(tmp_path / "all"), StandIns(), "rounds=3", "pairs.replay=0.5")
    run_job(make_project(tmp_path / "one"), StandIns(), "rounds=3", "pairs.replay=0.5", "keep.checkpoints=1")
    assert history(tmp_path / "one/run") == history(tmp_path / "all/run")


def test_stopped_while_it_removes_a_checkpoint_the_run_goes_on(tmp_path: Path) -> None:
    job = make_project(tmp_path, skill=0.2)
    run_job(job, StandIns(gain=0.1), "rounds=3")
    run = tmp_path / "run"
    ledger = Ledger(run / "ledger")
    ledger.claim(identity())
    ledger.append("discard", {"paths": ["rounds/01/checkpoint"]})  # and dies before it removes the files
    assert checkpoints(run) == ["01", "02", "03"]
    run_job(job, StandIns(gain=0.1), "rounds=4")
    assert checkpoints(run) == ["02", "03", "04"]


def littered(tmp_path: Path) -> tuple[Path, Path, set[str]]:
    """A finished run of three rounds that may keep one checkpoint, with rubbish; its job, and what can go."""
    job = make_project(tmp_path, skill=0.2)
    run_job(job, StandIns(gain=0.1), "rounds=3")
    run = tmp_path / "run"
    claims = Ledger(run / "ledger")
    claims.claim(identity())
    config = claims.state.configs[-1]
    claims.append("config", config | {"job": config["job"] | {"keep": {"checkpoints": 1, "training_states": 1}}})
    claims.append("end", {"state": "finished", "reason": ""})
    rubbish = {
        "rounds/03/.pairs-e1/00000.parquet": "rounds/03/.pairs-e1",
        "rounds/04/samples/.00001.parquet-e1": "rounds/04/samples/.00001.parquet-e1",
        "rounds/02/.stray-0123abcd-pairs/x": "rounds/02/.stray-0123abcd-pairs",
        "rounds/02/.train-state-of-1/000004/x": "rounds/02/.train-state-of-1",
        f"ledger/.00000077.json.{'a' * 32}": f"ledger/.00000077.json.{'a' * 32}",
        f".driver.json.{'b' * 32}": f".driver.json.{'b' * 32}",
    }
    precious = ["notes.txt", "rounds/02/notes.txt", "rounds/04/.train-state-of-1/x", ".hidden", "logs/.old-e1"]
    for name in (*rubbish, *precious):
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_text("text")
    return run, job, {*rubbish.values(), "rounds/01/checkpoint", "rounds/02/checkpoint"}


def test_a_dry_run_lists_and_changes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, _, expected = littered(tmp_path)
    before = files_of(run)
    assert ratchet("gc", run, "--dry-run") == 0
    *lines, total = capsys.readouterr().out.splitlines()
    assert {line.split()[1] for line in lines} == expected
    sizes = [int(line.split()[0].replace(",", "")) for line in lines]
    assert int(total.split()[0].replace(",", "")) == sum(sizes) > 0
    assert files_of(run) == before


def test_gc_removes_what_it_lists_and_the_run_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, job, expected = littered(tmp_path)
    before = set(files_of(run))
    assert ratchet("gc", run) == 0
    assert f"bytes removed from {run}" in capsys.readouterr().out
    gone = before - set(files_of(run))
    assert {name for name in expected if not (run / name).exists()} == expected
    assert all(any(path.startswith(str(run / name)) for name in expected) for path in gone)
    assert status(run)["state"] == "finished"
    report = verify(run)
    assert (report.findings, report.discarded) == ([], 2)
    assert waste(run) == [] and clean(run, identity()) == []
    workers = StandIns(gain=0.1)
    run_job(job, workers, "rounds=4", "keep.checkpoints=1")
    assert workers.calls["train"] == 1
    assert checkpoints(run) == ["04"]


def test_gc_writes_no_more_than_that_it_came_and_what_goes(tmp_path: Path) -> None:
    run, _, _ = littered(tmp_path)
    before = len(Ledger(run / "ledger").records)
    clean(run, identity())
    [claim] = Ledger(run / "ledger").records[before:]
    assert (claim.kind, claim.data["purpose"]) == ("claim", "gc")
    assert sorted(claim.data["paths"]) == ["rounds/01/checkpoint", "rounds/02/checkpoint"]


def test_what_was_discarded_and_is_still_there_is_waste(tmp_path: Path) -> None:
    run, _, expected = littered(tmp_path)
    ledger = Ledger(run / "ledger")
    ledger.claim(identity() | CLEANING | {"paths": ["rounds/01/checkpoint", "rounds/02/checkpoint"]})  # and is killed
    assert {item.path for item in waste(run)} == expected
    clean(run, identity())
    assert checkpoints(run) == ["03"] and waste(run) == [] and status(run)["state"] == "finished"


def test_what_a_driver_writes_that_has_begun_since_is_no_waste(tmp_path: Path) -> None:
    run, _, expected = littered(tmp_path)
    for name in ("rounds/04/.pairs-e9", "rounds/04/.00000.parquet-e9.partial-e0"):
        (run / name).mkdir()
    assert {item.path for item in waste(run)} == expected
    clean(run, identity())
    assert (run / "rounds/04/.pairs-e9").exists() and (run / "rounds/04/.00000.parquet-e9.partial-e0").exists()


def test_a_run_that_somebody_claims_meanwhile_is_left_to_him(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "run/ledger")
    assert ledger.claim(identity(), after=0) == 1
    with pytest.raises(Displaced, match="somebody else has just begun to drive it"):
        Ledger(tmp_path / "run/ledger").claim(identity() | CLEANING, after=0)
    assert len(Ledger(tmp_path / "run/ledger").records) == 1


def test_what_is_committed_but_has_no_final_name_yet_is_no_waste(tmp_path: Path) -> None:
    run_job(make_project(tmp_path), StandIns())
    run = tmp_path / "run"
    [artifact] = Ledger(run / "ledger").state.commits["rounds/02/evaluation"].artifacts
    (run / artifact.path).rename(run / artifact.hidden)
    assert waste(run) == []


def test_an_interrupted_run_is_cleaned_and_resumed(tmp_path: Path) -> None:
    job = make_project(tmp_path)
    run_job(make_project(tmp_path / "calm"), StandIns())
    with pytest.raises(RuntimeError):
        run_job(job, StandIns(on_call=StopAt(30, RuntimeError("a bug"))))
    run = tmp_path / "run"
    (run / "rounds/01/.train-e1").mkdir()
    found = {item.path.partition("-e1")[0] for item in clean(run, identity())}
    assert found == {"rounds/01/.train", "rounds/01/.evaluation"}
    assert status(run)["state"] == "failed"
    run_job(job, StandIns())
    assert history(run) == history(tmp_path / "calm/run")


def test_a_run_that_the_gate_stopped_keeps_its_reference(tmp_path: Path) -> None:
    job = make_project(tmp_path, skill=0.3)
    run_job(job, StandIns(gain=0.3), "keep.checkpoints=1")
    with pytest.raises(GateStopped, match="ratchet fork"):
        run_job(job, StandIns(gain=-0.9), "rounds=3", "keep.checkpoints=1")
    run = tmp_path / "run"
    clean(run, identity())
    assert "02" in checkpoints(run) and verify(run).findings == []
    assert status(run)["state"] == "stopped"


def test_a_run_that_is_being_driven_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sample = SampleRun(tmp_path / "run")
    sample.claim(os.getpid(), socket.gethostname(), process_start(os.getpid()))
    sample.configure()
    sample.baseline()
    stray = tmp_path / "run/baseline/.prompts-e1"
    stray.mkdir()
    assert ratchet("gc", tmp_path / "run") == 2
    assert f"process {os.getpid()} on {socket.gethostname()} is driving this run" in capsys.readouterr().err
    assert stray.exists()


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ratchet("gc", tmp_path) == 2
    assert "not a run" in capsys.readouterr().err
    assert json.dumps(sorted(p.name for p in tmp_path.iterdir())) == "[]"
