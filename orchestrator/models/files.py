"""Which files make a model folder, and how a run comes to own them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection
from fnmatch import fnmatch
from pathlib import Path

from orchestrator.errors import BadInput
from orchestrator.files.inside import is_run
from orchestrator.files.named import real
from orchestrator.ledger.sharing import Giver, size_of
from orchestrator.records.model_folder import TEMPLATES

WANTED = ("*.safetensors", "*.json", "*.txt", "*.model", "*.jinja", "*.tiktoken")
"""Weights, and what stands beside them: configuration, tokenizer, chat template. No pickles, no code."""
UNWANTED = ("*/*", ".*", "consolidated*.safetensors")
"""Other folders, hidden files, and a second copy of the weights in Mistral's own layout."""


def model_files(folder: Path) -> list[Path]:
    """The files of a model folder that are the model, by name."""
    return sorted(file for file in folder.iterdir() if file.is_file() and _is_of_model(file.name))


def has_tokenizer(folder: Path) -> bool:
    """Whether a folder has files of a tokenizer, of whichever kind."""
    names = ("tokenizer*", "vocab.*", "*.tiktoken")
    return any(fnmatch(file.name, name) for file in folder.iterdir() for name in names)


def check_names(names: Collection[str], what: str) -> None:
    """Whether a folder with these files can be a model; `what` opens each message.

    Raises:
        BadInput: there is no configuration, or there are no safetensors.
    """
    if "config.json" not in names:
        raise BadInput(f"{what} is no Hugging Face model folder (it has no config.json)")
    if not any(name.endswith(".safetensors") and _is_of_model(name) for name in names):
        raise BadInput(
            f"{what} has no *.safetensors file. Ratchet loads no pickled weights: save the "
            "model again with save_pretrained(..., safe_serialization=True)."
        )


def enclosing_run(folder: Path) -> Path | None:
    """The run that a folder lies in, if any."""
    return next((above for above in real(folder).parents if is_run(above)), None)


def check_files(folder: Path, root: Path) -> dict[str, int]:
    """Bytes of each file of a model that lies in the run `root`.

    Raises:
        Damaged: one is a link, a pipe or a device, and so leads out of the run or has no end.
    """
    for template in sorted((folder / TEMPLATES).glob("*")) if (folder / TEMPLATES).is_dir() else ():
        size_of(template, root)  # which is read with the tokenizer
    found = [path for path in sorted(folder.iterdir()) if _is_of_model(path.name)]
    return {path.name: size_of(path, root) for path in found if path.is_symlink() or not path.is_dir()}


def link_model(folder: Path, target: Path, names: Collection[str] | None = None) -> None:
    """Make the new folder `target` of the model's files in `folder`, or of those among `names`: hard links where they
    are possible, copies where they are not. Of a run, which may be somebody else's, no link is followed.

    A link shares its bytes with the Hub's cache. That is safe: the cache replaces and removes files, but never
    writes into one that is complete. Where an ordinary folder's files are written over in place, the run's hashes tell.

    Raises:
        Damaged: as `check_files`.
    """
    target.mkdir()
    if (root := enclosing_run(folder)) is not None:
        sizes = {name: size for name, size in check_files(folder, root).items() if names is None or name in names}
        giver = Giver(root, sum(sizes.values()))
        for name, size in sizes.items():
            giver.give(folder / name, target / name, size)
        return
    for file in model_files(folder):
        _link_file(file, target / file.name)


def _link_file(file: Path, target: Path) -> None:
    """Give a file a second name, or make a copy where no link is possible."""
    there = real(file)  # the cache's snapshots are symbolic links
    try:
        os.link(there, target)
    except OSError:  # another file system, or one without links
        shutil.copyfile(there, target)


def _is_of_model(name: str) -> bool:
    return any(fnmatch(name, wanted) for wanted in WANTED) and not any(fnmatch(name, other) for other in UNWANTED)
