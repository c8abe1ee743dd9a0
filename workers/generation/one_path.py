"""One path for whatever model an engine loads: an engine that compiles keeps what it compiled by the model's path, and
every checkpoint has another.

The path is relative, and each process has a folder of its own behind it: two engines, of one host or of many, can load
different checkpoints at one moment and never meet, as at a link of the run's they could. The folder is this user's
alone, and there only while the engine loads. It holds links to what stands in the model's folder, without weights that
are not the model's: an engine would load whatever *.safetensors there are, or take a copy of the model in Mistral's own
layout (params.json, consolidated*.safetensors) before the one that is trained.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from orchestrator.records.model_folder import weight_files

PATH = "./served-model"
"""Given to the engine. It names no model of the Hub, should nothing be there."""
_PREFIX = "ratchet-engine-"
_NAME = re.compile(rf"{_PREFIX}[a-z0-9_]{{8}}")  # as mkdtemp makes them


@contextlib.contextmanager
def one_path(model: str) -> Iterator[Path]:
    """Have PATH lead to the folder `model` in this process, and in those that it starts within; their working
    directory is another meanwhile. Yields the one that it was, to which relative paths of others still refer."""
    before, target = Path.cwd(), os.path.abspath(model)
    _remove_leftovers()
    folder = tempfile.mkdtemp(prefix=_PREFIX)
    lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)  # goes with the process, however it ends
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        _link(Path(target), Path(folder, PATH))
        os.chdir(folder)
        yield before
    finally:
        os.chdir(before)
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _link(model: Path, target: Path) -> None:
    target.mkdir()
    weights = weight_files(model)
    for file in model.iterdir():
        if file.suffix != ".safetensors" or file in weights:
            (target / file.name).symlink_to(file)


def anchored(value: Any, folder: Path) -> Any:
    """An argument of the user's; what of it names a path from `folder`, by a `/` in it, does so from everywhere."""
    if isinstance(value, dict):
        return {key: anchored(inner, folder) for key, inner in value.items()}
    if isinstance(value, list):
        return [anchored(inner, folder) for inner in value]
    if isinstance(value, str) and "/" in value and "\0" not in value and os.path.exists(folder / value):
        return str(folder / value)
    return value


def _remove_leftovers() -> None:
    """Those of this user's processes that were killed while they loaded."""
    place = tempfile.gettempdir()
    for name in filter(_NAME.fullmatch, os.listdir(place)):
        with contextlib.suppress(OSError):
            folder = os.open(os.path.join(place, name), os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                old = os.listdir(folder)  # one that was just made is empty, and not locked yet
                if os.fstat(folder).st_uid == os.geteuid() and old:
                    fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(PATH, dir_fd=folder)
                    os.rmdir(os.path.join(place, name))
            finally:
                os.close(folder)
