"""The models that a job names, the base model and a fixed reference: where they are, whether their files fit together,
and their fingerprints. No weights are loaded here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from orchestrator.config.load import JobFile
from orchestrator.config.places import in_ray_package, run_folder
from orchestrator.errors import BadInput, Damaged
from orchestrator.files import durable
from orchestrator.files.identity import hash_ahead, sha256
from orchestrator.ledger.recipes import UsedFiles
from orchestrator.models.checks import check_config, check_weights
from orchestrator.models.files import check_files, check_names, enclosing_run, has_tokenizer
from orchestrator.models.hub import HubModel, fetch, hub_model
from orchestrator.models.other_run import Checkpoint, find, run_model
from orchestrator.records.rewards import RewardKind

Key = Literal["model", "reference"]
"""The key of a job that names a model."""


@dataclass(frozen=True)
class NamedModel:
    """The files of a model that a job names."""

    folder: Path
    """Absolute."""
    origin: Mapping[str, Any] | None = None
    """What is to be known of a model that the run must keep, since its folder may vanish: of one from the Hub, its
    `id` and `revision` (the commit); of another run's checkpoint, what `run_model.Checkpoint` says. None where the
    folder is used as it is."""
    checkpoint: Checkpoint | None = None
    """Of another run's checkpoint, which of that run's files it is."""

    @property
    def from_hub(self) -> bool:
        """Whether it is the Hub's, whose weights may be yet to be downloaded."""
        return "id" in (self.origin or {})

    def __str__(self) -> str:
        if not self.origin:
            return str(self.folder)
        if "run" in self.origin:
            return f"round {self.origin['round']} of the run {self.origin['run']} ({self.folder})"
        return f"{self.origin['id']} at commit {self.origin['revision']}"


def on_hub(file: JobFile, key: Key = "model") -> HubModel | None:
    """The Hub's model that a job names; None where it names a folder or a run, or what looks like no Hub id."""
    return _on_hub(file, getattr(file.job, key), key)


def _on_hub(file: JobFile, named: str, key: str) -> HubModel | None:
    try:
        file.find(named, key)
    except BadInput:
        return hub_model(named)
    return None


def locate_model(file: JobFile, weights: bool = True, key: Key = "model") -> NamedModel:
    """The model that a job names, downloaded and checked; without `weights`, a Hub's model without them.

    Raises:
        BadInput: it is neither a model folder, nor another run's checkpoint, nor can be had from the Hub, or its files
            do not fit together.
    """
    named, where = getattr(file.job, key), f"{file.path}: {key}"
    if (other := run_model(named, where)) is not None:
        found = find(other, where, file.folders, run_folder(file.job))
        check_weights(found.folder, where)
        return NamedModel(found.folder, found.origin, found)
    return _located(file, named, key, weights)


def locate_reward_model(file: JobFile, named: str, key: str, kind: RewardKind, weights: bool = True) -> NamedModel:
    """A reward model that a job names under `key`, as `locate_model`; it must have a tokenizer of its own.

    Raises:
        BadInput: as `locate_model`, or it gives no reward.
    """
    found = _located(file, named, key, weights, kind)
    if not has_tokenizer(found.folder):
        raise BadInput(f"{file.path}: {key}: {found.folder} has no tokenizer, by which it would read answers")
    return found


def _located(file: JobFile, named: str, key: str, weights: bool, reward: RewardKind | None = None) -> NamedModel:
    """A model that is no run's checkpoint, downloaded and checked."""
    where = f"{file.path}: {key}"
    if (model := _on_hub(file, named, key)) is not None:
        folder = fetch(model, where, weights)
        located = NamedModel(folder, {"id": model.id, "revision": folder.name})
    else:
        folder = _folder(file, named, key)
        located = NamedModel(folder, {} if in_ray_package(folder) else None)
    if model is not None and not weights:
        check_config(folder, where, reward)
        return located
    check_names({path.name for path in folder.glob("*")}, f"{where}: {folder}")
    if (other_run := enclosing_run(folder)) is not None:
        try:
            check_files(folder, other_run)
        except Damaged as error:
            raise BadInput(f"{where}: {error}") from error
    check_weights(folder, where, reward)
    return located


def _folder(file: JobFile, named: str, key: str) -> Path:
    try:
        return file.find(named, key)
    except BadInput as error:
        if key != "reference":
            raise
        raise BadInput(f"{error}. Give a model, as for `model`, or write `previous` or `base`.") from error


def model_digest(path: str) -> str:
    """A fingerprint of a model folder's files as they are now; see files/identity.py for which are read again."""
    return digest_of(_hashes(path))


def added_file(path: str, digest: str) -> str | None:
    """The one file of a model folder without which the folder has this fingerprint, if there is one: a README, say."""
    found = _hashes(path)
    return next((name for name in found if digest_of({k: v for k, v in found.items() if k != name}) == digest), None)


def model_used(path: str) -> UsedFiles:
    """A model folder outside the run, as an input."""
    found = _hashes(path)
    return UsedFiles(digest_of(found), tuple((f"{path}/{name}", digest) for name, digest in found.items()), path)


def digest_of(hashes: Mapping[str, str]) -> str:
    """The fingerprint of a model folder, from the sha256 of each of its files by name."""
    return durable.fingerprint([[name, digest] for name, digest in hashes.items()])


def _hashes(path: str) -> dict[str, str]:
    files = sorted(p for p in Path(path).iterdir() if p.is_file() and not p.name.startswith("."))
    hash_ahead(files)
    return {file.name: sha256(file)[1] for file in files}
