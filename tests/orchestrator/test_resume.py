"""`ratchet resume`: a run goes on with what it knows of itself, moved, copied, and by its own
job.yaml."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import yaml

from orchestrator.commands.fork.command import fork
from orchestrator.config import Job
from orchestrator.config.load import JobFile, load_job
from orchestrator.config.places import run_folder
from orchestrator.driver.drive import drive
from orchestrator.driver.resume import load, resumed
from orchestrator.driver.signals import signals
from orchestrator.errors import BadInput
from orchestrator.ledger.ledger import Ledger
from orchestrator.reports.status import status
from tests.orchestrator.test_cli import PROJECT, ratchet, without_rights
from tests.orchestrator.test_loop import StopAt, history
from tests.support.stand_ins import StandIns, make_project, run_job


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Commands are given in a folder that has nothing to do with the job; runs are below the project's."""
    monkeypatch.setenv("RATCHET_HOME", str(tmp_path / "project"))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return tmp_path / "elsewhere"


@pytest.fixture
def half(tmp_path: Path) -> Path:
    """A run that failed on its way, started with overrides from a job file with relative paths."""
    job = tmp_path / "project/jobs/tiny.yaml"
    make_project(job.parent, run_dir=None)
    with pytest.raises(RuntimeError):
        run_job(job, StandIns(on_call=StopAt(24, RuntimeError("a bug"))), "loss.beta=0.2", "generate.temperature=0.9")
    return tmp_path / "project/runs/tiny"


def trust(_: str) -> None:
    """As `--trust` is told what needs trust."""


def go(file: JobFile, workers: StandIns | None = None) -> Path:
    with signals() as received:
        drive(file, lambda _: None, received, lambda _job, _logs: workers or StandIns())
    return run_folder(file.job)


def job_of(run: Path) -> Job:
    return Job.model_validate(Ledger(run / "ledger").state.configs[-1]["job"])


def undisturbed(tmp_path: Path) -> Path:
    make_project(tmp_path / "whole")
    run_job(tmp_path / "whole/tiny.yaml", StandIns(), "loss.beta=0.2", "generate.temperature=0.9")
    return tmp_path / "whole/run"


@pytest.mark.parametrize("how", ["resume", "job.yaml", "resolved.yaml"])
def test_a_run_goes_on_without_its_job_file_and_overrides(half: Path, tmp_path: Path, how: str) -> None:
    (tmp_path / "project/jobs/tiny.yaml").unlink()
    file = resumed(half) if how == "resume" else load(half / how)
    assert go(file) == half and status(half)["state"] == "finished"
    assert history(half) == history(undisturbed(tmp_path))
    assert not (half / "runs").exists() and not (tmp_path / "elsewhere/runs").exists()
    assert len(Ledger(half / "ledger").state.configs) == 1, "nothing about the job has changed"


def test_harmless_keys_may_change_and_stay_changed(half: Path) -> None:
    go(resumed(half, ["rounds=1"]))
    assert status(half)["state"] == "finished" and len(status(half)["rounds"]) == 1
    go(resumed(half, ["rounds=3", "keep.checkpoints=2"]))
    assert [r["round"] for r in status(half)["rounds"]] == [1, 2, 3]
    config = Ledger(half / "ledger").state.configs[-1]
    assert config["overrides"] == ["loss.beta=0.2", "generate.temperature=0.9", "rounds=3", "keep.checkpoints=2"]
    assert resumed(half).job == load(half / "job.yaml").job == job_of(half)
    assert (job_of(half).rounds, job_of(half).loss.beta, config["job_file"]) == (3, 0.2, "tiny.yaml")


def test_what_would_change_results_is_refused_with_the_way_out(half: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = history(half)
    for command in (("resume", half), ("run", half / "job.yaml"), ("resume", "runs/tiny")):
        for override, said in (
            ("loss.beta=0.3", f"`ratchet fork {half} NEWRUN KEY=VALUE`"),
            ("name=other", "name: 'tiny' in the run, 'other' now"),
            ("run_dir=/elsewhere", "run_dir: the run is where its folder is"),
            ("method=sft", "method: a run has every setting"),
            ("data.gate.path=../train.jsonl", "data.gate"),
            ("rouns=3", "override 'rouns=3': unknown key"),
        ):
            assert ratchet(*command, override) == 2
            told = capsys.readouterr().err
            assert told.startswith("ratchet: ") and said in told and "Traceback" not in told
    assert history(half) == before and status(half)["state"] == "failed"


def test_no_run_and_a_run_without_settings_are_bad_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    Ledger(tmp_path / "bare/ledger").claim({"host": "elsewhere", "pid": 1})
    for run, said in (("nowhere", "no such run"), ("empty", "not a run"), ("bare", "this run was never started")):
        assert ratchet("resume", tmp_path / run) == 2
        assert said in capsys.readouterr().err


def test_a_job_file_that_is_not_there_is_bad_input_in_a_run_too(half: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (half / "job.yaml").unlink()
    assert ratchet("run", half / "job.yaml") == 2
    told = capsys.readouterr().err
    assert "job.yaml: cannot read the job file" in told and "Traceback" not in told


def test_what_was_changed_in_the_copy_of_the_job_counts(half: Path) -> None:
    text = (half / "job.yaml").read_text()
    (half / "job.yaml").write_text(text.replace("rounds: 2", "rounds: 1"))
    assert (load(half / "job.yaml").job.rounds, load(half / "job.yaml").job.loss.beta) == (1, 0.2)
    (half / "job.yaml").write_text(text + "grade: {timeout: 7}\n")
    with pytest.raises(BadInput, match=r"grade\.timeout: .* in the run, 7.0 now"):
        go(load(half / "job.yaml"))


def test_a_stale_copy_of_the_job_does_not_bring_old_settings_back(half: Path, tmp_path: Path) -> None:
    """The file that started the run was edited since, and what it says now is in the ledger."""
    job = tmp_path / "project/jobs/tiny.yaml"
    job.write_text(yaml.safe_dump(yaml.safe_load(job.read_text()) | {"rounds": 3, "loss": {"beta": 0.2}}))
    run_job(job, StandIns(), "generate.temperature=0.9")
    assert yaml.safe_load((half / "job.yaml").read_text())["rounds"] == 2
    assert load(half / "job.yaml").job == job_of(half) and job_of(half).rounds == 3


def test_a_job_that_is_none_without_its_overrides_goes_on_by_its_copy(tmp_path: Path) -> None:
    job, run = make_project(tmp_path), tmp_path / "run"
    document = yaml.safe_load(job.read_text())
    model = document.pop("model")
    job.write_text(yaml.safe_dump(document))
    with pytest.raises(RuntimeError):
        run_job(job, StandIns(on_call=StopAt(24, RuntimeError("a bug"))), f"model={model}")
    assert go(load(run / "job.yaml")) == run and status(run)["state"] == "finished"
    (run / "job.yaml").write_text(yaml.safe_dump(document | {"rounds": 3}))
    assert (load(run / "job.yaml").job.rounds, load(run / "job.yaml").job.model) == (3, model)


def test_a_lost_copy_of_the_job_is_made_again(half: Path) -> None:
    (half / "job.yaml").unlink()
    go(resumed(half))
    assert load(half / "job.yaml").job == job_of(half)


@pytest.mark.parametrize("start", ["resume", "run"])
def test_a_fork_goes_on_by_itself(half: Path, tmp_path: Path, start: str) -> None:
    child = tmp_path / "elsewhere/child"
    fork(half, child, ["loss.beta=0.3", "rounds=1"])
    go(resumed(child) if start == "resume" else load(child / "job.yaml"))
    go(load(child / "job.yaml", ["rounds=2"]))
    assert status(child)["state"] == "finished" and len(status(child)["rounds"]) == 2
    assert job_of(child).loss.beta == 0.3 and resumed(child).job == load(child / "job.yaml").job
    # Its file has everything: an edit before the first start is not undone by what the fork was made with.
    other = tmp_path / "elsewhere/other"
    fork(half, other, ["loss.beta=0.3"])
    (other / "job.yaml").write_text((other / "job.yaml").read_text().replace("beta: 0.3", "beta: 0.4"))
    assert load(other / "job.yaml").job.loss.beta == 0.4


# Moved and copied


@pytest.mark.parametrize("how", ["moved", "copied"])
@pytest.mark.parametrize("command", ["resume", "job.yaml"])
def test_a_run_is_where_its_folder_is(half: Path, tmp_path: Path, how: str, command: str) -> None:
    there = tmp_path / "elsewhere/there"
    (shutil.move if how == "moved" else shutil.copytree)(half, there)
    before = history(half) if how == "copied" else None
    assert go(resumed(there) if command == "resume" else load(there / "job.yaml")) == there
    assert history(there) == history(undisturbed(tmp_path))
    assert (job_of(there).name, job_of(there).run_dir) == ("tiny", str(there))
    assert half.exists() == (how == "copied") and (before is None or history(half) == before)


def test_what_stands_where_a_run_was_does_not_matter(half: Path, tmp_path: Path) -> None:
    make_project(tmp_path / "given", run_dir=str(tmp_path / "given/run"))
    run_job(tmp_path / "given/tiny.yaml", StandIns(), "rounds=1")
    (tmp_path / "given/run").rename(moved := tmp_path / "moved")
    (tmp_path / "given/run").write_text("something else")
    assert go(resumed(moved, ["rounds=2"])) == moved and status(moved)["state"] == "finished"


def test_a_copy_of_a_run_goes_on_where_what_it_came_from_is_closed_to_us() -> None:
    with tempfile.TemporaryDirectory() as name:
        theirs, ours = Path(name, "theirs"), Path(name, "ours")
        database = f"sqlite:///{theirs}/mlflow.db"
        job = make_project(theirs, run_dir=str(theirs / "run"), tracking={"enabled": False, "uri": database})
        (theirs / "mlflow.db").touch()
        run_job(job, StandIns(), "rounds=1")
        shutil.copytree(theirs, ours)
        moved = [f"data.{split}.path={ours}/{split}.jsonl" for split in ("train", "gate", "test")]
        moved += [f"model={ours}/seed", "rounds=2"]
        fork(ours / "run", ours / "as-root", ["loss.beta=0.2"])  # what is imported for it is then there
        for path in (Path(name), ours, *ours.rglob("*")):
            path.chmod(0o777 if path.is_dir() else 0o666)
        theirs.chmod(0)
        try:
            with without_rights():
                fork(ours / "run", ours / "new", ["loss.beta=0.2"])
                with pytest.raises(BadInput, match=rf"nothing at {theirs}/seed \(Permission denied: .*model=FOLDER"):
                    go(resumed(ours / "run", ["rounds=2"], trust))
                go(resumed(ours / "run", moved, trust))
        finally:
            theirs.chmod(0o755)
        assert [status(ours / "run")["state"], status(ours / "new")["state"]] == ["finished", "not started"]
        assert job_of(ours / "run").tracking.uri == f"sqlite:///{ours}/mlflow.db"


@pytest.mark.parametrize("start", ["recorded", "of an earlier version"])
def test_files_that_were_moved_are_named_anew_if_they_are_the_same(half: Path, tmp_path: Path, start: str) -> None:
    jobs, there = tmp_path / "project/jobs", tmp_path / "there"
    shutil.move(jobs, there)
    if start == "of an earlier version":
        forget(half, "model_digest", "problems")
    with pytest.raises(BadInput) as missing:
        go(resumed(half))
    assert f"model: 'seed' does not exist: nothing at {jobs}/seed" in str(missing.value)
    assert "say where it is now: model=FOLDER" in str(missing.value)
    with pytest.raises(BadInput, match=r"data\.train: 'train\.jsonl' does not exist: .*: data\.train\.path=FILE"):
        os.symlink(there / "seed", tmp_path / "elsewhere/seed")
        go(resumed(half, tell=trust))
    os.unlink(tmp_path / "elsewhere/seed")
    named = [
        f"model={there}/seed",
        *(f"data.{split}.path={there}/{split}.jsonl" for split in ("train", "gate", "test")),
    ]
    if start == "of an earlier version":
        with pytest.raises(BadInput, match=r"other settings:\n  data\.gate\.path: 'gate\.jsonl' in the run"):
            go(resumed(half, named))  # nothing tells whether they are the same
        return
    other = tmp_path / "train.jsonl"
    other.write_text((there / "train.jsonl").read_text().replace("train 3?", "another 3?"))
    for wrong in (f"data.train.path={other}", f"model={other_model(tmp_path)}"):
        configs = len(Ledger(half / "ledger").state.configs)
        with pytest.raises(BadInput, match=r"has other problems than when|is not the model that"):
            go(resumed(half, [*named, wrong]))
        assert len(Ledger(half / "ledger").state.configs) == configs
    go(resumed(half, named))
    assert history(half) == history(undisturbed(tmp_path))
    go(resumed(half, ["rounds=3"]))  # and they are found from now on


def other_model(folder: Path) -> Path:
    make_project(folder / "another", skill=0.6)
    return folder / "another/seed"


def forget(run: Path, *keys: str) -> None:
    """The run as an earlier version recorded it, which knew less."""
    for path in (run / "ledger").glob("*.json"):
        record = json.loads(path.read_text())
        if record["kind"] == "config":
            record.pop("check")
            record["data"] = {key: value for key, value in record["data"].items() if key not in keys}
            path.write_text(json.dumps(record))


def test_the_same_job_in_rays_copy_of_the_project_goes_on(
    half: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Started on the spot and then submitted: the model is in a folder that will vanish, and is kept from then on."""
    copy = tmp_path / "runtime_resources/working_dir_files/_ray_pkg_1/jobs"
    shutil.copytree(tmp_path / "project/jobs", copy)
    monkeypatch.chdir(copy)
    assert go(load_job(copy / "tiny.yaml", ["loss.beta=0.2", "generate.temperature=0.9"])) == half
    assert status(half)["state"] == "finished" and (half / "baseline/model").is_dir()
    shutil.rmtree(copy)
    monkeypatch.chdir(tmp_path)
    shutil.rmtree(tmp_path / "project/jobs/seed")
    fork(half, tmp_path / "child")  # the problems are where they were, if not where they were last
    assert run_folder(load(tmp_path / "child/job.yaml").job) == tmp_path / "child"
    assert Path(job_of(tmp_path / "child").data.sources["train"].path).is_file()
    go(resumed(half, ["rounds=3"]))
    assert len(status(half)["rounds"]) == 3


def test_files_are_found_from_the_folder_that_they_are_relative_to(
    half: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.move(tmp_path / "project/jobs", tmp_path / "there")
    monkeypatch.chdir(tmp_path / "there")
    with pytest.raises(BadInput, match=r"nobody(.|\n)*model: .*there/seed"):
        resumed(half)  # other files than those that were approved, for all that anybody knows
    go(resumed(half, tell=trust))
    assert history(half) == history(undisturbed(tmp_path))


def test_a_model_that_was_changed_in_its_place_is_told_before_the_run_goes_on(half: Path, tmp_path: Path) -> None:
    make_project(tmp_path / "project/jobs", skill=0.6, run_dir=None)
    before = len(Ledger(half / "ledger").records)
    with pytest.raises(BadInput, match=r"model: .*seed is not the model that .* was started with"):
        go(load_job(tmp_path / "project/jobs/tiny.yaml", ["loss.beta=0.2", "generate.temperature=0.9"]))
    assert len(Ledger(half / "ledger").records) == before


def test_a_file_that_was_added_to_a_model_is_named(half: Path, tmp_path: Path) -> None:
    (added := tmp_path / "project/jobs/seed/NOTES.md").write_text("a fine model")
    job = load_job(tmp_path / "project/jobs/tiny.yaml", ["loss.beta=0.2", "generate.temperature=0.9"])
    with pytest.raises(BadInput, match=r"model: .*seed is not as it was when .*: NOTES.md has come since"):
        go(job)
    added.unlink()
    go(job)


def test_validate_and_doctor_know_the_copy_too(half: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ratchet("validate", half / "job.yaml") == 0
    assert f"run       {half}, which exists and would be resumed" in capsys.readouterr().out
    (tmp_path / "project/jobs/gate.jsonl").write_text('{"id": "x", "question": "new?", "answer": "1"}\n')
    assert ratchet("validate", half / "job.yaml") == 2
    assert "data.gate: gate.jsonl has other problems than when" in capsys.readouterr().err


def test_a_copy_made_while_the_driver_runs_is_not_running(half: Path, tmp_path: Path) -> None:
    seen: list[str] = []

    def copy(name: str) -> None:
        if not seen:
            while not (half / "driver.json").exists():  # its thread may be about to write it
                time.sleep(0.01)
            shutil.copytree(half, tmp_path / "copy", ignore=shutil.ignore_patterns(".*"))
            seen.extend(status(run)["state"] for run in (half, tmp_path / "copy"))

    go(resumed(half), StandIns(on_call=copy))
    assert seen == ["running", "interrupted"]


def test_the_database_that_a_job_names_follows_the_runs_that_it_stood_beside(tmp_path: Path) -> None:
    runs, there = tmp_path / "runs", tmp_path / "there"
    uri = f"sqlite:///{runs}/mlflow.db"
    job = make_project(tmp_path, run_dir=f"{runs}/set/tiny", tracking={"enabled": False, "uri": uri})
    run_job(job, StandIns(), "rounds=1")
    (runs / "mlflow.db").touch()
    shutil.copytree(runs / "set/tiny", tmp_path / "copy")
    assert resumed(tmp_path / "copy").job.tracking.uri == uri, "it is where it was"
    shutil.move(runs, there)
    assert resumed(there / "set/tiny").job.tracking.uri == f"sqlite:///{there}/mlflow.db"
    assert resumed(tmp_path / "copy").job.tracking.uri is None, "beside the runs, by default"
    named = resumed(there / "set/tiny", ["tracking.uri=http://127.0.0.1:9"])
    assert named.job.tracking.uri == "http://127.0.0.1:9"


# The command


def test_after_an_interruption_the_terminal_says_the_exact_command(half: Path, tmp_path: Path) -> None:
    """The command that is said is run as it stands, and interrupted in turn."""
    command, code = interrupted([sys.executable, "-m", "orchestrator", "resume", str(half)], tmp_path)
    assert code == 130 and command == f"ratchet resume {half}"


def interrupted(arguments: list[str], tmp_path: Path) -> tuple[str, int]:
    """Run a command whose workers send SIGTERM to their driver; what it says to be the way on, and its exit code."""
    script = tmp_path / "command.py"
    script.write_text(
        "import os, signal, sys\n"
        "import orchestrator.driver.drive as driver\n"
        "from orchestrator.cli import main\n"
        "from tests.support.stand_ins import StandIns\n"
        "workers = StandIns(on_call=lambda name: os.kill(os.getpid(), signal.SIGTERM))\n"
        "drive = driver.drive\n"
        "driver.drive = lambda file, say, received, **_: drive(file, say, received, lambda job, logs: workers)\n"
        "main(sys.argv[1:])\n"
    )
    done = subprocess.run(
        [sys.executable, str(script), *arguments[3:]],
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    line = next(line for line in done.stdout.splitlines() if line.startswith("interrupted by SIGTERM"))
    return line.partition("to go on: ")[2], done.returncode
