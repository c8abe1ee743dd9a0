"""What a ledger's records say, kept in one file beside them, so that a long history is read at once.

    runs/irpo/ledger.cache      a line of JSON: version, number of records, seal of both and of the rest
                                the identity of each record's file, and what each record says

It is derived and may be deleted at any time. It is believed only while every record's file is the one that it was made
from: the same inode, size and times, of which nobody can set the change time. `verify` reads the records themselves.
The seal is made with the key of the user's state folder: who can write into the folder of a run, on a shared disk or in
an image of one, could make a cache that fits the files and says what no record says. Another user's cache is no cache.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from orchestrator import __version__
from orchestrator.errors import Damaged
from orchestrator.files import user_state
from orchestrator.files.durable import replace
from orchestrator.files.inside import read_regular

MIN_NEW = 1000
"""Records that must be new before it is made again: fewer are read as fast."""
_LARGEST = 2**31  # bytes


def load(file: Path, folder: Path) -> list[list[Any]]:
    """Epoch, kind, time and data of the first records of the ledger in `folder`, as `file` has them; none where it is
    not to be believed."""
    try:
        if not file.exists():
            return []
        header, _, rest = read_regular(file, _LARGEST).partition(b"\n")
        said = json.loads(header)
        if not hmac.compare_digest(header, _header(int(said["records"]), rest)):
            return []
        identities, _, records = rest.partition(b"\n")
        if json.loads(identities) != _identities(folder, int(said["records"])):
            return []
        found: list[list[Any]] = json.loads(records)
        return found if len(found) == said["records"] else []
    except (OSError, Damaged, ValueError, TypeError, KeyError, RecursionError):
        return []  # derived: whatever is wrong with it, the records are read


def save(file: Path, folder: Path, records: Sequence[list[Any]]) -> None:
    """Make it anew of all records so far: of each what `load` returns. Where it cannot be written, there is none."""
    with contextlib.suppress(OSError, ValueError):
        rest = b"\n".join(json.dumps(part).encode() for part in (_identities(folder, len(records)), list(records)))
        replace(file, _header(len(records), rest) + b"\n" + rest)


def _header(count: int, rest: bytes) -> bytes:
    """The first line of the cache of so many records; the seal is HMAC-SHA256 (RFC 2104)."""
    said = {"version": __version__, "records": count}
    seal = hmac.new(user_state.sealing_key(), b"ledger.cache\n" + json.dumps(said).encode() + b"\n", hashlib.sha256)
    seal.update(rest)
    return json.dumps(said | {"seal": seal.hexdigest()}).encode()


def _identities(folder: Path, count: int) -> list[int]:
    """Inode, size, time of the last write and of the last change (ns) of each of the first records' files."""
    found: list[int] = []
    for number in range(count):
        status = os.lstat(f"{folder}/{number:08d}.json")
        found += (status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    return found
