"""What Ratchet asks of MLflow, as verbs that may be repeated: saying a thing twice leaves it there once.

Importing this module is cheap; MLflow itself (3 s) is imported by the first `Sink`. The client is used
directly, so that MLflow's process-wide notions of an active run and a current address stay untouched.
"""

from __future__ import annotations

import json
import logging
import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from orchestrator.config.addresses import without_password
from orchestrator.errors import RatchetError
from orchestrator.text import shown
from orchestrator.tracking.projection import MAX_KEY_CHARACTERS, MAX_PARAM_CHARACTERS, MAX_TAG_CHARACTERS, Figure
from orchestrator.tracking.tracked_run import Tracked, own

RUN_ID, ROUND = "ratchet.run_id", "ratchet.round"
"""Tags by which the MLflow runs of a run are found again."""
FOLDER, HOST = "ratchet.folder", "ratchet.host"
"""Tags that tell a run from a copy of it."""
_PARENT = "mlflow.parentRunId"

RunStatus = Literal["FINISHED", "FAILED", "KILLED"]

_QUIET_AND_QUICK = {
    # A server that is down must be given up on soon: what is missing is sent later.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}


@dataclass(frozen=True, slots=True)
class DataSet:
    """A data set as MLflow shows it.

    Example: DataSet("gate", "evaluation", "/data/gate.jsonl", "9f3c...", 256)
    """

    name: str
    context: str
    path: str
    digest: str
    num_rows: int | None


class Sink:
    """One run's place in MLflow: a parent run, and a child run a round."""

    def __init__(
        self, uri: str, artifacts: str | None, experiment: str, run_id: str, run_dir: Path, known: str | None = None
    ) -> None:
        """Find or make the experiment, and find what was logged for `run_id` before, by the run in `run_dir` and not
        by a copy of it; `known` is the parent that `run_dir` knows.

        `artifacts` is where a new experiment keeps its files; None leaves that to the server.

        Raises:
            RatchetError: the experiment was deleted.
            whatever MLflow raises when it cannot be reached.
        """
        self.run_id, self._uri = run_id, uri
        self._client = _client(uri)
        from mlflow.exceptions import MlflowException

        there = self._client.get_experiment_by_name(experiment)
        if there is None:
            try:
                self.experiment_id = self._client.create_experiment(experiment, artifact_location=artifacts)
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
                # Another run was faster.
                self.experiment_id = self._client.get_experiment_by_name(experiment).experiment_id
        else:
            require_alive(there, uri)
            self.experiment_id = there.experiment_id
        self.runs: dict[int, str] = self._own_runs(run_dir, known)
        """MLflow's run ids by round; 0 is the parent."""
        self._in_place: set[int] = set()

    def require_alive(self) -> None:
        """Ask whether the experiment is still there.

        Raises:
            RatchetError: it was deleted; the message has the ways out.
            whatever MLflow raises when it cannot be reached.
        """
        require_alive(self._client.get_experiment(self.experiment_id), self._uri)

    def _own_runs(self, run_dir: Path, known: str | None) -> dict[int, str]:
        everything = self._find_runs()
        parents = [
            Tracked(run.info.run_id, run.data.tags.get(FOLDER, ""), run.data.tags.get(HOST))
            for run in everything
            if run.data.tags.get(ROUND, "0") == "0"
        ]
        parent = own(parents, run_dir, socket.gethostname(), known)
        if parent is None:
            return {}
        found = {0: parent}
        for run in everything:
            if run.data.tags.get(_PARENT) == parent:
                # Should two drivers ever have made the same one, all use the first.
                found.setdefault(int(run.data.tags[ROUND]), run.info.run_id)
        return found

    def _find_runs(self) -> list[Any]:
        """All of the run and of its copies, the oldest first."""
        found: list[Any] = []
        token = None
        while True:
            page = self._client.search_runs(
                [self.experiment_id],
                filter_string=f"tags.`{RUN_ID}` = '{self.run_id}'",
                order_by=["attributes.start_time ASC"],
                page_token=token,
            )
            found += page
            token = page.token
            if not token:
                return found

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
        listing = json.dumps([{"path": file, "type": "table"}])
        self._client.set_tag(self.runs[number], "mlflow.loggedArtifacts", listing)

    def register(self, number: int, name: str, checkpoint: str, params: Mapping[str, str]) -> None:
        """Register a round's checkpoint as a model version, without uploading its weights.

        The version's alias `reference` moves to it. Its tag `ratchet.checkpoint` says where the files are.
        """
        child = self.runs[number]
        tags = {RUN_ID: self.run_id, ROUND: str(number), "ratchet.checkpoint": checkpoint}
        versions = self._search_versions(name, child)
        if not versions:
            model = self._logged_model(child, name, tags, params)
            # Its own place for files, which stays empty, is the one source that every server takes.
            source, model_id = model.artifact_location, model.model_id
            self._client.create_model_version(
                name, source, run_id=child, tags=tags, model_id=model_id, await_creation_for=0
            )
            versions = self._search_versions(name, child)
        elif versions[0].tags.get("ratchet.checkpoint") != checkpoint:  # the run was moved since
            self._client.set_model_version_tag(name, versions[0].version, "ratchet.checkpoint", checkpoint)
        self._client.set_registered_model_alias(name, "reference", versions[0].version)

    def _search_versions(self, name: str, child: str) -> list[Any]:
        from mlflow.exceptions import MlflowException

        try:
            self._client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        return list(self._client.search_model_versions(f"name = '{name}' and run_id = '{child}'"))

    def _logged_model(self, child: str, name: str, tags: Mapping[str, str], params: Mapping[str, str]) -> Any:
        """What `mlflow.create_external_model` makes; found again, and without its process-wide address."""
        found = self._client.search_logged_models([self.experiment_id], f"source_run_id = '{child}'")
        model = (
            found[0]
            if found
            else self._client.create_logged_model(
                self.experiment_id,
                name=name,
                source_run_id=child,
                tags={**tags, "mlflow.model.isExternal": "true"},
                params=dict(params),
            )
        )
        return self._client.finalize_logged_model(model.model_id, "READY")

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
