"""The further stores themselves, of runs that stand-ins drive and that are sent anew, read back. A store whose extra is
not installed is skipped: `pip install 'ratchet-orchestrator[tensorboard,wandb,trackio]'`."""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from orchestrator.commands.track import track
from orchestrator.config.places import own_code, own_code_environment
from orchestrator.errors import BadInput, Damaged
from orchestrator.tracking.feed import cursor_file
from orchestrator.tracking.stores import Place
from orchestrator.tracking.wandb import open_place
from tests.support.sample_run import NUM_STEPS, two_rounds
from tests.support.stand_ins import StandIns, make_project, run_job

KEY = "0123456789abcdef" * 2 + "01234567"
"""Has the form of W&B's keys."""


def driven(folder: Path, *names: str, rounds: int = 1) -> Path:
    """A run that stand-ins drive to its end."""
    job = make_project(folder, run_dir=str(folder / "run"), rounds=rounds, tracking={"enabled": False})
    run_job(job, StandIns(), f"tracking.sinks=[{','.join(names)}]")
    return folder / "run"


def require_no_key(folder: Path) -> None:
    for file in folder.rglob("*"):
        assert not file.is_file() or KEY.encode() not in file.read_bytes(), file


# TensorBoard


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Step and value of each point by its tag, as TensorBoard reads a folder."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    read = EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 0})
    read.Reload()
    return {tag: [(e.step, e.value) for e in read.Scalars(tag)] for tag in read.Tags()["scalars"]}


def test_tensorboard_shows_a_driven_run(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    run = driven(tmp_path, "tensorboard", rounds=2)
    job = scalars(run / "tensorboard")
    assert [step for step, _ in job["accuracy/test"]] == [0, 1, 2]
    assert [step for step, _ in job["learning/loss"]] == list(range(1, len(job["learning/loss"]) + 1))
    later = scalars(run / "tensorboard/round-02")
    assert later["learning/loss"][0][0] == 1
    before = job
    job_file = tmp_path / "tiny.yaml"
    run_job(job_file, StandIns(), "tracking.sinks=[tensorboard]")  # it is finished, and a driver looks again
    after = scalars(run / "tensorboard")
    assert {tag: len(points) for tag, points in after.items()} == {tag: len(points) for tag, points in before.items()}


def test_tensorboard_is_made_anew(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    run = two_rounds(tmp_path / "sample").root
    assert any("TensorBoard" in line for line in track(run, "tensorboard", None))
    first = scalars(run / "tensorboard")
    assert [step for step, _ in first["learning/loss"]] == list(range(1, 2 * NUM_STEPS + 1))
    assert first["accuracy/test"] == [(0, pytest.approx(0.4)), (1, pytest.approx(0.6)), (2, pytest.approx(0.75))]
    list(track(run, "tensorboard", None))
    assert scalars(run / "tensorboard") == first
    shutil.rmtree(run / "tensorboard")
    (run / "tensorboard").symlink_to(tmp_path)
    with pytest.raises(Exception, match="leads out of the run"):
        list(track(run, "tensorboard", None))


def test_a_torn_end_of_an_event_file_is_made_whole(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    run = two_rounds(tmp_path / "sample").root
    list(track(run, "tensorboard", None))
    whole = scalars(run / "tensorboard")
    [file] = (run / "tensorboard").glob("events*")
    with open(file, "r+b") as opened:
        opened.truncate(file.stat().st_size - 7)
    cursor = cursor_file(run, "tensorboard")
    cursor.write_text(json.dumps(json.loads(cursor.read_text()) | {"sending": True}))
    list(track(run, "tensorboard", None))
    assert scalars(run / "tensorboard") == whole


# Weights & Biases


def records(file: Path) -> Iterator[Any]:
    """The records of an offline file: LevelDB's log of W&B's protocol buffers."""
    from wandb.proto.wandb_internal_pb2 import Record

    content, block = file.read_bytes(), 1 << 15
    assert content[:4] == b":W&B"
    at, whole = 7, b""
    while at + 7 <= len(content):
        if block - at % block < 7:
            at += block - at % block
            continue
        _, size, kind = struct.unpack("<IHB", content[at : at + 7])
        whole += content[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):
            found = Record()
            found.ParseFromString(whole)
            yield found
            whole = b""


def history(run: Path) -> list[dict[str, float]]:
    """The rows of all offline files of a run."""
    rows = []
    for file in sorted(run.glob("wandb/offline-run-*/run-*.wandb")):
        for record in records(file):
            if record.WhichOneof("record_type") == "history":
                items = record.history.item
                rows.append({i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in items})
    return rows


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    for name, value in (("WANDB_MODE", "offline"), ("WANDB_API_KEY", KEY), ("HOME", str(tmp_path / "home"))):
        monkeypatch.setenv(name, value)


def column(rows: Sequence[dict[str, float]], key: str, axis: str) -> list[int]:
    return [int(row[axis]) for row in rows if key in row]


def test_weights_and_biases_writes_through_no_link(tmp_path: Path) -> None:
    """Whether or not its package is installed."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run/wandb").symlink_to(tmp_path, target_is_directory=True)
    with pytest.raises(Damaged, match="wandb"):
        open_place(Place(tmp_path / "run", "tiny", "project", "1", True, {}))


@pytest.mark.usefixtures("offline")
def test_weights_and_biases_gets_a_driven_run_and_no_key_is_written(tmp_path: Path) -> None:
    run = driven(tmp_path, "wandb")
    rows = history(run)
    assert column(rows, "accuracy/test", "round") == [0, 1]
    updates = column(rows, "learning/loss", "update")
    assert updates and updates == list(range(1, len(updates) + 1))
    require_no_key(run)
    require_no_key(tmp_path)


@pytest.mark.usefixtures("offline")
def test_weights_and_biases_gets_a_run_anew_with_its_times(tmp_path: Path) -> None:
    run = two_rounds(tmp_path / "sample")
    assert any("Weights & Biases" in line for line in track(run.root, "wandb", None))
    rows = history(run.root)
    assert column(rows, "accuracy/test", "round") == [0, 1, 2]
    assert column(rows, "learning/loss", "update") == list(range(1, 2 * NUM_STEPS + 1))
    begin, end = run.ledger.records[0].time, run.ledger.records[-1].time
    # Updates of a record that took no time are spread over the seconds that it says it took.
    assert all(begin - 10 < row["_timestamp"] <= end + 1 for row in rows)
    first = json.loads(cursor_file(run.root, "wandb").read_text())["store_id"]
    list(track(run.root, "wandb", None))
    assert json.loads(cursor_file(run.root, "wandb").read_text())["store_id"] != first
    assert len(history(run.root)) == 2 * len(rows)  # in two runs


# trackio


@pytest.fixture
def local(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("trackio", exc_type=ImportError)
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))


def logged(folder: Path, key: str) -> dict[str, list[int]]:
    """The steps of a metric by run, of all projects in a store."""
    import sqlite3

    found: dict[str, list[int]] = {}
    for file in folder.rglob("*.db"):
        with sqlite3.connect(file) as store:
            for run, step, said in store.execute("SELECT run_name, step, metrics FROM metrics ORDER BY step"):
                if key in json.loads(said):
                    found.setdefault(run, []).append(step)
    return found


@pytest.mark.usefixtures("local")
def test_trackio_gets_a_driven_run(tmp_path: Path) -> None:
    driven(tmp_path, "trackio")
    [steps] = logged(tmp_path / "trackio", "accuracy/test").values()
    assert steps == [0, 1]
    [updates] = logged(tmp_path / "trackio", "learning/loss").values()
    assert updates == list(range(1, len(updates) + 1))


@pytest.mark.usefixtures("local")
def test_trackio_gets_a_run_anew(tmp_path: Path) -> None:
    run = two_rounds(tmp_path / "sample").root
    command = [*own_code("orchestrator"), "track", str(run), "--to", "trackio"]  # the store's place is read once
    for runs in (1, 2):
        done = subprocess.run(command, env=own_code_environment(), capture_output=True, text=True, check=True)
        assert "trackio show" in done.stdout and len(done.stdout.splitlines()) == 2
        found = logged(tmp_path / "trackio", "learning/loss")
        assert len(found) == runs and all(steps == list(range(1, 2 * NUM_STEPS + 1)) for steps in found.values())


# `ratchet track`


def test_a_stranger_s_run_sends_nothing_of_its_own_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RATCHET_STATE_HOME", str(tmp_path / "state"))  # others of these tests approve of it
    run = two_rounds(tmp_path / "sample", tracking={"enabled": False, "sinks": ["wandb"]}).root
    with pytest.raises(BadInput, match=r"is the run's word, and nobody has approved it here.*--to wandb"):
        list(track(run, None, None))
    assert not cursor_file(run, "wandb").exists()
