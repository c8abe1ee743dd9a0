"""MLflow's database, real and over SQLite: made whole or not at all, torn ones told apart, and paths with any
character."""

from __future__ import annotations

import functools
import os
import shlex
import shutil
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from orchestrator.config import Tracking
from orchestrator.errors import RatchetError
from orchestrator.files import unfinished
from orchestrator.reports.status import status
from orchestrator.tracking.database import cure, make, sqlite_address, sqlite_file
from orchestrator.tracking.mlflow import reach
from orchestrator.tracking.tracker import default_address, open_command, sync
from tests.orchestrator.test_cli import PROJECT
from tests.orchestrator.tracking.test_tracking_moved import client, sync_in_a_process, tracked
from tests.support.sample_run import two_rounds
from tests.support.stand_ins import StandIns, make_project, run_job

PATIENCE = 300.0

CHILD = """
import os, pathlib, signal, sys
kind, _, at = sys.argv[1].partition(":")
def die(): os.kill(os.getpid(), signal.SIGKILL)
if kind == "sql":
    import sqlalchemy
    left = int(at)
    @sqlalchemy.event.listens_for(sqlalchemy.Engine, "before_cursor_execute")
    def count(*_):
        global left
        left -= 1
        if left == 0: die()
runs = pathlib.Path(sys.argv[2])
from orchestrator.tracking.mlflow import reach
from orchestrator.tracking.tracker import default_address, sync
def hook(event, arguments):
    if event == kind and any(isinstance(a, (str, bytes)) and os.fsdecode(a).endswith(at) for a in arguments): die()
sys.addaudithook(hook)
if sys.argv[3] == "earlier":
    reach(default_address(runs))
else:
    sync(runs / sys.argv[3])
"""


def child(moment: str, runs: Path, run: str = "sample") -> subprocess.Popen[bytes]:
    """A process that tracks a run (`earlier`: makes the database as earlier versions did), and is killed then."""
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    command = [sys.executable, "-c", CHILD, moment, str(runs), run]
    return subprocess.Popen(command, env=environment)


MOMENTS = ("sql:60", "os.remove:new.db")
FULL = "os.link:whole.db"
"""For whoever reads it the same as the first of them."""
TORN = ("sql:250",)
"""Moments at which an earlier version was killed, which had MLflow make the database in its place."""


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Gives a folder of runs by the moment at which the process that made its database was killed."""

    @functools.cache
    def folder(name: str) -> Path:
        earlier, moment = name.startswith("earlier "), name.removeprefix("earlier ")
        runs = tmp_path_factory.mktemp("killed")
        two_rounds(runs / "sample")
        assert child(moment, runs, "earlier" if earlier else "sample").wait(PATIENCE) == -9
        return runs

    return folder


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs that MLflow knows."""
    runs = tmp_path_factory.mktemp("whole")
    for name in ("sample", "other"):
        sync(two_rounds(runs / name).root)
    return runs


def hidden(runs: Path) -> list[str]:
    return [name for name in os.listdir(runs) if name.startswith(".")]


def require_all_sent(runs: Path) -> None:
    sync(runs / "sample")
    assert [run.info.status for run in tracked(runs)] == ["FINISHED"] * 3
    assert hidden(runs) == []


@pytest.mark.full
@pytest.mark.parametrize("moment", [*MOMENTS, FULL])
def test_an_interrupted_first_start_leaves_no_torn_database(killed: Callable[[str], Path], moment: str) -> None:
    runs = killed(moment)
    assert len(hidden(runs)) == 1, "it was in the middle"
    if moment == "os.remove:new.db":
        assert reach(default_address(runs)) == 1, "what has the name is whole"
    else:
        assert not (runs / "mlflow.db").exists()
    require_all_sent(runs)


@pytest.mark.full
def test_two_processes_that_make_it_at_once_leave_one(tmp_path: Path) -> None:
    for name in ("sample", "other"):
        two_rounds(tmp_path / name)
    both = [child("", tmp_path), child("", tmp_path, "other")]
    assert [process.wait(PATIENCE) for process in both] == [0, 0]
    assert hidden(tmp_path) == []
    found = tracked(tmp_path)
    assert len({run.data.tags["ratchet.run_id"] for run in found}) == 2
    assert {run.info.status for run in found} == {"FINISHED"}


def test_a_row_that_another_run_writes_at_that_moment_is_no_refusal(whole: Path, tmp_path: Path) -> None:
    import sqlalchemy

    file, run = tmp_path / "mlflow.db", two_rounds(tmp_path / "sample")
    shutil.copy(whole / "mlflow.db", file)
    with closing(sqlite3.connect(file)) as connection, connection:
        aliases = connection.execute("SELECT * FROM registered_model_aliases").fetchall()
        [theirs] = [alias for alias in aliases if alias[0] == "reference"]
        connection.execute("DELETE FROM registered_model_aliases")
    written: list[str] = []

    @sqlalchemy.event.listens_for(sqlalchemy.Engine, "before_cursor_execute")
    def other(_connection: Any, _cursor: Any, statement: str, values: Any, *_: Any) -> None:
        if statement.startswith("INSERT INTO registered_model_aliases") and "reference" in str(values) and not written:
            written.append(statement)
            with closing(sqlite3.connect(file)) as second, second:
                second.execute(f"INSERT INTO registered_model_aliases VALUES ({', '.join('?' * len(theirs))})", theirs)

    try:
        sync(run.root)
    finally:
        sqlalchemy.event.remove(sqlalchemy.Engine, "before_cursor_execute", other)
    assert len(written) == 1
    versions = client(tmp_path).search_model_versions("name = 'sample'")
    newest = max(versions, key=lambda version: int(version.version))
    assert client(tmp_path).get_model_version_by_alias("sample", "reference").version == newest.version


def test_threads_of_a_process_make_it_one_after_another(tmp_path: Path) -> None:
    inside: list[int] = []

    def touch(address: str) -> None:
        inside.append(1)
        file = sqlite_file(address)
        assert file is not None and not file.exists()
        with closing(sqlite3.connect(file)) as connection:
            connection.execute("CREATE TABLE runs (x)")

    threads = [threading.Thread(target=make, args=(default_address(tmp_path), touch)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert inside == [1] and os.listdir(tmp_path) == ["mlflow.db"]


def test_what_goes_wrong_in_the_making_leaves_nothing(tmp_path: Path) -> None:
    def touch(address: str) -> None:
        Path(str(sqlite_file(address))).write_bytes(b"half")
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        make(default_address(tmp_path), touch)
    assert os.listdir(tmp_path) == []


def test_a_living_process_keeps_what_it_is_making(tmp_path: Path) -> None:
    living = unfinished.hidden(tmp_path, "mlflow").name.replace(f"-{os.getpid()}-", "-1-")
    other = tmp_path / f"{living.rpartition('-')[0]}-{unfinished._start(1)}"
    other.mkdir()
    make(default_address(tmp_path), lambda address: sqlite3.connect(str(sqlite_file(address))).close())
    assert hidden(tmp_path) == [other.name]


# Databases that are there already


def without_alembic(file: Path) -> None:
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.execute("PRAGMA foreign_keys = OFF")
        connection.execute("DELETE FROM alembic_version")
        for table in ("runs", "latest_metrics", "metrics", "params", "tags"):
            connection.execute(f"DELETE FROM {table}")


def no_database(file: Path) -> None:
    file.write_text("Dear diary,\n" * 100)


@pytest.mark.parametrize("damage", [*TORN, without_alembic, no_database])
def test_a_torn_database_is_told_and_a_run_goes_on(
    killed: Callable[[str], Path], whole: Path, tmp_path: Path, damage: str | Callable[[Path], None]
) -> None:
    file = tmp_path / "mlflow.db"
    source = whole if callable(damage) else killed(f"earlier {damage}")
    shutil.copy(source / "mlflow.db", file)
    if callable(damage):
        damage(file)
    before = file.read_bytes()
    job = make_project(tmp_path, tracking={"enabled": True})
    said = run_job(job, StandIns(), "rounds=1")
    assert status(tmp_path / "run")["state"] == "finished"
    with pytest.raises(RatchetError) as told:
        sync(tmp_path / "run")
    assert f"{file} holds no run and is not whole, or no database: move it away" in str(told.value)
    assert "ratchet resume RUN" in str(told.value) and any(str(file) in line for line in said)
    if damage is no_database:
        assert file.read_bytes() == before


@pytest.mark.full
def test_once_a_torn_database_is_moved_away_a_new_one_gets_everything(tmp_path: Path) -> None:
    file = tmp_path / "mlflow.db"
    no_database(file)
    run_job(make_project(tmp_path, tracking={"enabled": True}), StandIns(), "rounds=1")
    file.rename(tmp_path / "away.db")
    sync_in_a_process(tmp_path / "run")  # MLflow keeps a database open
    with closing(sqlite3.connect(file)) as connection:
        assert connection.execute("SELECT status FROM runs").fetchall() == [("FINISHED",)] * 2


def test_a_database_with_runs_or_that_is_locked_is_not_called_torn(whole: Path, tmp_path: Path) -> None:
    file, run = tmp_path / "mlflow.db", two_rounds(tmp_path / "sample")
    shutil.copy(whole / "mlflow.db", file)
    with closing(sqlite3.connect(file, isolation_level=None)) as connection:
        connection.execute("UPDATE alembic_version SET version_num = 'of_another_version'")
        with pytest.raises(RatchetError) as told:
            sync(run.root)
        assert "move it away" not in str(told.value) and "MLflow at sqlite" in str(told.value)
        connection.execute("DELETE FROM runs")
        connection.execute("BEGIN EXCLUSIVE")
        assert cure(default_address(tmp_path)) is None


def test_a_server_and_a_database_in_memory_need_no_making(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for uri in ("http://host", "postgresql://host/x", "sqlite://", "sqlite:///:memory:", "sqlite:///file:x?uri=true"):
        make(uri, lambda address: pytest.fail(address))
        assert cure(uri) is None and sqlite_file(uri) is None
    assert os.listdir(tmp_path) == []


# Paths


ODD = ("what? 100%41 #1 é", "a%b%3Fc&d=e;f?g=h", "%", "100%25")


@pytest.mark.parametrize("name", [*ODD, "plain", "+ ~'\"$x"])
def test_an_address_says_its_path(tmp_path: Path, name: str) -> None:
    from sqlalchemy.engine import make_url

    file = tmp_path / name / "mlflow.db"
    assert sqlite_file(sqlite_address(file)) == file == Path(str(make_url(sqlite_address(file)).database))
    assert sqlite_file(f"{sqlite_address(file)}?timeout=3") == file
    assert shlex.split(open_command(sqlite_address(file)))[-1] == sqlite_address(file)


def downloaded(runs: Path, folder: Path) -> str:
    parent = next(run for run in tracked(runs) if run.data.tags["ratchet.round"] == "0")
    folder.mkdir()
    return Path(client(runs).download_artifacts(parent.info.run_id, "report.md", str(folder))).read_text()


@pytest.mark.full
@pytest.mark.parametrize("name", ODD[:2])
def test_a_run_in_a_folder_of_any_name_is_tracked_there(whole: Path, tmp_path: Path, name: str) -> None:
    top = tmp_path / "top"
    runs = top / name
    said = run_job(make_project(runs, tracking={"enabled": True}), StandIns(), "rounds=1")
    assert not [line for line in said if "tracking" in line]
    sync(runs / "run")
    made = {"seed", "train.jsonl", "gate.jsonl", "test.jsonl", "tiny.yaml", "run", "mlflow.db", "mlartifacts"}
    assert os.listdir(top) == [name] and set(os.listdir(runs)) == made
    from mlflow import MlflowClient

    uri = shlex.split(open_command(default_address(runs)))[-1]
    assert MlflowClient(tracking_uri=uri).search_experiments(filter_string="name != 'Default'")
    assert "round" in downloaded(runs, tmp_path / "one")
    there = top / f"{name} and?%20on"
    runs.rename(there)
    sync_in_a_process(there / "run")
    assert os.listdir(top) == [there.name]
    assert "round" in downloaded(there, tmp_path / "two")
    assert (there / "mlflow.db.before").exists(), "its addresses were changed"


def test_a_cursor_of_an_earlier_version_goes_on(whole: Path, tmp_path: Path) -> None:
    """Its address was the path as it is."""
    runs = tmp_path / "100%25 runs"
    run = two_rounds(runs / "sample")
    sync(run.root)
    cursor = run.root / "tracking.json"
    told = cursor.read_text()
    assert "sqlite+pysqlite:///" in told and "100%2525 runs" in told
    cursor.write_text(told.replace("100%2525", "100%25").replace("+pysqlite", ""))
    sync(run.root)
    assert len(tracked(runs)) == 3 and cursor.read_text() == told
    plain: dict[str, Any] = {"uri": f"sqlite:///{whole}/mlflow.db"}
    assert sync(whole / "sample", Tracking(**plain)) > 0 and len(tracked(whole)) == 6


OLDER = """
import sys
import alembic.command, sqlalchemy
from alembic.script import ScriptDirectory
from mlflow.store.db import utils
from mlflow.store.tracking.dbmodels.initial_models import Base
engine = sqlalchemy.create_engine(sys.argv[1])
Base.metadata.create_all(engine)
config = utils._get_alembic_config(sys.argv[1])
older = [revision.revision for revision in ScriptDirectory.from_config(config).walk_revisions()][5]
with engine.begin() as connection:
    config.attributes["connection"] = connection
    alembic.command.upgrade(config, older)
"""


@pytest.mark.full
def test_a_database_of_an_older_mlflow_is_brought_to_the_schema_of_now(tmp_path: Path) -> None:
    """As docs/upgrading.md says."""
    uri = sqlite_address(tmp_path / "mlflow.db")
    subprocess.run([sys.executable, "-c", OLDER, uri], check=True, capture_output=True)

    def version() -> str:
        with closing(sqlite3.connect(tmp_path / "mlflow.db")) as connection:
            [[found]] = connection.execute("SELECT version_num FROM alembic_version").fetchall()
        return str(found)

    before = version()
    job = make_project(tmp_path / "project", rounds=1, tracking={"enabled": True, "uri": uri})
    said = run_job(job, StandIns())
    assert not [line for line in said if line.startswith("tracking")] and version() != before
    assert len(tracked(tmp_path)) == 2
