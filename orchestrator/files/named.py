"""Paths as users, job files and runs name them."""

from __future__ import annotations

import os
from pathlib import Path

from orchestrator.errors import BadInput


def named_path(name: str | Path, key: str = "") -> Path:
    """The path that a name stands for, in which `~` and `~user` are home folders; `key` says where the name is from.

    Raises:
        BadInput: there is no such user or home, or no file can have that name.
    """
    where = f"{key}: " if key else ""
    try:
        return spelled(name, key).expanduser()
    except RuntimeError as error:
        raise BadInput(f"{where}{str(name)!r}: the home folder is not known ({error}); write the whole path") from error


def spelled(name: str | Path, key: str = "") -> Path:
    """A name as a path, whether or not something is there.

    Raises:
        BadInput: no file can have that name (Linux's have at most 255 bytes), or none in the process's locale.
    """
    where = f"{key}: " if key else ""
    if "\0" in str(name):
        raise BadInput(f"{where}{str(name)!r} is no path: it has a null character in it")
    try:
        str(name).encode()
    except UnicodeEncodeError as error:
        raise BadInput(f"{where}{str(name)!r} is no path: {error.reason}") from error
    try:
        os.fsencode(name)
    except UnicodeEncodeError as error:
        raise BadInput(
            f"{where}{str(name)!r}: no file can have that name here, where Python spells names in {error.encoding}. "
            "Use a UTF-8 locale (`LC_ALL=C.UTF-8`), and set PYTHONUTF8=1 or leave it unset"
        ) from error
    if long := next((part for part in Path(name).parts if len(os.fsencode(part)) > 255), None):
        raise BadInput(f"{where}{long[:60]}...: File name too long ({len(os.fsencode(long))} bytes, of at most 255)")
    return Path(name)


def is_there(path: Path) -> bool:
    """Whether something stands at a path, as far as it may be looked at: a run from somebody else names folders that
    are closed to us, where `Path.exists` raises an error."""
    return os.path.exists(path)


def real(path: Path) -> Path:
    """`path` with all links resolved, as far as it exists. Links that go round in a circle stay (`Path.resolve` raises
    a RuntimeError): whoever opens it tells of them."""
    return Path(os.path.realpath(path))


def whole(path: Path) -> Path:
    """`path` from the root on: Arrow takes a `~` at the start of one for a home folder, and `run:x` for an address.

    Raises:
        BadInput: it is not in UTF-8, as what stands in a record is.
    """
    path = path.absolute()
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise BadInput(f"{path}: the name of a run, and of the folders it is in, is UTF-8; rename it") from error
    return path
