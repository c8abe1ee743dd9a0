"""What a ledger's records say, kept in one file beside them, so that a long history is read at once.

    runs/irpo/ledger.cache      sealed (sealed.py): the identity of each record's file, and what each record says

It is derived and may be deleted at any time. It is believed only while every record's file is the one that it was made
from: the same inode, size and times, of which nobody can set the change time. `verify` reads the records themselves.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from orchestrator.files import sealed
from orchestrator.files.durable import replace

MIN_NEW = 1000
"""Records that must be new before it is made again: fewer are read as fast."""
_LARGEST = 2**29  # bytes: those of half a million records


def load(file: Path, folder: Path) -> list[list[Any]]:
    """Epoch, kind, time and data of the first records of the ledger in `folder`, as `file` has them; none where it is
    not to be believed."""
    said = sealed.load(file, _LARGEST)
    if not isinstance(said, dict):
        return []
    with contextlib.suppress(OSError):
        found: list[list[Any]] = said["records"]
        return found if said["identities"] == _identities(folder, len(found)) else []
    return []


def save(file: Path, folder: Path, records: Sequence[list[Any]]) -> None:
    """Make it anew of all records so far: of each what `load` returns. Where it cannot be written, there is none."""
    with contextlib.suppress(OSError, ValueError):
        said = {"identities": _identities(folder, len(records)), "records": list(records)}
        replace(file, sealed.content(file.name, said))


def _identities(folder: Path, count: int) -> list[int]:
    """Inode, size, time of the last write and of the last change (ns) of each of the first records' files."""
    found: list[int] = []
    for number in range(count):
        status = os.lstat(f"{folder}/{number:08d}.json")
        found += (status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    return found
