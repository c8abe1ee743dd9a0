"""What `ratchet ui` finds to show and says, without a server; with one: tests/browser."""

from __future__ import annotations

import shutil
import socket
import sqlite3
from pathlib import Path

import pytest

from orchestrator.commands import track, ui
from orchestrator.errors import BadInput
from orchestrator.reports import links
from orchestrator.reports import tracked as cursor
from orchestrator.reports.tracked import Cursor
from orchestrator.tracking.tracker import default_address
from tests.support.sample_run import SampleRun


def tracked(root: Path, uri: str | None = None, **tracking: object) -> SampleRun:
    """A run that says that it is in MLflow."""
    run = SampleRun(root, name=root.name, tracking={"uri": uri, **tracking})
    run.claim()
    run.configure()
    run.end("interrupted", "SIGINT")
    address = uri or default_address(root.parent)
    found = Cursor(address, "maths", run.run_id, f"id-of-{root.name}", folder=str(root), experiment_id="7")
    found.write(root)
    return run


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """A project's folder of runs, with two runs and MLflow's database."""
    folder = tmp_path / "maths/runs"
    for name in ("older", "newer"):
        tracked(folder / name)
    with sqlite3.connect(folder / "mlflow.db") as database:
        database.execute("CREATE TABLE runs (run_uuid, experiment_id, name, lifecycle_stage)")
        for name, stage in (("older", "active"), ("newer", "active"), ("gone", "deleted")):
            database.execute("INSERT INTO runs VALUES (?, 7, ?, ?)", (f"id-of-{name}", name, stage))
    return folder


def pages(run: Path | None) -> list[str]:
    found = ui.find(run)
    return list(ui.lines(found, "http://127.0.0.1:5000"))


def test_the_run_that_was_named_comes_first_and_then_the_others(runs: Path) -> None:
    curves = "http://127.0.0.1:5000/#/experiments/7/runs/id-of-{}/model-metrics?workflowType=machine_learning"
    all_runs = "compare   http://127.0.0.1:5000/#/experiments/7/runs?workflowType=machine_learning"
    assert pages(runs / "older") == [
        f"dashboard {curves.format('older')}", f"newer     {curves.format('newer')}", all_runs
    ]  # fmt: skip
    assert pages(runs / "newer")[0] == f"dashboard {curves.format('newer')}"


def test_a_copy_is_told_as_one(runs: Path) -> None:
    shutil.copytree(runs / "older", runs / "a longer name")
    said = pages(runs / "older")
    assert "a longer name as older: one is a copy of the other, and has had no driver of its own" in said
    assert said[0].startswith("dashboard     http") and said[-1].startswith("compare       http")
    assert sum("id-of-older" in told for told in said) == 1


def test_without_a_name_it_is_the_projects_newest(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RATCHET_HOME", str(runs.parent))
    assert pages(None)[0].startswith("dashboard") and len(pages(None)) == 3
    assert sorted(pages(None)) == sorted(pages(runs))


def test_what_cannot_be_shown_is_said_with_the_cure(runs: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no such run"):
        ui.find(runs / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInput, match="not a run"):
        ui.find(tmp_path / "empty")
    (runs / "older/tracking.json").unlink()
    with pytest.raises(BadInput, match=r"is not in MLflow. `ratchet track .*/older` sends it there"):
        ui.find(runs / "older")
    tracked(runs / "gone")
    with pytest.raises(BadInput, match="is not in MLflow"):  # it was deleted there
        ui.find(runs / "gone")
    shutil.rmtree(runs / "newer")
    with pytest.raises(BadInput, match="holds no run that is in MLflow"):
        ui.find(runs)
    (runs / "mlflow.db").write_text("no database")
    with pytest.raises(BadInput, match="is not in MLflow"):
        ui.find(runs / "gone")


def test_of_a_server_its_page_is_said_and_no_other_database_is_served(tmp_path: Path) -> None:
    server = tracked(tmp_path / "a", "http://mlflow.example:5000").root
    said: list[str] = []
    ui.serve(ui.find(server), said.append)
    assert said[0] == (
        "dashboard http://mlflow.example:5000/#/experiments/7/runs/id-of-a/model-metrics?workflowType=machine_learning"
    )
    foreign = tracked(tmp_path / "b", f"sqlite:///{tmp_path}/else/where.db").root
    with pytest.raises(BadInput, match=r"is tracked elsewhere. Look there: `MLFLOW_SERVER.* mlflow ui"):
        ui.find(foreign)


def test_a_port_that_is_taken_is_said(runs: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(BadInput, match=f"--port {port}: "):
            ui.serve(ui.find(runs), print, port)


@pytest.mark.parametrize(
    ("run", "name"),
    [
        ("/home/me/maths/runs/irpo", "maths"),
        ("/data/maths/irpo", "maths"),
        ("/runs/irpo", "runs"),
        ("/irpo", "ratchet"),
    ],
)
def test_a_project_is_called_as_its_folder(run: str, name: str) -> None:
    assert links.project(Path(run)) == name


def test_names_in_addresses_lead_nowhere_else() -> None:
    page = links.run_page("http://h/", "1/../2?a#b", "r/x")
    assert page == "http://h/#/experiments/1%2F..%2F2%3Fa%23b/runs/r%2Fx/model-metrics?workflowType=machine_learning"


@pytest.mark.parametrize("said", ["{}", "[]", "x", '{"uri": 1}', '{"uri": "a", "journal": -1}'])
def test_a_cursor_that_is_none_is_passed_over(tmp_path: Path, said: str) -> None:
    (tmp_path / "tracking.json").write_text(said)
    assert cursor.read(tmp_path, 10) is None


def test_an_address_that_is_the_runs_word_alone_is_not_sent_to(tmp_path: Path) -> None:
    run = tracked(tmp_path / "a", "http://mlflow.example:5000").root
    with pytest.raises(BadInput, match="is the run's word, and nobody has approved it"):
        list(track.track(run, None, None))
    with pytest.raises(BadInput, match="holds a name or password"):
        list(track.track(run, "http://me:word@mlflow.example", None))


def test_a_run_that_is_tracked_anew_is_in_another_store_in_full(tmp_path: Path) -> None:
    run = SampleRun(tmp_path / "maths/sample", tracking={"enabled": False})
    run.claim()
    run.configure()
    run.baseline()
    run.end("failed", "lost")
    said = list(track.track(run.root, None, None))
    assert said[0].startswith("tracked   5 records")
    assert said[1] == f"dashboard ratchet ui {run.root}"
    assert pages(run.root)[0].startswith("dashboard http://127.0.0.1:5000/#/experiments/1/runs/")
