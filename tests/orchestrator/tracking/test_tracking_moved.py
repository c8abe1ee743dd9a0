"""Tracking of runs that were moved or copied, and of an experiment that was deleted, in a real MLflow over SQLite."""

from __future__ import annotations

import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from orchestrator.config import Tracking
from orchestrator.errors import RatchetError
from orchestrator.tracking.database import follow
from orchestrator.tracking.mlflow import reach
from orchestrator.tracking.tracked_run import Tracked, own
from orchestrator.tracking.tracker import Tracker, default_address, sync
from tests.orchestrator.test_cli import PROJECT
from tests.support.sample_run import SampleRun, two_rounds

WAIT = 120.0


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs with one run in it, which MLflow knows in full. A fresh database takes seconds."""
    runs = tmp_path_factory.mktemp("made") / "maths/runs"
    two_rounds(runs / "sample")
    sync(runs / "sample")
    return runs


@pytest.fixture
def runs(made: Path, tmp_path: Path) -> Path:
    """The same at a place of its own, as if it had been made there."""
    own = tmp_path / "runs"
    shutil.copytree(made, own)
    follow(default_address(own))
    return own


def client(runs: Path) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=default_address(runs))


def tracked(runs: Path, experiment: str | None = None) -> list[Any]:
    """MLflow's runs, parents and children, as the client tells them: of an experiment, or of the only one."""
    name = experiment or next(one.name for one in client(runs).search_experiments() if one.name != "Default")
    found = client(runs).get_experiment_by_name(name)
    return list(client(runs).search_runs([found.experiment_id], order_by=["attributes.start_time ASC"]))


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def resend_files(run: Path) -> None:
    """Have the tables and the report sent once more, as after a step that is new."""
    (run / "tracking.json").unlink()
    sync(run)


def sync_in_a_process(run: Path) -> None:
    """What the next driver does. MLflow remembers within a process where a run's files are."""
    code = "import sys, pathlib, orchestrator.tracking.tracker as t; t.sync(pathlib.Path(sys.argv[1]))"
    subprocess.run([sys.executable, "-c", code, str(run)], check=True, env={**os.environ, "PYTHONPATH": str(PROJECT)})


def local(uri: str) -> Path:
    return Path(uri.removeprefix("file://"))


@pytest.mark.full
def test_a_folder_of_runs_that_was_moved_is_tracked_where_it_is(runs: Path, tmp_path: Path) -> None:
    ids = [run.info.run_id for run in tracked(runs)]
    there = tmp_path / "there"
    shutil.move(runs, there)
    shutil.rmtree(there / "mlartifacts")  # so that what is there was written since
    sync_in_a_process(there / "sample")
    assert not runs.exists(), "nothing is written to the old place"
    found = tracked(there)
    assert [run.info.run_id for run in found] == ids
    assert all(local(run.info.artifact_uri).is_relative_to(there / "mlartifacts") for run in found)
    report = client(there).download_artifacts(found[0].info.run_id, "report.md", str(tmp_path))
    assert "75.0 [65.7, 82.5]" in Path(report).read_text()
    assert found[0].data.tags["ratchet.folder"] == str(there / "sample")
    assert found[2].data.tags["ratchet.checkpoint"] == str(there / "sample/rounds/02/checkpoint")
    versions = client(there).search_model_versions("name = 'sample'")
    assert {v.tags["ratchet.checkpoint"] for v in versions} == {
        str(there / f"sample/rounds/0{number}/checkpoint") for number in (1, 2)
    }


@pytest.mark.full
def test_a_folder_of_runs_that_was_copied_leaves_the_original_alone(runs: Path, tmp_path: Path) -> None:
    there = tmp_path / "there"
    shutil.copytree(runs, there)
    before = files_of(runs)
    shutil.rmtree(there / "mlartifacts")
    sync_in_a_process(there / "sample")
    assert files_of(runs) == before
    assert len(list((there / "mlartifacts").rglob("report.md"))) == 1
    assert len(tracked(there)) == 3, "its database is a copy, too: the runs in it are the copy's own"


def test_a_copy_beside_the_original_has_mlflow_runs_of_its_own(runs: Path) -> None:
    original = {run.info.run_id: run.to_dictionary() for run in tracked(runs)}
    shutil.copytree(runs / "sample", runs / "copy")
    for _ in range(2):
        resend_files(runs / "copy")
        found = {run.info.run_id: run.to_dictionary() for run in tracked(runs)}
        assert {id: found[id] for id in original} == original
        assert len(found) == 2 * len(original)
    resend_files(runs / "sample")
    parents = [run for run in tracked(runs) if run.data.tags["ratchet.round"] == "0"]
    assert {run.data.tags["ratchet.folder"] for run in parents} == {str(runs / "sample"), str(runs / "copy")}
    assert len(tracked(runs)) == 2 * len(original)


def test_a_run_that_was_renamed_goes_on_with_its_mlflow_runs(runs: Path) -> None:
    ids = [run.info.run_id for run in tracked(runs)]
    (runs / "sample").rename(runs / "renamed")
    sync(runs / "renamed")
    found = tracked(runs)
    assert [run.info.run_id for run in found] == ids
    assert [run.data.tags["ratchet.folder"] for run in found] == [
        str(runs / "renamed" / part) for part in (".", "rounds/01", "rounds/02")
    ]
    assert found[1].data.tags["ratchet.checkpoint"] == str(runs / "renamed/rounds/01/checkpoint")


def test_a_copy_that_was_moved_keeps_to_its_own(runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs / "sample", runs / "copy")
    sync(runs / "copy")
    (runs / "copy").rename(runs / "other")
    shutil.move(runs / "sample", tmp_path / "away")  # so that neither is where it was
    sync(runs / "other")
    folders = [run.data.tags["ratchet.folder"] for run in tracked(runs) if run.data.tags["ratchet.round"] == "0"]
    assert sorted(folders) == sorted([str(runs / "sample"), str(runs / "other")])


def test_a_store_that_is_in_its_place_or_somebody_elses_is_left_alone(runs: Path, tmp_path: Path) -> None:
    uri, database = default_address(runs), runs / "mlflow.db"
    (tmp_path / "link").symlink_to(runs)
    assert not follow(uri) and not follow(default_address(tmp_path / "link"))
    assert not follow("http://127.0.0.1:1") and not follow("sqlite://") and not follow(default_address(tmp_path))
    assert not (tmp_path / "mlflow.db").exists()
    (tmp_path / "mlflow.db").write_bytes(b"")
    assert not follow(default_address(tmp_path))
    with sqlite3.connect(database) as connection:
        connection.execute("UPDATE experiments SET artifact_location = 's3://bucket/mlartifacts' WHERE name = 'maths'")
    assert not follow(uri)


def located(runs: Path, location: str) -> None:
    with sqlite3.connect(runs / "mlflow.db") as connection:
        connection.execute("UPDATE experiments SET artifact_location = ?", (location,))


def test_an_experiment_that_is_kept_elsewhere_on_purpose_stays_there(runs: Path, tmp_path: Path) -> None:
    """Its folder may be named as ours are, and may have a database of its own beside it."""
    other = tmp_path / "elsewhere"
    (other / "mlartifacts/x").mkdir(parents=True)
    located(runs, (other / "mlartifacts").as_uri())
    (runs / "mlflow.db.before").unlink(missing_ok=True)  # of having brought it here
    before = (runs / "mlflow.db").read_bytes()
    assert not follow(default_address(runs))
    with sqlite3.connect(other / "mlflow.db") as connection:
        connection.execute("CREATE TABLE experiments (experiment_id, creation_time, artifact_location)")
        connection.execute("INSERT INTO experiments VALUES (1, 7, ?)", ((other / "mlartifacts").as_uri(),))
    assert not follow(default_address(runs))
    assert (runs / "mlflow.db").read_bytes() == before and not (runs / "mlflow.db.before").exists()
    (other / "mlartifacts").rename(other / "gone")
    assert follow(default_address(runs)) and not follow(default_address(runs))
    assert (runs / "mlflow.db.before").exists(), "as it was before it was changed"
    with sqlite3.connect(runs / "mlflow.db.before") as connection:
        assert (other / "mlartifacts").as_uri() in connection.execute(
            "SELECT artifact_location FROM experiments"
        ).fetchone()


ME, FAR = socket.gethostname(), "another-machine"


@pytest.mark.parametrize(
    ("parents", "known", "expected"),
    [
        ([], None, None),
        ([("a", "here", ME)], None, "a"),
        ([("a", "here", FAR)], None, "a"),  # the same folder from another node of a cluster
        ([("a", "gone", ME)], None, "a"),
        ([("a", "gone", None)], None, "a"),  # of an earlier version
        ([("a", "gone", FAR)], None, None),  # perhaps a copy: the other machine may have it still
        ([("a", "original", ME)], "a", None),
        ([("a", "gone", ME), ("b", "gone too", ME)], "b", "b"),
        ([("a", "gone", ME), ("b", "here", ME)], "a", "b"),
        ([("a", "here", ME), ("b", "here", ME)], None, "a"),  # twins: all use the first
        ([("a", "another run", ME)], None, "a"),  # where the run was, there is another one now
    ],
)
def test_whose_mlflow_runs_they_are(
    tmp_path: Path, parents: list[tuple[str, str, str | None]], known: str | None, expected: str | None
) -> None:
    SampleRun(tmp_path / "here").claim()
    shutil.copytree(tmp_path / "here", tmp_path / "original")
    SampleRun(tmp_path / "another run").claim()
    found = [Tracked(id, str(tmp_path / folder), host) for id, folder, host in parents]
    assert own(found, tmp_path / "here", ME, known) == expected


# An experiment that was deleted


def test_a_deleted_experiment_is_told_with_the_ways_out(runs: Path) -> None:
    experiment = client(runs).get_experiment_by_name("maths").experiment_id
    client(runs).delete_experiment(experiment)
    with pytest.raises(RatchetError) as told:
        sync(runs / "sample")
    assert "the experiment 'maths' was deleted there" in str(told.value)
    assert f"mlflow experiments restore --experiment-id {experiment}`" in str(told.value)
    assert f"MLFLOW_TRACKING_URI={default_address(runs)}" in str(told.value)
    assert "tracking.experiment=NAME" in str(told.value)
    with pytest.raises(RatchetError, match="was deleted there"):
        reach(default_address(runs), "maths")  # as `ratchet doctor` asks
    assert reach(default_address(runs), "another") == reach(default_address(runs))
    sync(runs / "sample", Tracking(experiment="another"))
    assert len(tracked(runs, "another")) == 3
    client(runs).restore_experiment(experiment)
    sync(runs / "sample")
    assert len(tracked(runs)) == 3


def test_an_experiment_that_is_deleted_while_a_driver_runs_is_told_too(runs: Path) -> None:
    run = SampleRun(runs / "second", name="second")
    run.claim()
    run.configure()
    said: list[str] = []
    tracker = Tracker(run.root, Tracking(experiment="second"), default_address(runs), said.append)
    tracker.start()
    while not (run.root / "tracking.json").exists():
        assert tracker.problem is None
    client(runs).delete_experiment(client(runs).get_experiment_by_name("second").experiment_id)
    run.baseline()
    tracker.poke()
    deadline = time.monotonic() + WAIT
    while not said and time.monotonic() < deadline:  # not only when it is closed
        time.sleep(0.05)
    assert len(said) == 1 and "the experiment 'second' was deleted there. Bring it back (`" in said[0]
    tracker.poke()
    tracker.close(WAIT)
    assert len(said) == 1 and "was deleted there" in (tracker.problem or "")
    client(runs).restore_experiment(client(runs).get_experiment_by_name("second").experiment_id)
    sync(run.root)
    [parent] = [found for found in tracked(runs, "second") if found.data.tags["ratchet.round"] == "0"]
    assert parent.data.metrics, "nothing that was refused meanwhile is passed over"
