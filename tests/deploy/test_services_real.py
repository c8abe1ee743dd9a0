"""What deploy/ puts beside Ray, for real: MLflow with users on PostgreSQL."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from orchestrator.reports.status import status
from tests.deploy.services import answer, free_port, mlflow, postgres
from tests.deploy.tools import DEPLOY, said
from tests.support.planted import Search
from tests.support.stand_ins import StandIns, make_project, run_job

pytestmark = [pytest.mark.real, pytest.mark.full]
EXPERIMENTS = "/api/2.0/mlflow/experiments/search?max_results=10"


def test_a_run_is_tracked_by_an_mlflow_with_users_on_postgresql(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for package in ("psycopg", "flask_wtf"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"there is no {package} here: `make setup` brings what requirements/*.txt pin")
    from mlflow.tracking import MlflowClient

    secrets, port = tmp_path / "secrets", free_port()
    assert said(DEPLOY / "docker/secrets.sh", secrets)[0] == 0
    password = (secrets / "mlflow_password").read_text()
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "ratchet")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", password)
    job = make_project(tmp_path / "job", tracking={"enabled": True, "uri": f"http://127.0.0.1:{port}"})
    with postgres((secrets / "postgres_password").read_text()) as database:
        with mlflow(secrets, database, tmp_path / "mlflow", port) as address:
            assert answer(f"{address}/health") == 200
            assert answer(address + EXPERIMENTS) == 401
            assert answer(address + EXPERIMENTS, "ratchet", "wrong") == 401
            assert answer(address + EXPERIMENTS, "ratchet", password) == 200
            run_job(job, StandIns(), "rounds=1")
        with mlflow(secrets, database, tmp_path / "mlflow", port) as address:  # and it is all in the database
            run_job(job, StandIns(), "rounds=2")
            client = MlflowClient(address)
            (experiment,) = [e for e in client.search_experiments() if e.name == "tiny"]
            runs = client.search_runs([experiment.experiment_id])
    assert status(tmp_path / "job/run")["state"] == "finished"
    parents = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    assert len(runs) == 3 and len(parents) == 1, "one of the job, and one of each round"
    assert parents[0].data.metrics["test/accuracy"] > 0 and parents[0].info.status == "FINISHED"
    assert any((tmp_path / "mlflow").rglob("*")), "artifacts go through the server to its own folder"
    made = {file.name: file.read_text() for file in secrets.iterdir() if file.name != "mlflow_credentials"}
    assert Search(made).folder(tmp_path, but=[secrets]) == [], "nor do a run, artifacts or the server's log hold one"
