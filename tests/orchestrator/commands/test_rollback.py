"""An earlier reference, made the reference again: what is set aside, what stays, and how the run goes on."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orchestrator.archive.contents import committed
from orchestrator.cli import main
from orchestrator.commands.fork.command import fork
from orchestrator.commands.gc import clean, waste
from orchestrator.commands.rollback import roll_back
from orchestrator.commands.verify.command import verify
from orchestrator.driver.drive import identity
from orchestrator.errors import BadInput, Damaged
from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.run import Run
from orchestrator.models.other_run import RunModel, find
from orchestrator.reports.page.page import document
from orchestrator.reports.report import report_text
from orchestrator.reports.seconds import walls
from orchestrator.reports.status import render, status
from orchestrator.rounds.round import GateStopped
from orchestrator.sources.registry import SOURCES
from tests.support.stand_ins import StandIns, make_project, run_job

Make = Callable[..., Path]


@pytest.fixture
def made(tmp_path: Path) -> Make:
    """Makes a job and runs it; returns the run."""

    def make(rounds: int = 3, **changes: Any) -> Path:
        run_job(make_project(tmp_path, rounds=rounds, **changes), StandIns(gain=0.1))
        return tmp_path / "run"

    return make


def content(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def committed_of(run: Path) -> dict[str, Any]:
    """The artifacts that the run has, by name, without their hidden ones."""
    return {artifact.path: artifact.files for artifact in Ledger(run / "ledger").state.artifacts()}


def promoted(run: Path) -> list[tuple[int, str]]:
    return [(p["round"], p["reference"]) for p in Ledger(run / "ledger").state.promotions]


def test_an_earlier_reference_is_the_reference_again_and_the_run_goes_on(made: Make, tmp_path: Path) -> None:
    run = made()
    whole, before = committed_of(run), content(run / "rounds")
    records = sorted(os.listdir(run / "ledger"))
    done = roll_back(run, 1, identity(), "answers got longer")
    assert done.aside == (2, 3) and done.reference == str(run / "rounds/01/checkpoint")
    assert promoted(run) == [(1, "rounds/01/checkpoint")] and (run / "CURRENT").read_text() == "rounds/01/checkpoint\n"
    assert sorted(os.listdir(run / "ledger"))[: len(records)] == records, "it is a record like others"
    assert sorted(path.name for path in (run / "rounds").iterdir()) == [
        f".02-set-aside-{len(records) + 1:d}", f".03-set-aside-{len(records) + 1:d}", "01",
    ]  # fmt: skip
    assert sorted(content(run / "rounds").values()) == sorted(before.values()), "nothing is removed"
    found = verify(run)
    assert not found.findings and not found.strays and found.files == sum(map(len, whole.values()))
    told = status(run, SOURCES)
    assert told["state"] == "interrupted" and [row["round"] for row in told["rounds"]] == [1]
    said = "rolled back to round 1 by a person, setting aside rounds 2, 3: answers got longer"
    assert told["rollbacks"] == [{"to_round": 1, "set_aside": [2, 3], "reason": "answers got longer", "line": said}]
    assert said in (run / "report.md").read_text()
    assert f"The run was {said}." in document(run, SOURCES)["figures"]["sentences"]
    run_job(tmp_path / "tiny.yaml", StandIns(gain=0.1))
    assert committed_of(run) == whole, "the same settings and seeds make the same rounds"
    assert [number for number, _ in promoted(run)] == [1, 2, 3] and not verify(run).findings
    assert status(run, SOURCES)["state"] == "finished"


def test_the_base_model_is_the_reference_again(made: Make, tmp_path: Path) -> None:
    run = made(2)
    done = roll_back(run, 0, identity())
    assert done.aside == (1, 2) and done.reference == str(tmp_path / "seed")
    assert not (run / "CURRENT").exists() and not verify(run).findings
    with pytest.raises(BadInput, match="has promoted no checkpoint"):
        find(RunModel(str(run), None), "model", [], Path("/nowhere"))
    run_job(tmp_path / "tiny.yaml", StandIns(gain=0.1))
    assert [number for number, _ in promoted(run)] == [1, 2] and not verify(run).findings


def test_a_round_that_the_gate_refused_is_done_again(tmp_path: Path) -> None:
    job = make_project(tmp_path, rounds=2)
    run_job(job, StandIns(gain=0.3), "rounds=1")
    with pytest.raises(GateStopped):
        run_job(job, StandIns(gain=-0.9))
    assert roll_back(tmp_path / "run", 1, identity()).aside == (2,)
    run_job(job, StandIns(gain=0.1))
    assert [number for number, _ in promoted(tmp_path / "run")] == [1, 2] and not verify(tmp_path / "run").findings


def test_what_was_set_aside_goes_with_gc_and_not_before(made: Make, tmp_path: Path) -> None:
    run = made()
    roll_back(run, 1, identity())
    aside = [item for item in waste(run) if item.why == "set aside by a rollback"]
    assert len(aside) == 2 and all(item.size for item in aside)
    run_job(tmp_path / "tiny.yaml", StandIns(gain=0.1))
    assert [item.path for item in clean(run, identity())] == [item.path for item in aside]
    assert not waste(run) and not verify(run).findings
    assert status(run, SOURCES)["state"] == "finished", "a cleaning leaves how the run ended"


def test_it_can_be_done_again_and_further_back(made: Make, tmp_path: Path) -> None:
    run = made()
    roll_back(run, 2, identity())
    assert roll_back(run, 2, identity()).aside == (), "it is there already"
    run_job(tmp_path / "tiny.yaml", StandIns(gain=0.1))
    assert roll_back(run, 1, identity()).aside == (2, 3)
    assert len([path for path in (run / "rounds").iterdir() if "set-aside" in path.name]) == 3
    assert not verify(run).findings and [r.round for r in Ledger(run / "ledger").state.rollbacks] == [2, 1]
    told = "\n".join(str(part) for part in render(status(run, SOURCES)).renderables)  # type: ignore[attr-defined]
    assert told.count("by a person") == 2


@pytest.mark.parametrize("to", [0, 1])
def test_a_crash_before_the_folders_have_their_names_costs_nothing(made: Make, tmp_path: Path, to: int) -> None:
    run = made()
    driver = Run(run)
    driver.claim(identity() | {"process_start": 1.0})  # who is dead
    reference = driver.ledger.state.promotions[-1]["reference"]
    driver.append("rollback", {"round": to, "before": reference, "rounds": [n for n in (1, 2, 3) if n > to]})
    assert (run / "rounds/03").is_dir() and (run / "CURRENT").read_text().strip() == reference
    assert not verify(run).findings
    assert len([item for item in waste(run) if "rollback" in item.why]) == 3 - to
    run_job(tmp_path / "tiny.yaml", StandIns(gain=0.1))
    assert len(list((run / "rounds").glob(".*-set-aside-*"))) == 3 - to and not verify(run).findings
    assert [number for number, _ in promoted(run)] == [1, 2, 3]


def test_a_fork_takes_over_what_is_there_and_nothing_that_was_set_aside(made: Make, tmp_path: Path) -> None:
    run = made(2)
    roll_back(run, 1, identity())
    new = fork(run, tmp_path / "hot", ["train.learning_rate=[7e-7, 1e-6]"])
    assert new.fit["rounds/01/train"] == "taken" and not any(step.startswith("rounds/02") for step in new.fit)
    workers = StandIns(gain=0.1)
    run_job(tmp_path / "hot/job.yaml", workers)
    assert workers.calls["train"] == 1 and not verify(tmp_path / "hot").findings


def test_what_makes_no_sense_is_refused(made: Make, tmp_path: Path) -> None:
    run = made(3, keep={"checkpoints": 1})
    records = len(os.listdir(run / "ledger"))
    for to, said in (
        (3, "nothing follows round 3"),
        (4, "round 4 of .* has promoted nothing"),
        (1, "the checkpoint of round 1 of .* was removed"),
    ):
        with pytest.raises(BadInput, match=said):
            roll_back(run, to, identity())
    with pytest.raises(BadInput, match="no such run"):
        roll_back(tmp_path / "other", 0, identity())
    assert len(os.listdir(run / "ledger")) == records
    new = tmp_path / "forked"
    fork(run, new, ["loss.beta=0.3"])
    with pytest.raises(BadInput, match="nothing follows the base model"):
        roll_back(new, 0, identity())


def test_a_checkpoint_that_was_changed_is_not_gone_back_to(made: Make) -> None:
    run = made(2)
    (run / "rounds/01/checkpoint/model.safetensors").write_text("{}")
    records = len(os.listdir(run / "ledger"))
    with pytest.raises(Damaged, match="checkpoint"):
        roll_back(run, 1, identity())
    assert len(os.listdir(run / "ledger")) == records and status(run, SOURCES)["state"] == "finished"


def test_a_run_that_is_driven_is_left_alone(made: Make) -> None:
    run = made(2)
    driver = Run(run)
    driver.claim(identity())
    with pytest.raises(BadInput, match="is driving this run"):
        roll_back(run, 1, identity())


def test_the_command_says_what_it_did(made: Make, capsys: pytest.CaptureFixture[str]) -> None:
    run = made(2)
    with pytest.raises(SystemExit) as left:
        main(["rollback", str(run), "--to-round", "1", "--reason", "it was better"])
    out = capsys.readouterr().out
    assert left.value.code == 0 and "set aside rounds 2" in out and "ratchet resume" in out and "--from-round 2" in out
    assert "it was better" in report_text(run, SOURCES)


def test_archives_exports_and_times_follow_what_is_there_now(made: Make, tmp_path: Path) -> None:
    run = made(2)
    ledger = Ledger(run / "ledger")
    assert set(walls(ledger.records)) == {0, 1, 2}
    roll_back(run, 1, identity())
    ledger = Ledger(run / "ledger")
    assert set(walls(ledger.records)) == {0, 1}
    names = committed(run, ledger.state, ledger.records)
    assert names and not any(name.startswith("rounds/02") for name in names)
    assert find(RunModel(str(run), None), "model", [], Path("/nowhere")).origin["round"] == 1
    with pytest.raises(BadInput, match="a rollback has set it aside"):
        find(RunModel(str(run), 2), "model", [], Path("/nowhere"))
    run_job(tmp_path / "tiny.yaml", StandIns(gain=0.1))
    ledger = Ledger(run / "ledger")
    assert all(item.path.is_file() for item in committed(run, ledger.state, ledger.records).values())


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"round": 2, "before": "rounds/02/checkpoint", "rounds": []}, None),
        ({"round": 1, "before": "rounds/02/checkpoint", "rounds": []}, "sets aside rounds none, and those after"),
        ({"round": 1, "before": "rounds/01/checkpoint", "rounds": [2]}, "names rounds/01/checkpoint as the reference"),
        ({"round": 7, "before": "rounds/02/checkpoint", "rounds": []}, "goes back to round 7, which was not promoted"),
    ],
)
def test_verify_believes_no_rollback(made: Make, data: dict[str, Any], said: str | None) -> None:
    run = made(2)
    driver = Run(run)
    driver.claim(identity())
    driver.append("rollback", data)
    found = "\n".join(verify(run).findings)
    assert (said in found) if said else found == ""


def test_what_was_set_aside_is_looked_at_as_long_as_it_is_there(made: Make) -> None:
    run = made(2)
    roll_back(run, 1, identity())
    [file] = (run / "rounds").glob(".02-set-aside-*/pairs/00000.parquet")
    file.write_bytes(b"other")
    assert any(str(file.relative_to(run)) in finding for finding in verify(run).findings)


def test_a_record_that_goes_forward_is_damaged(made: Make) -> None:
    run = made(2)
    number = len(os.listdir(run / "ledger"))
    driver = Run(run)
    driver.claim(identity())
    with pytest.raises(Damaged, match="sets rounds aside"):
        driver.append("rollback", {"round": 1, "before": "x", "rounds": [1]})
    assert json.loads((run / f"ledger/{number:08d}.json").read_text())["kind"] == "claim"


@pytest.mark.parametrize("reason", ["x" * 10_001, os.fsdecode(b"\xff")], ids=["long", "bytes"])
def test_a_reason_that_no_record_can_hold_is_refused_before_the_run_is_claimed(made: Make, reason: str) -> None:
    run = made(2)
    before = content(run)
    with pytest.raises(BadInput, match=r"^--reason: "):
        roll_back(run, 1, identity(), reason)
    assert content(run) == before
    roll_back(run, 1, identity(), "é" * 10_000)
