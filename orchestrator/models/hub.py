"""A model on the Hugging Face Hub, at one commit. `huggingface_hub` is imported only when one is asked for."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.errors import BadInput
from orchestrator.inputs.hub import PATIENCE, is_offline, library, short, within
from orchestrator.models.files import UNWANTED, WANTED, check_names

_NAMED = re.compile(r"([A-Za-z0-9][A-Za-z0-9_.-]*/[A-Za-z0-9_.-]+)(?:@(\S+))?")


@dataclass(frozen=True)
class HubModel:
    """A repository, and a branch, tag or commit of it; None is its main branch."""

    id: str
    revision: str | None

    def __str__(self) -> str:
        return f"{self.id}@{self.revision}" if self.revision else self.id


def hub_model(text: str) -> HubModel | None:
    """The model that `ORG/NAME` or `ORG/NAME@REVISION` names; None for what looks like neither."""
    found = _NAMED.fullmatch(text)
    return HubModel(found[1], found[2]) if found else None


def fetch(model: HubModel, where: str, weights: bool = True) -> Path:
    """The folder in the Hub's cache that holds the model; its name is the commit. `where` opens each message.

    Without `weights` they may be missing, and nothing else. With HF_HUB_OFFLINE the cache must have it all.

    Raises:
        BadInput: the Hub cannot be reached, or has no such model or revision, or does not show it to this user; or
            the model has no configuration or no safetensors.
    """
    hub = library("huggingface_hub", where)
    offline = is_offline(where)
    if not sys.stderr.isatty():
        library("huggingface_hub.utils", where).disable_progress_bars()
    try:
        commit = model.revision if offline else within(PATIENCE, lambda: _commit(hub, model, where))
        wanted = [files for files in WANTED if weights or offline or files != "*.safetensors"]
        return Path(
            hub.snapshot_download(
                model.id, revision=commit, allow_patterns=wanted, ignore_patterns=list(UNWANTED), max_workers=4
            )
        )
    except BadInput:
        raise
    except Exception as error:  # of many kinds; whatever it is, it is this line of the job
        raise BadInput(f"{where}: {str(model)!r}: there is no such folder, and {_why(error, offline)}") from error


def _commit(hub: Any, model: HubModel, where: str) -> str:
    """The commit that the Hub names, once it lists what a model needs. Its configuration is downloaded, which leaves
    the list of files and the branch's commit in the cache: a download then asks for no list, which the library
    would wait for without end, and HF_HUB_OFFLINE finds the branch."""
    info = hub.HfApi().model_info(model.id, revision=model.revision, timeout=PATIENCE)
    check_names({file.rfilename for file in info.siblings or ()}, f"{where}: {model}")
    hub.snapshot_download(model.id, revision=model.revision, allow_patterns="config.json")
    return str(info.sha)


def _why(error: Exception, offline: bool) -> str:
    """What happened, and the cure."""
    said, status = short(error), status_of(error)
    if offline:
        return f"HF_HUB_OFFLINE is set while the Hub's cache has no complete copy ({said}). Unset it, or give a folder."
    if status in (401, 403):
        return (
            f"the Hub does not show such a model ({said}): there is none, or it is private or gated. Check the id, "
            "set HF_TOKEN to a token that may read it, or give a folder."
        )
    if status == 404:
        return f"the Hub has no such model or revision ({said}). Check both, or give a folder."
    return (
        f"the Hub does not deliver ({said}). Check the id and the connection, give a folder, or set HF_HUB_OFFLINE=1 "
        "where the Hub's cache has a copy."
    )


def status_of(error: BaseException | None) -> int | None:
    """The HTTP status of an error, or of what it came from."""
    while error is not None:
        if (status := getattr(getattr(error, "response", None), "status_code", None)) is not None:
            return int(status)
        error = error.__cause__
    return None
