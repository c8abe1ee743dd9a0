"""What Ratchet asks of MLflow, as verbs that may be repeated: saying a thing twice leaves it there once.

Importing this module is cheap; MLflow itself (3 s) is imported by the first `MlflowSink`. The client is used
directly, so that MLflow's process-wide notions of an active run and a current address stay untouched.
"""

from __future__ import annotations

import json
import logging
import os
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from orchestrator.config.addresses import without_password
from orchestrator.errors import RatchetError
from orchestrator.text import shown
from orchestrator.tracking.database import sqlite_file
from orchestrator.tracking.projection import MAX_KEY_CHARACTERS, MAX_PARAM_CHARACTERS, MAX_TAG_CHARACTERS, Figure
from orchestrator.tracking.sink import FOLDER, HOST, DataSet, RunStatus
from orchestrator.tracking.tracked_run import Tracked, own
from orchestrator.tracking.versions import ROUND, RUN_ID, Versions

PROJECT = "ratchet.project"
"""Tag of an experiment that was made for all runs of a project."""
_PARENT = "mlflow.parentRunId"

_QUIET_AND_QUICK = {
    # A server that is down must be given up on soon: what is missing is sent later.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}


class MlflowSink:
    """One run's place in MLflow: a parent run, and a child run a round. See `Sink`."""

    def __init__(
        self,
        uri: str,
        artifacts: str | None,
        experiment: str | None,
        run_id: str,
        run_dir: Path,
        known: str | None = None,
        otherwise: str = "ratchet",
    ) -> None:
        """Find or make the experiment, and find what was logged for `run_id` before, by the run in `run_dir` and not
        by a copy of it; `known` is the parent that `run_dir` knows.

        Without an `experiment` it is the one that the run is in already, and for a new run the one of the name
        `otherwise`. `artifacts` is where a new experiment keeps its files; None leaves that to the server.

        Raises:
            RatchetError: the experiment was deleted.
            whatever MLflow raises when it cannot be reached.
        """
        self.run_id, self._uri = run_id, uri
        self._client = _client(uri)
        found = None if experiment else self._experiment_of(run_dir, known) or self._project_of_store()
        if found is None:
            found = self._experiment_named(
                experiment or otherwise, artifacts, {} if experiment else {PROJECT: otherwise}
            )
        require_alive(found, uri)
        self.experiment, self.experiment_id = str(found.name), str(found.experiment_id)
        self.runs: dict[int, str] = self._own_runs(run_dir, known)
        """MLflow's run ids by round; 0 is the parent."""
        self._in_place: set[int] = set()
        self._steps: dict[tuple[str, str], set[int]] = {}  # by run and metric
        self._tables: dict[int, set[str]] = {}

    def _experiment_of(self, run_dir: Path, known: str | None) -> Any:
        """The experiment that the run is in; None where there is none."""
        everything = {e.experiment_id: e for e in self._client.search_experiments(max_results=1000)}
        if not everything:
            return None
        runs = self._find_runs(list(everything))
        parent = self._own_parent(runs, run_dir, known)
        return next((everything[run.info.experiment_id] for run in runs if run.info.run_id == parent), None)

    def _project_of_store(self) -> Any:
        """The experiment of the project whose runs' database this is, which may have been moved to a folder of another
        name; None where there is none yet, or the store is a server, which has many projects."""
        from mlflow.entities import ViewType

        if sqlite_file(self._uri) is None:
            return None
        everything = self._client.search_experiments(max_results=1000, view_type=ViewType.ALL)
        return min((e for e in everything if PROJECT in e.tags), key=lambda e: int(e.experiment_id), default=None)

    def _experiment_named(self, name: str, artifacts: str | None, tags: Mapping[str, str]) -> Any:
        from mlflow.exceptions import MlflowException

        if (there := self._client.get_experiment_by_name(name)) is not None:
            return there
        try:
            made = self._client.create_experiment(name, artifact_location=artifacts, tags=dict(tags) or None)
            return self._client.get_experiment(made)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            return self._client.get_experiment_by_name(name)  # another run was faster

    def require_alive(self) -> None:
        """Ask whether the experiment is still there.

        Raises:
            RatchetError: it was deleted; the message has the ways out.
            whatever MLflow raises when it cannot be reached.
        """
        require_alive(self._client.get_experiment(self.experiment_id), self._uri)

    def _own_runs(self, run_dir: Path, known: str | None) -> dict[int, str]:
        everything = self._find_runs([self.experiment_id])
        parent = self._own_parent(everything, run_dir, known)
        if parent is None:
            return {}
        found = {0: parent}
        for run in everything:
            if run.data.tags.get(_PARENT) == parent:
                # Should two drivers ever have made the same one, all use the first.
                found.setdefault(int(run.data.tags[ROUND]), run.info.run_id)
        return found

    @staticmethod
    def _own_parent(runs: Sequence[Any], run_dir: Path, known: str | None) -> str | None:
        parents = [
            Tracked(run.info.run_id, run.data.tags.get(FOLDER, ""), run.data.tags.get(HOST))
            for run in runs
            if run.data.tags.get(ROUND, "0") == "0"
        ]
        return own(parents, run_dir, socket.gethostname(), known)

    def _find_runs(self, experiments: list[str]) -> list[Any]:
        """All of the run and of its copies, the oldest first.

        Raises:
            RatchetError: the server's pages have no end.
        """
        found: dict[str, Any] = {}
        token = None
        while True:
            page = self._client.search_runs(
                experiments,
                filter_string=f"tags.`{RUN_ID}` = '{self.run_id}'",
                order_by=["attributes.start_time ASC"],
                page_token=token,
            )
            new = {run.info.run_id: run for run in page if run.info.run_id not in found}
            found |= new
            token = page.token
            if not token:
                return list(found.values())
            if not new:
                raise RatchetError(f"MLflow at {self._uri} gives one page of runs again and again; look at the server")

    def ensure_run(self, number: int, name: str, start: int, tags: Mapping[str, str]) -> str:
        """The MLflow run of a round (0: the parent), made when it is not there; `start` in milliseconds."""
        if number in self.runs and number not in self._in_place:
            for key, value in tags.items():  # the run may have been moved since
                self._client.set_tag(self.runs[number], key, value)
        if number not in self.runs:
            identity = {RUN_ID: self.run_id, ROUND: str(number)}
            if number:
                identity[_PARENT] = self.runs[0]
            run = self._client.create_run(
                self.experiment_id, start_time=start, run_name=shown.text(name), tags={**tags, **identity}
            )
            self.runs[number] = run.info.run_id
        self._in_place.add(number)
        return self.runs[number]

    def log(
        self,
        number: int,
        figures: Sequence[Figure] = (),
        params: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """Log metrics, parameters and tags, in batches that MLflow takes."""
        from mlflow.entities import Metric, Param, RunTag

        run = self.runs[number]
        for batch in _batches([(shown.text(key), shown.text(value)) for key, value in (tags or {}).items()], 100):
            short = [RunTag(key[:MAX_KEY_CHARACTERS], value[:MAX_TAG_CHARACTERS]) for key, value in batch]
            self._client.log_batch(run, tags=short)
        for batch in _batches(list((params or {}).items()), 100):
            told = [Param(key, shown.text(value)[:MAX_PARAM_CHARACTERS]) for key, value in batch]
            self._client.log_batch(run, params=told)
        for points in _batches(figures, 1000):
            metrics = [Metric(f.key, f.value, f.milliseconds, f.step) for f in points]
            self._client.log_batch(run, metrics=metrics)

    def log_once(self, number: int, figures: Sequence[Figure]) -> None:
        """Log those points whose step the store does not have yet of their metric: a point that is there cannot be
        changed, and another one of the same step would stand beside it."""
        run, new = self.runs[number], []
        for figure in figures:
            steps = self._steps_of(run, figure.key)
            if figure.step not in steps:
                steps.add(figure.step)
                new.append(figure)
        try:
            self.log(number, new)
        except Exception:
            self._steps.clear()  # nobody knows what of it came through
            raise

    def _steps_of(self, run: str, key: str) -> set[int]:
        if (run, key) not in self._steps:
            self._steps[run, key] = {metric.step for metric in self._client.get_metric_history(run, key)}
        return self._steps[run, key]

    def log_inputs(self, number: int, data_sets: Sequence[DataSet]) -> None:
        """Name the data a run used, without loading it."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        inputs = []
        for data in data_sets:
            profile = None if data.num_rows is None else json.dumps({"num_rows": data.num_rows})
            source = json.dumps({"uri": shown.text(data.path)})
            dataset = Dataset(shown.text(data.name), data.digest, "local", source, profile=profile)
            inputs.append(DatasetInput(dataset, [InputTag("mlflow.data.context", data.context)]))
        self._client.log_inputs(self.runs[number], inputs)

    def log_text(self, number: int, text: str, file: str) -> None:
        self._client.log_text(self.runs[number], text, file)

    def log_table(self, number: int, rows: Sequence[Mapping[str, Any]], file: str) -> None:
        """A table that MLflow's own viewer shows. MLflow's `log_table` appends; this one replaces."""
        columns = list(rows[0]) if rows else []
        data = [[_cell(row[column]) for column in columns] for row in rows]
        table = {"columns": columns, "data": data}
        self.log_text(number, json.dumps(table, ensure_ascii=False), file)
        tables = self._tables.setdefault(number, self._listed(number))
        tables.add(file)
        listing = json.dumps([{"path": path, "type": "table"} for path in sorted(tables)])
        self._client.set_tag(self.runs[number], "mlflow.loggedArtifacts", listing)

    def _listed(self, number: int) -> set[str]:
        """The tables that a run says to have."""
        said = self._client.get_run(self.runs[number]).data.tags.get("mlflow.loggedArtifacts")
        try:
            return {str(table["path"]) for table in json.loads(said or "[]")}
        except (ValueError, TypeError, KeyError):
            return set()

    def log_files(self, number: int, folder: Path, place: str) -> None:
        """Copy the files in a folder to the run's artifacts, below `place`."""
        self._client.log_artifacts(self.runs[number], str(folder), place)

    def versions(self) -> Versions:
        """The model versions of this run."""
        return Versions(self._client, self.experiment_id, self.run_id)

    def set_running(self, number: int) -> None:
        self._client.update_run(self.runs[number], status="RUNNING")

    def set_ended(self, number: int, status: RunStatus, milliseconds: int) -> None:
        self._client.set_terminated(self.runs[number], status=status, end_time=milliseconds)


def require_alive(experiment: Any, uri: str) -> None:
    """Refuse an experiment that was deleted: it keeps its name, and takes nothing.

    Raises:
        RatchetError: with the ways out.
    """
    if experiment.lifecycle_stage == "deleted":
        restore = f"mlflow experiments restore --experiment-id {experiment.experiment_id}"
        raise RatchetError(
            f"the experiment {experiment.name!r} was deleted there. Bring it back (`MLFLOW_TRACKING_URI="
            f"{without_password(uri)} {restore}`), or name another one (tracking.experiment=NAME)"
        )


def reach(uri: str, experiment: str | None = None) -> int:
    """Number of experiments (up to a thousand) that a tracking address knows.

    Raises:
        RatchetError: `experiment` was deleted there.
        whatever MLflow raises when it cannot be reached.
    """
    client = _client(uri)
    if experiment is not None and (found := client.get_experiment_by_name(experiment)) is not None:
        require_alive(found, uri)
    return len(client.search_experiments(max_results=1000))


def _client(uri: str) -> Any:
    """MLflow's client, quiet and soon to give up."""
    for name, value in _QUIET_AND_QUICK.items():
        os.environ.setdefault(name, value)
    from mlflow import MlflowClient

    # After the import, which sets MLflow's own level. What goes wrong is raised, and told once.
    for chatter in ("mlflow", "alembic", "urllib3.connectionpool"):
        logging.getLogger(chatter).setLevel(logging.CRITICAL)
    return MlflowClient(tracking_uri=uri)


def _cell(value: Any) -> Any:
    return shown.text(value) if isinstance(value, str) else value


def _batches(items: Sequence[Any], size: int) -> list[Sequence[Any]]:
    return [items[i : i + size] for i in range(0, len(items), size)]
