"""Tracking against a real MLflow over SQLite: what it shows, that replays add nothing, a dead server."""

from __future__ import annotations

import json
import os
import socket
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from orchestrator.config import Tracking
from orchestrator.errors import RatchetError
from orchestrator.ledger.ledger import CLEANING
from orchestrator.records.rows import PROMPTS
from orchestrator.tracking import projection
from orchestrator.tracking.tracker import Tracker, default_address, open_command, sync
from tests.support.sample_run import NUM_STEPS, SampleRun, two_rounds
from tests.support.strangers_text import EVIL, require_dead, require_text

WAIT = 120.0


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """One MLflow for all tests, since a fresh database takes seconds; runs differ by their ids."""
    yield Store(tmp_path_factory.mktemp("mlflow"))


class Store:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.uri = f"sqlite:///{folder / 'mlflow.db'}"

    @property
    def client(self) -> Any:
        from mlflow import MlflowClient

        return MlflowClient(tracking_uri=self.uri)

    def runs(self, run: SampleRun) -> dict[int, Any]:
        """MLflow's runs by round; fails when there are twins."""
        tag = f"tags.`ratchet.run_id` = '{run.run_id}'"
        found = self.client.search_runs([e.experiment_id for e in self.client.search_experiments()], tag)
        by_round = {int(r.data.tags["ratchet.round"]): r for r in found}
        assert len(by_round) == len(found)
        return by_round

    def num_rows(self) -> dict[str, int]:
        tables = ("runs", "metrics", "latest_metrics", "params", "tags", "inputs", "datasets")
        tables += ("logged_models", "model_versions")
        with sqlite3.connect(self.folder / "mlflow.db") as database:
            return {t: database.execute(f"SELECT COUNT(*) FROM {t}").fetchone()[0] for t in tables}

    def history(self, run: Any, key: str) -> list[tuple[int, float]]:
        return sorted((m.step, m.value) for m in self.client.get_metric_history(run.info.run_id, key))

    def sync(self, run: SampleRun) -> None:
        assert sync(run.root, Tracking(uri=self.uri)) == len(run.ledger.records)


def test_a_whole_run(store: Store, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run = two_rounds(tmp_path / "sample")
    tracker = Tracker(run.root, Tracking(uri=store.uri), "sqlite:///unused.db")
    tracker.start()
    tracker.poke()
    assert tracker.close(WAIT) and tracker.problem is None and tracker.uri == store.uri
    assert "".join(capfd.readouterr()) == ""

    runs = store.runs(run)
    assert {n: r.info.status for n, r in runs.items()} == dict.fromkeys((0, 1, 2), "FINISHED")
    assert {n: r.info.run_name for n, r in runs.items()} == {0: "sample", 1: "sample round 1", 2: "sample round 2"}
    assert {r.data.tags.get("mlflow.parentRunId") for n, r in runs.items() if n} == {runs[0].info.run_id}
    params = runs[0].data.params
    assert params["loss.beta"] == "0.1" and params["data.train.path"] == "train.jsonl"
    assert store.history(runs[0], "accuracy/test") == [(0, 0.4), (1, 0.6), (2, 0.75)]
    assert [s for s, _ in store.history(runs[0], "accuracy/test_low")] == [0, 1, 2]
    assert store.history(runs[2], "round/samples_correct") == [(2, 0.5)]
    assert store.history(runs[0], "time/train") == [(1, 6.0), (2, 6.0)]
    assert store.history(runs[0], "gate/p_value") == [(1, 0.97), (2, 0.97)]
    assert [s for s, _ in store.history(runs[2], "learning/nll_loss")] == list(range(1, NUM_STEPS + 1))
    assert [s for s, _ in store.history(runs[0], "learning/loss")] == list(range(1, 2 * NUM_STEPS + 1))
    assert runs[2].data.tags["ratchet.checkpoint"] == str(run.root / "rounds/02/checkpoint")
    last = run.ledger.records[-1].time
    assert runs[0].info.end_time == round(1000 * last)
    check_inputs_and_artifacts(store, run, runs)


def check_inputs_and_artifacts(store: Store, run: SampleRun, runs: dict[int, Any]) -> None:
    inputs = store.client.get_run(runs[0].info.run_id).inputs.dataset_inputs
    assert sorted(i.dataset.name for i in inputs) == ["gate", "test", "train"]
    assert json.loads(inputs[0].dataset.profile) == {"num_rows": 6}
    assert [i.dataset.name for i in store.client.get_run(runs[1].info.run_id).inputs.dataset_inputs] == ["train"]

    files = store.folder / "mlartifacts"
    report = files / runs[0].info.run_id / "artifacts/report.md"
    assert "75.0 [65.7, 82.5]" in report.read_text()
    table = json.loads((files / runs[1].info.run_id / "artifacts/samples.json").read_text())
    rows = [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]
    assert len(rows) == 24 and {row["verdict"] for row in rows} == {"correct", "wrong", "ungradable"}
    assert rows[0]["prompt"] == "0 + 0 = ?" and rows[0]["text"] == "Final answer: 0"

    versions = store.client.search_model_versions("name = 'sample'")
    mine = {v.tags["ratchet.round"]: v for v in versions if v.tags["ratchet.run_id"] == run.run_id}
    assert sorted(mine) == ["1", "2"]
    assert store.client.get_model_version_by_alias("sample", "reference").version == mine["2"].version


def test_what_mlflow_gets_is_text(store: Store, tmp_path: Path) -> None:
    data = {"train": EVIL, "gate": "gate.jsonl", "test": "test.jsonl"}
    run = SampleRun(tmp_path / "sample", data=data, model=f"/{EVIL}")
    run.claim()
    run.configure()
    run.baseline()
    rows = [{"prompt_id": f"train-{i}", "text": EVIL, "token_ids": [1], "gold": EVIL} for i in range(6)]
    run.commit("rounds/01/prompts", {"prompts": 6, "train": 6}, {"train.parquet": pa.Table.from_pylist(rows, PROMPTS)})
    run.samples_and_verdicts(1)
    run.evaluate(1, 50)
    run.promote(1, reason=EVIL)
    run.end("failed", EVIL)
    run.configure(model=f"/{EVIL}{EVIL}")
    store.sync(run)

    told = ""
    for tracked in store.runs(run).values():
        seen = store.client.get_run(tracked.info.run_id)
        # The folder is compared with paths: it is where the run is.
        tags = {key: value for key, value in seen.data.tags.items() if key != "ratchet.folder"}
        told += json.dumps([seen.data.params, tags, tracked.info.run_name], ensure_ascii=False)
        told += str([data.to_dictionary() for data in seen.inputs.dataset_inputs])
        for file in (store.folder / "mlartifacts" / tracked.info.run_id).rglob("*.*"):
            if file.suffix == ".md":
                require_dead(file.read_text())
            if file.is_file() and file.suffix != ".png":
                told += file.read_text()
    require_text(told)
    assert told.count("x1b]52") > 20


def test_a_cleaning_changes_nothing_that_is_shown(store: Store, tmp_path: Path) -> None:
    """And what the last driver has not sent yet is still its own to send."""
    run = two_rounds(tmp_path / "sample")
    store.sync(run)
    run.claim(os.getpid(), socket.gethostname())
    run.end()
    run.ledger.claim({"host": "elsewhere", "pid": 1} | CLEANING | {"paths": ["rounds/01/checkpoint"]})
    store.sync(run)
    runs = store.runs(run)
    assert {n: r.info.status for n, r in runs.items()} == dict.fromkeys((0, 1, 2), "FINISHED")
    [*_, end] = [record for record in run.ledger.records if record.kind == "end"]
    assert runs[0].info.end_time == round(1000 * end.time)


def test_replaying_changes_nothing(store: Store, tmp_path: Path) -> None:
    run = two_rounds(tmp_path / "sample")
    store.sync(run)
    before, ids = store.num_rows(), {n: r.info.run_id for n, r in store.runs(run).items()}
    store.sync(run)
    assert store.num_rows() == before
    (run.root / "tracking.json").unlink()
    store.sync(run)
    assert store.num_rows() == before
    (run.root / "tracking.json").write_text("{half")
    store.sync(run)
    assert store.num_rows() == before
    assert {n: r.info.run_id for n, r in store.runs(run).items()} == ids
    assert {r.info.status for r in store.runs(run).values()} == {"FINISHED"}


def test_figures_come_as_the_ledger_grows(store: Store, tmp_path: Path) -> None:
    run = SampleRun(tmp_path / "sample")
    tracker = Tracker(run.root, Tracking(uri=store.uri), "sqlite:///unused.db")
    tracker.start()  # before there is anything to tell
    run.claim()
    run.configure()
    tracker.poke()
    run.baseline()
    tracker.poke()
    run.round(1, 60)
    assert tracker.close(WAIT)
    runs = store.runs(run)
    assert {n: r.info.status for n, r in runs.items()} == {0: "RUNNING", 1: "FINISHED"}
    assert store.history(runs[0], "accuracy/test") == [(0, 0.4), (1, 0.6)]


def test_status_and_overrides_of_a_resumed_run(store: Store, tmp_path: Path) -> None:
    run = SampleRun(tmp_path / "sample", rounds=1)
    run.claim()
    run.configure()
    run.baseline()
    run.prompts(1)
    run.end("interrupted", "SIGTERM")
    store.sync(run)
    assert {r.info.status for r in store.runs(run).values()} == {"KILLED"}
    run.claim()
    run.configure(rounds=2)
    tracker = Tracker(run.root, Tracking(uri=store.uri), "sqlite:///unused.db")
    tracker.start()
    assert tracker.close(WAIT)
    runs = store.runs(run)
    assert {r.info.status for r in runs.values()} == {"RUNNING"}
    assert runs[0].data.params["rounds"] == "1" and runs[0].data.tags["override.rounds"] == "2"
    run.end("failed", "out of memory")
    store.sync(run)
    runs = store.runs(run)
    assert {r.info.status for r in runs.values()} == {"FAILED"}
    assert runs[0].data.tags["ratchet.end"] == "failed: out of memory"


def test_a_crashed_run_is_not_shown_as_finished(store: Store, tmp_path: Path) -> None:
    run = SampleRun(tmp_path / "sample")
    run.claim()
    run.configure()
    run.prompts(1)
    store.sync(run)
    assert {r.info.status for r in store.runs(run).values()} == {"KILLED"}


def test_a_server_that_is_down_costs_nothing_and_gets_it_later(store: Store, tmp_path: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # a port that nobody listens on
        port = closed.getsockname()[1]
        settings = Tracking(uri=f"http://user:secret@127.0.0.1:{port}")
        run = SampleRun(tmp_path / "sample")
        tracker = Tracker(run.root, settings, "sqlite:///unused.db")
        tracker.start()
        run.claim()
        run.configure()
        for _ in range(100):
            tracker.poke()
        assert not tracker.close(WAIT)
        assert tracker.problem and "127.0.0.1" in tracker.problem and "secret" not in tracker.problem
        with pytest.raises(RatchetError, match="MLflow at http"):
            sync(run.root, settings)
    store.sync(run)
    assert store.runs(run)[0].data.params["rounds"] == "2"


def test_a_cursor_is_not_believed_once_mlflow_has_lost_the_run(store: Store, tmp_path: Path) -> None:
    run = two_rounds(tmp_path / "sample")
    store.sync(run)
    for lost in store.runs(run).values():
        store.client.delete_run(lost.info.run_id)
    assert store.runs(run) == {}
    store.sync(run)
    assert store.history(store.runs(run)[0], "accuracy/test") == [(0, 0.4), (1, 0.6), (2, 0.75)]


def test_a_record_that_cannot_be_sent_is_told_and_passed_over(store: Store, tmp_path: Path) -> None:
    run = two_rounds(tmp_path / "sample")
    (run.root / "rounds/01/train/metrics.parquet").unlink()
    with pytest.raises(RatchetError, match=r"cannot be tracked.*metrics\.parquet"):
        store.sync(run)
    runs = store.runs(run)
    assert store.history(runs[0], "accuracy/test")[-1] == (2, 0.75)
    assert runs[0].info.status == "FINISHED"


def test_a_displaced_driver_leaves_tracking_to_its_successor(store: Store, tmp_path: Path) -> None:
    run = SampleRun(tmp_path / "sample")
    run.claim(pid=os.getpid(), host=socket.gethostname())
    run.configure()
    run.claim()
    tracker = Tracker(run.root, Tracking(uri=store.uri), "sqlite:///unused.db")
    tracker.start()
    assert tracker.close(WAIT)
    assert not (run.root / "tracking.json").exists()


def test_tracking_that_is_off_does_nothing(tmp_path: Path) -> None:
    run = two_rounds(tmp_path / "runs" / "sample")
    tracker = Tracker(run.root, Tracking(enabled=False), default_address(tmp_path / "runs"))
    tracker.start()
    tracker.poke()
    assert tracker.close(0) and tracker.problem is None
    assert not (run.root / "tracking.json").exists() and not (tmp_path / "runs/mlflow.db").exists()


def test_dashboard_commands(tmp_path: Path) -> None:
    uri = default_address(tmp_path / "my runs")
    assert uri == f"sqlite:///{tmp_path}/my runs/mlflow.db"
    assert open_command(uri).endswith(f"mlflow ui --workers 1 --backend-store-uri '{uri}'")
    assert open_command("https://me:pw@host:5000/x") == "python -m webbrowser https://host:5000/x"


def test_names_are_made_safe_and_stay_apart() -> None:
    from mlflow.utils.validation import _validate_metric_name, _validate_param_name

    names = [
        "test/accuracy",
        "a b-c_d.e",
        "rules/x=(\\d+)%",
        "rules/x=(\\d+)!",
        "../../up",
        "/root",
        "a//b",
        "",
        "é" * 300,
    ]
    safe = [projection.safe_name(name) for name in names]
    assert len(set(safe)) == len(names)
    assert safe[:2] == names[:2]
    for name in safe:
        _validate_metric_name(name)
        _validate_param_name(name)
        assert len(name) <= 250


def test_parameters_are_flat_short_and_hold_no_password() -> None:
    found = projection.parameters(
        {
            "a": {"b": [1, 2], "c": None, "d": {}},
            "uri": "http://me:pw@host/x",
            "long": "x" * 9000,
            "flag": True,
        }
    )
    assert found["a.b"] == "[1, 2]" and found["a.c"] == "null" and found["a.d"] == "{}"
    assert found["uri"] == "http://host/x" and found["flag"] == "true"
    assert len(found["long"]) == 6000


def test_overrides_name_what_ever_differed_with_its_newest_value() -> None:
    configs = [{"job": job} for job in ({"a": 1, "b": 2}, {"a": 5, "b": 2}, {"a": 1, "b": 2, "c": 3})]
    assert projection.overrides(configs[:1]) == {}
    assert projection.overrides(configs[:2]) == {"override.a": "5"}
    assert projection.overrides(configs) == {"override.a": "1", "override.c": "3"}


def test_training_figures_are_spread_over_the_phase() -> None:
    columns = {"step": [1, 2, 3, 4], "loss": [0.7, 0.6, None, 0.4], "note": ["a", "b", "c", "d"]}
    found = projection.training_figures(columns, end=100.0, duration=8.0)
    assert [(f.key, f.value, f.step, f.milliseconds) for f in found] == [
        ("learning/loss", 0.7, 1, 94_000),
        ("learning/loss", 0.6, 2, 96_000),
        ("learning/loss", 0.4, 4, 100_000),
    ]
    assert [f.step for f in projection.continued(found, 10)] == [11, 12, 14]
