"""What a run's settings name, as it may be told to everybody: files and folders by their last part alone. `a/b` can be
a model of the Hub or a folder, which its text does not tell: the step by which the run keeps its model says which."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from orchestrator.config.reward import KEPT as KEPT_REWARD
from orchestrator.config.reward import KEPT_PROCESS
from orchestrator.driver.kept import KEPT_MODEL, KEPT_REFERENCE
from orchestrator.ledger.ledger import State
from orchestrator.models.hub import hub_model

_OF_A_MACHINE = ("run_dir", "archive", "cluster", "tracking")
_PLAINLY_A_PATH = ("/", "~", ".")


class Names:
    """Those of the newest settings of a run."""

    def __init__(self, state: State) -> None:
        self._commits, config = state.commits, state.configs[-1]
        self._job: Mapping[str, Any] = config["job"]
        self._folders = [*config.get("folders", ()), os.curdir]

    @property
    def base(self) -> str:
        """The base model."""
        return self._model(str(self._job["model"]), KEPT_MODEL)

    @property
    def reference(self) -> str:
        """What `reference` says."""
        return self._model(str(self._job.get("reference", "previous")), KEPT_REFERENCE)

    @property
    def origin(self) -> dict[str, Any]:
        """Where a base model is from that the run keeps: `id` and `revision` on the Hub, or `run` and `round`."""
        kept = self._commits.get(KEPT_MODEL)
        return {key: kept.facts[key] for key in ("id", "revision", "run", "round") if key in kept.facts} if kept else {}

    def published(self) -> dict[str, Any]:
        """What of the job decides, without what says more of somebody's machines than of the model."""
        job = self._job
        told = {key: value for key, value in job.items() if key not in _OF_A_MACHINE}
        sources = {split: _of_rows(job["data"].get(split)) for split in ("train", "gate", "test")}
        tests = [_of_rows(each) for each in job["data"].get("tests") or ()]
        told |= {"model": self.base, "data": {**job["data"], **sources, "tests": tests}}
        told["generate"] = {**job["generate"], "engine": self.alone(job["generate"].get("engine"))}
        if "reference" in job:
            told["reference"] = self.reference
        if (evaluate := job.get("evaluate")) and (harness := evaluate.get("harness")):
            told["evaluate"] = {**evaluate, "harness": _last_of(harness, "include_path")}
        if reward := job.get("reward"):
            models = enumerate(reward.get("models") or (), 1)
            asked = [{**each, "model": self._model(str(each["model"]), f"{KEPT_REWARD}/{n}")} for n, each in models]
            told["reward"] = {**reward, "models": asked}
        if steps := job.get("steps"):
            told["steps"] = _last_of(steps, "verdicts")
            if process := steps.get("process"):
                told["steps"]["process"] = {**process, "model": self._model(str(process["model"]), KEPT_PROCESS)}
        if judge := job.get("judge"):  # its endpoint has names of its own, with slashes in them
            named = str(judge.get("model") or "")
            told["judge"] = {"model": last_part(named) if named.startswith(_PLAINLY_A_PATH) else judge.get("model")}
        if stages := job.get("stages"):
            told["stages"] = {**stages, "sources": [_of_rows(each) for each in stages.get("sources") or ()]}
        return told

    def alone(self, value: Any) -> Any:
        """A value of which nobody knows what it names, such as an engine's argument, with each path in it, at any
        depth, as its last part."""
        if isinstance(value, str):
            return value if self._is_none(value) else last_part(value)
        if isinstance(value, Mapping):
            return {key: self.alone(below) for key, below in value.items()}
        return [self.alone(below) for below in value] if isinstance(value, list) else value

    def _model(self, named: str, kept: str) -> str:
        """A model that the job names, and the run keeps by the step `kept` unless it was used where it lies."""
        commit, on_hub = self._commits.get(kept), hub_model(named)
        return named if commit and on_hub and commit.facts.get("id") == on_hub.id else last_part(named)

    def _is_none(self, text: str) -> bool:
        """Whether a text is no path: it has no slash, or could be an id of the Hub and nothing is there."""
        if "/" not in text:
            return True
        there = (os.path.lexists(os.path.join(folder, text)) for folder in self._folders)
        return hub_model(text) is not None and not any(there)


def last_part(path: str) -> str:
    """The last part of a path, also of the folder of a run (`run:FOLDER@round2`), and the kind of an address."""
    if path.startswith("run:"):
        return f"run:{last_part(path.removeprefix('run:'))}"
    scheme, is_address, _ = path.partition("://")
    return f"{scheme}://..." if is_address else path.rstrip("/").rpartition("/")[2]


def _of_rows(source: Mapping[str, Any] | None) -> dict[str, Any] | None:
    return None if source is None else _last_of(source, "path")


def _last_of(settings: Mapping[str, Any], key: str) -> dict[str, Any]:
    return {**settings, key: last_part(settings[key])} if settings.get(key) else dict(settings)
