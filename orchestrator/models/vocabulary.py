"""Do two models have the same vocabulary? One must, to say how likely the other's token ids are."""

from __future__ import annotations

import filecmp
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from orchestrator.errors import BadInput
from orchestrator.models.weights import check_config, json_object

# Files that say which token an id is. Merges, templates and the like only decide how text becomes ids.
_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "added_tokens.json", "*.tiktoken")


def check_vocabulary(folder: Path, base: Path, where: str) -> None:
    """Compare the model in `folder` with the base model: vocab_size of config.json, and the tokenizer's tokens by id,
    as far as both have the same files. `where` opens each message.

    Raises:
        BadInput: they differ, or only the base model has a tokenizer.
    """
    for difference in _differences(folder, base, where):
        raise BadInput(
            f"{where}: {folder} has not the vocabulary of the base model {base}: {difference}. A reference is asked "
            "about the base model's token ids: give a model with the same tokenizer."
        )
    names = _names(base)
    if names and not names & _names(folder):
        raise BadInput(
            f"{where}: {folder} has none of {', '.join(sorted(names))}, so that its vocabulary cannot be compared with "
            f"that of the base model {base}. If it is the same, put the base model's files there, too."
        )


def _differences(folder: Path, base: Path, where: str) -> Iterator[str]:
    found, expected = (_vocab_size(model, where) for model in (folder, base))
    if found != expected:
        yield f"`vocab_size` of its config.json is {found}, not {expected}"
    for name in sorted(_names(folder) & _names(base)):
        same = filecmp.cmp(folder / name, base / name, shallow=False)
        if not same and _tokens(folder / name, where) != _tokens(base / name, where):
            yield f"{folder / name} and {base / name} give other tokens or other ids"


def _vocab_size(folder: Path, where: str) -> Any:
    config = check_config(folder, where)
    return (config.get("text_config") or config).get("vocab_size")


def _names(folder: Path) -> set[str]:
    return {file.name for file in folder.iterdir() if any(fnmatch(file.name, name) for name in _FILES)}


def _tokens(file: Path, where: str) -> Any:
    """What a file says of tokens and ids, to be compared."""
    content = file.read_bytes()
    if file.suffix != ".json":
        return content
    said = json_object(content, f"{where}: {file}")
    if file.name != "tokenizer.json":
        return said
    model, added = said.get("model"), said.get("added_tokens")
    tokens = [(token.get("id"), token.get("content")) for token in added or () if isinstance(token, dict)]
    return (model.get("vocab") if isinstance(model, dict) else None), tokens
