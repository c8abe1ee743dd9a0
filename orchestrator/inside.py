"""Paths that a run's own files name. A run may come from somebody else: no name of a record, and no link in the folder,
may have a command read, move or remove something outside of the run, or wait for what is no file at all."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from orchestrator.errors import Damaged


def require_below(root: Path, path: Path) -> None:
    """Before `path` is made, renamed or removed: the folder that it stands in is the run's, all links resolved.

    Raises:
        Damaged: a link leads it out of the run, or it is the run itself.
    """
    here = root.resolve()
    folder = path.parent.resolve()
    if not folder.is_relative_to(here) or folder / path.name == here or path.name == "..":
        raise Damaged(f"{path}: leads out of the run, to {folder}")


def regular_size(path: Path, root: Path | None = None) -> int:
    """Bytes of a file that is to be read. With `root`, it must be inside that folder, all links resolved.

    Raises:
        Damaged: it is a pipe, a device, a folder, or leads out of the run.
        OSError: it is not there, or may not be looked at.
    """
    if root is not None and not path.resolve().is_relative_to(root.resolve()):
        raise Damaged(f"{path}: leads out of the run, to {path.resolve()}")
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise Damaged(f"{path}: is no regular file")
    return status.st_size


def read_regular(path: Path, limit: int, root: Path | None = None) -> bytes:
    """The bytes of a regular file of at most `limit` bytes; see `regular_size`. Never waits for a pipe.

    Raises:
        Damaged: as `regular_size`, or it is larger.
        OSError: it cannot be read.
    """
    regular_size(path, root)
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):  # it may have become another since
            raise Damaged(f"{path}: is no regular file")
        content = file.read(min(status.st_size, limit) + 1)  # as much memory is taken, however little there is
        if status.st_size < len(content) <= limit:
            content += file.read(limit + 1 - len(content))  # it grows
    if len(content) > limit:
        raise Damaged(f"{path}: is larger than the {limit:,} bytes that such a file may have")
    return content
