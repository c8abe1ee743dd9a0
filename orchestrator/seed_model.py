"""What a model is, told from its files: no weights are loaded here."""

from __future__ import annotations

import functools
from pathlib import Path

from orchestrator import durable
from orchestrator.errors import BadInput
from orchestrator.jobfile import JobFile
from orchestrator.weights import check_weights


def locate_model(file: JobFile) -> str:
    """The seed model's absolute folder, or its Hub id when no such folder exists.

    Raises:
        BadInput: it is neither a model folder nor looks like a Hub id, or its files do not fit together.
    """
    name = file.job.model
    try:
        folder = file.find(name, "model")
    except BadInput:
        if name.count("/") == 1 and not name.startswith((".", "/", "~")):
            return name
        raise
    if not (folder / "config.json").is_file():
        raise BadInput(f"{file.path}: model: {folder} is no Hugging Face model folder (it has no config.json)")
    if not any(folder.glob("*.safetensors")):
        raise BadInput(
            f"{file.path}: model: {folder} has no *.safetensors file. Ratchet loads no pickled weights: save the "
            "model again with save_pretrained(..., safe_serialization=True)."
        )
    check_weights(folder, f"{file.path}: model")
    return str(folder)


@functools.cache
def model_digest(path: str) -> str:
    """A fingerprint of a model folder's files, or of a Hub id."""
    folder = Path(path)
    if not folder.is_dir():
        return durable.fingerprint(path)
    files = sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith("."))
    return durable.fingerprint([[p.name, durable.sha256(p)] for p in files])
