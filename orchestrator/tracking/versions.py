"""A run's checkpoints as versions of a model in MLflow's registry. The weights stay in the run: a version says where.

Aliases: `candidate` is what was trained last, `reference` what was promoted last, and `champion` the promoted one with
the most gate problems right. Two runs of one name share a model, and the one that decided last has its aliases.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.text import shown
from orchestrator.tracking.projection import Figure

RUN_ID, ROUND = "ratchet.run_id", "ratchet.round"
"""Tags by which what was logged for a run is found again."""
CHECKPOINT, REMOVED, PROMOTED = "ratchet.checkpoint", "ratchet.removed", "promoted"
_VERSIONS = "mlflow.modelVersions"
_ON_VERSIONS = ("accuracy/test", "accuracy/gate", "gate/won", "gate/lost")
"""Figures that stand at a version itself, whose page shows no metrics; all are those of its model."""
HOW_TO_LOAD = "how-to-load.md"
"""The one file that a version holds."""


@dataclass(frozen=True, slots=True)
class Version:
    """A round's checkpoint. `path` is its folder, which `is_there` or was removed; `figures` are those of the round."""

    name: str
    number: int
    path: str
    is_there: bool
    promoted: bool
    result: str
    """In a sentence."""
    figures: Sequence[Figure]
    aliases: frozenset[str]

    def told(self) -> str:
        """What it is and how it is loaded, in Markdown."""
        if not self.is_there:
            load = (
                "Its files were removed by `ratchet gc` or `keep.checkpoints`, or set aside by `ratchet rollback`, so "
                "that it cannot be loaded."
            )
        else:
            load = (
                "MLflow does not hold the weights, and its loaders cannot load this version. It is a Hugging Face "
                f"folder:\n\n    {shown.line(self.path)}\n\nIn Python, on a machine that has this folder:\n\n"
                "    from transformers import AutoModelForCausalLM, AutoTokenizer\n"
                f"    folder = {self.path!a}\n"
                "    model = AutoModelForCausalLM.from_pretrained(folder)\n"
                "    tokenizer = AutoTokenizer.from_pretrained(folder)"
            )
        return f"Round {self.number} of {shown.markdown(self.name)}. {shown.markdown(self.result)}\n\n{load}\n"


class Versions:
    """The versions of one run. Saying one twice leaves it there once."""

    def __init__(self, client: Any, experiment_id: str, run_id: str) -> None:
        self._client, self._experiment_id, self._run_id = client, experiment_id, run_id

    def tell(self, version: Version, child: str) -> None:
        """Register it, or say anew what has changed; `child` is MLflow's id of its round's run."""
        found = self._search(version.name, child)
        tags = {RUN_ID: self._run_id, ROUND: str(version.number)}
        now = {CHECKPOINT: version.path, PROMOTED: _yes(version.promoted), REMOVED: _yes(not version.is_there)}
        model = self._logged_model(child, version, tags | now)
        if not found:
            # Its own place for files is the one source that every server takes.
            source, model_id = model.artifact_location, model.model_id
            self._client.create_model_version(
                version.name, source, run_id=child, tags=tags, model_id=model_id, await_creation_for=0
            )
            found = self._search(version.name, child)
        number = found[0].version
        # As a server does it: the model's page leads to the version.
        listed = json.dumps([{"name": version.name, "version": int(number)}])
        if model.tags.get(_VERSIONS) != listed:
            self._client.set_logged_model_tags(model.model_id, {_VERSIONS: listed})
        accuracies = {f.key: f"{f.value:.4f}" for f in version.figures if f.key in _ON_VERSIONS}
        for key, value in (now | accuracies).items():
            if found[0].tags.get(key) != (text := shown.text(value)):
                self._client.set_model_version_tag(version.name, number, key, text)
        if found[0].description != version.told():
            self._client.update_model_version(version.name, number, version.told())
            self._say_how_to_load(model.model_id, version)
        self._point(version, number)

    def _point(self, version: Version, number: str) -> None:
        """Move the aliases that this version has, and take those away that it had."""
        there = dict(self._client.get_registered_model(version.name).aliases)
        for alias in sorted(version.aliases):
            if there.get(alias) != number:
                self._client.set_registered_model_alias(version.name, alias, number)
        for alias in ("candidate", "champion", "reference"):
            if alias not in version.aliases and there.get(alias) == number:
                self._client.delete_registered_model_alias(version.name, alias)

    def _say_how_to_load(self, model_id: str, version: Version) -> None:
        """So that `models:/NAME@reference` is a folder, which says what it is."""
        with tempfile.TemporaryDirectory(prefix="mlflow-") as folder:
            (Path(folder) / HOW_TO_LOAD).write_text(version.told(), encoding="utf-8")
            self._client.log_model_artifacts(model_id, folder)

    def _search(self, name: str, child: str) -> list[Any]:
        from mlflow.exceptions import MlflowException

        try:
            self._client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        return list(self._client.search_model_versions(f"name = '{name}' and run_id = '{child}'"))

    def _logged_model(self, child: str, version: Version, tags: dict[str, str]) -> Any:
        """What `mlflow.create_external_model` makes; found again, and without its process-wide address."""
        found = self._client.search_logged_models([self._experiment_id], f"source_run_id = '{child}'")
        if found:
            model = found[0]
            self._client.set_logged_model_tags(model.model_id, {key: shown.text(value) for key, value in tags.items()})
        else:
            model = self._client.create_logged_model(
                self._experiment_id,
                name=version.name,
                source_run_id=child,
                tags={key: shown.text(value) for key, value in tags.items()} | {"mlflow.model.isExternal": "true"},
                params={"round": str(version.number)},
            )
        known = {(metric.key, metric.step) for metric in model.metrics or ()}
        self._log(child, model.model_id, (f for f in version.figures if (f.key, f.step) not in known))
        return self._client.finalize_logged_model(model.model_id, "READY")

    def _log(self, child: str, model_id: str, figures: Iterable[Figure]) -> None:
        """The metrics of a version are its model's. A child run has the very same points already."""
        from mlflow.entities import Metric

        of_model = [Metric(f.key, f.value, f.milliseconds, f.step, model_id=model_id, run_id=child) for f in figures]
        if of_model:
            self._client.log_batch(child, metrics=of_model)


def _yes(is_so: bool) -> str:
    return "yes" if is_so else "no"
