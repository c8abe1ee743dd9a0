"""A model folder: how its files get second names, and what they lead to. A model is the files that stand in its
folder, which are hashed; the libraries that load it also follow names that its files give, and so would read what
nobody has looked at.

    model.safetensors.index.json    `weight_map` names the files with the weights
    config.json                     `transformers_weights` and `configuration_files` name others than the usual ones,
                                    and `speculators_config` another model, which an engine serves in its place
    adapter_config.json             makes the folder an adapter, to a model that it names
    tokenizer_config.json           `fast_tokenizer_files`, `vocab`, `merges`, `init_inputs` and keys in `_file`
                                    are opened as they are, and so is whatever the tokenizer's class takes as a file
    special_tokens_map.json         goes before all of these, by the same keys
    additional_chat_templates/      its `default.jinja` goes before chat_template.jinja
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

TEMPLATES = "additional_chat_templates"
INDEX = "model.safetensors.index.json"
_LARGEST = 512 * 2**20  # bytes
_TOKENIZER_FILES = ("tokenizer_config.json", "special_tokens_map.json")
_NOT_OPENED = re.compile(
    r"special_tokens_map_file|name_or_path|chat_template|added_tokens_decoder|auto_map|content|.*_(?:tokens?|class|side)"
)
"""Keys whose texts are tokens, templates or names, whatever stands in the current folder. In the first two many
tokenizers name a place on their maker's machine, and nobody reads it."""


def link_folder(folder: Path, target: Path) -> None:
    """Make the new folder `target` of second names for the files in `folder`, and likewise the folders in it. Nothing
    above it is made anew, as by `shutil.copytree`: the run's folder may have been moved away.

    Raises:
        FileNotFoundError: what it is to stand in is not there.
        FileExistsError: it is there already.
    """
    target.mkdir()
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            link_folder(path, target / path.name)
        else:
            os.link(path, target / path.name, follow_symlinks=False)


def weight_files(folder: Path) -> list[Path]:
    """The files that hold a model's weights, by name: those that the index names, or `model.safetensors`, or whatever
    *.safetensors there are. Others beside them are no part of the model, such as a copy in Mistral's own layout
    (consolidated*.safetensors). One that the index names need not be there."""
    names = _object(folder / INDEX).get("weight_map")
    if isinstance(names, dict) and names:
        return [folder / Path(name).name for name in sorted({str(name) for name in names.values()})]
    whole = folder / "model.safetensors"
    return [whole] if whole.exists() else sorted(folder.glob("*.safetensors"))


def leads_out(folder: Path) -> Iterator[str]:
    """What of a model folder is loaded from files that are not the model's, a line each: file, key, value and cure.
    Files that hold no JSON object are passed over, for others to refuse."""
    index = folder / INDEX
    weights = _object(index).get("weight_map")
    for name in sorted({str(name) for name in weights.values()}) if isinstance(weights, dict) else ():
        if not _is_own(name):
            yield _line(index, "weight_map", name)
    config = _object(folder / "config.json")
    for key in ("transformers_weights", "configuration_files"):
        if config.get(key):
            names = f"names other files than engines load ({_short(config[key])})"
            yield f"{folder / 'config.json'}: `{key}` {names}: take it out"
    if config.get("speculators_config") is not None:
        names = f"names a model that engines serve in place of this one ({_short(config['speculators_config'])})"
        yield f"{folder / 'config.json'}: `speculators_config` {names}: take it out, or name that model"
    if os.path.lexists(folder / "adapter_config.json"):
        yield (
            f"{folder / 'adapter_config.json'}: makes the folder an adapter, to a model that it names: give a folder "
            "with merged weights, without this file"
        )
    tokenizer = _object(folder / "tokenizer_config.json")
    files = tokenizer.get("fast_tokenizer_files")
    for file in files if isinstance(files, list) else [files] if files else ():
        if not _is_own(str(file)):
            yield _line(folder / "tokenizer_config.json", "fast_tokenizer_files", file)
    for name in _TOKENIZER_FILES:
        for key, value in _texts(_object(folder / name)):
            if _is_elsewhere(folder, value):
                yield _line(folder / name, key, value)
    yield from _templates(folder / TEMPLATES)


def _templates(folder: Path) -> Iterator[str]:
    if os.path.lexists(folder / "default.jinja"):
        yield (
            f"{folder / 'default.jinja'}: would be used instead of the model's own chat template: make it its "
            "chat_template.jinja, or remove it"
        )
    try:
        others = [entry.path for entry in os.scandir(folder) if not entry.is_file()]
    except OSError:
        return
    yield from (f"{path}: is no regular file: remove it" for path in sorted(others))


def _texts(said: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """The texts in a tokenizer's settings that could be opened as files, each with the key that it stands under."""
    waiting: list[tuple[str, Any]] = list(said.items())
    while waiting:
        key, value = waiting.pop()
        if _NOT_OPENED.fullmatch(key):
            continue
        if isinstance(value, str):
            yield key, value
        elif isinstance(value, list):
            waiting += [(key, inner) for inner in value]
        elif isinstance(value, dict):
            waiting += value.items()


def _is_own(name: str) -> bool:
    """Whether a name is that of a file that stands in the folder itself and is hashed: hidden ones are not."""
    return not name.startswith(".") and "/" not in name and "\0" not in name


def _is_elsewhere(folder: Path, name: str) -> bool:
    """Whether a name, which is taken from the current folder on, leads to something outside of the folder."""
    try:
        return os.path.lexists(name) and not Path(name).resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError, ValueError):
        return False


def _line(file: Path, key: str, value: Any) -> str:
    return f"{file}: `{key}` leads to {_short(value)}, which is no file of this model: download the model again"


def _short(value: Any) -> str:
    return repr(value)[:200]


def _object(file: Path) -> dict[str, Any]:
    """The JSON object that a file holds; an empty one where it holds none. Never waits for a pipe."""
    try:
        status = file.stat()
        if not stat.S_ISREG(status.st_mode) or status.st_size > _LARGEST:
            return {}
        found = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
