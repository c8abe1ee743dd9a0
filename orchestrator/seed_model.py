"""The seed model: where it is, whether its files fit together, and its fingerprint. No weights are loaded here."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator import durable
from orchestrator.errors import BadInput
from orchestrator.hub_model import HubModel, fetch, hub_model
from orchestrator.jobfile import JobFile
from orchestrator.model_files import check_names
from orchestrator.places import in_ray_package, run_folder
from orchestrator.run_model import find, run_model
from orchestrator.weights import check_config, check_weights


@dataclass(frozen=True)
class Seed:
    """The seed model's files."""

    folder: Path
    """Absolute."""
    origin: Mapping[str, Any] | None = None
    """What is to be known of a model that the run must keep, since its folder may vanish: of one from the Hub, its
    `id` and `revision` (the commit); of another run's checkpoint, what `run_model.Checkpoint` says. None where the
    folder is used as it is."""
    trained_on: tuple[Path, ...] = ()
    """Files of pairs that another run trained it on."""

    def __str__(self) -> str:
        if not self.origin:
            return str(self.folder)
        if "run" in self.origin:
            return f"round {self.origin['round']} of the run {self.origin['run']} ({self.folder})"
        return f"{self.origin['id']} at commit {self.origin['revision']}"


def on_hub(file: JobFile) -> HubModel | None:
    """The Hub's model that a job names; None where it names a folder or a run, or what looks like no Hub id."""
    try:
        file.find(file.job.model, "model")
    except BadInput:
        return hub_model(file.job.model)
    return None


def locate_model(file: JobFile, weights: bool = True) -> Seed:
    """The seed model that a job names, downloaded and checked; without `weights`, of a Hub's model only its
    configuration is.

    Raises:
        BadInput: it is neither a model folder, nor another run's checkpoint, nor can be had from the Hub, or its files
            do not fit together.
    """
    where = f"{file.path}: model"
    if (other := run_model(file.job.model, where)) is not None:
        found = find(other, where, file.path.parent, run_folder(file.job))
        check_weights(found.folder, where)
        return Seed(found.folder, found.origin, found.trained_on)
    if (model := on_hub(file)) is not None:
        folder = fetch(model, where, weights)
        seed = Seed(folder, {"id": model.id, "revision": folder.name})
    else:
        folder = file.find(file.job.model, "model")
        seed = Seed(folder, {} if in_ray_package(folder) else None)
    if model is not None and not weights:
        check_config(folder, where)
        return seed
    check_names({path.name for path in folder.glob("*")}, f"{where}: {folder}")
    check_weights(folder, where)
    return seed


@functools.cache
def model_digest(path: str) -> str:
    """A fingerprint of a model folder's files."""
    files = sorted(p for p in Path(path).iterdir() if p.is_file() and not p.name.startswith("."))
    return durable.fingerprint([[p.name, durable.sha256(p)] for p in files])
