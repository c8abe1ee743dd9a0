"""Do two models have the same vocabulary? One must, to say how likely the other's token ids are."""

from __future__ import annotations

import filecmp
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from orchestrator.errors import BadInput
from orchestrator.models.weights import check_config, read_file, read_object

# Files that say which token an id is. Merges, templates and the like only decide how text becomes ids.
_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "added_tokens.json", "*.tiktoken")


def check_vocabulary(folder: Path, seed: Path, where: str) -> None:
    """Compare the model in `folder` with the seed model: vocab_size of config.json, and the tokenizer's tokens by id,
    as far as both have the same files. `where` opens each message.

    Raises:
        BadInput: they differ, or only the seed model has a tokenizer.
    """
    for difference in _differences(folder, seed, where):
        raise BadInput(
            f"{where}: {folder} has not the vocabulary of the seed model {seed}: {difference}. A reference is asked "
            "about the seed model's token ids: give a model with the same tokenizer."
        )
    names = _names(seed)
    if names and not names & _names(folder):
        raise BadInput(
            f"{where}: {folder} has none of {', '.join(sorted(names))}, so that its vocabulary cannot be compared with "
            f"that of the seed model {seed}. If it is the same, put the seed model's files there, too."
        )


def _differences(folder: Path, seed: Path, where: str) -> Iterator[str]:
    found, expected = (_vocab_size(model, where) for model in (folder, seed))
    if found != expected:
        yield f"`vocab_size` of its config.json is {found}, not {expected}"
    for name in sorted(_names(folder) & _names(seed)):
        same = filecmp.cmp(folder / name, seed / name, shallow=False)
        if not same and _tokens(folder / name, where) != _tokens(seed / name, where):
            yield f"{folder / name} and {seed / name} give other tokens or other ids"


def _vocab_size(folder: Path, where: str) -> Any:
    config = check_config(folder, where)
    return (config.get("text_config") or config).get("vocab_size")


def _names(folder: Path) -> set[str]:
    return {file.name for file in folder.iterdir() if any(fnmatch(file.name, name) for name in _FILES)}


def _tokens(file: Path, where: str) -> Any:
    """What a file says of tokens and ids, to be compared."""
    if file.suffix != ".json":
        return read_file(file, where)
    said = read_object(file, where)
    if file.name != "tokenizer.json":
        return said
    model, added = said.get("model"), said.get("added_tokens")
    tokens = [(token.get("id"), token.get("content")) for token in added or () if isinstance(token, dict)]
    return (model.get("vocab") if isinstance(model, dict) else None), tokens
