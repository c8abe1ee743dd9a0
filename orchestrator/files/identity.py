"""What a file was when it was hashed: it is hashed again only where it has become another one since.

An identity is what `stat` says, links followed. Whoever writes into a file, or puts another in its place, changes it:
the time of the last change (ctime) cannot be set by hand. Two writes within one tick of the kernel's clock have the
same times. So the hash of a file that was written just before it was hashed is not kept.
"""

from __future__ import annotations

import contextlib
import os
import stat
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from orchestrator.errors import Damaged
from orchestrator.files import durable

_TICK_NS = 10_000_000
"""The longest tick that Linux is built with."""

LARGE = 2**26
"""Bytes from which on a file is worth a thread."""
_MOST_THREADS = 8  # beyond that, storage is what is waited for


class Written(NamedTuple):
    """What of an identity stays as it is while a file is renamed, linked or given other rights, and nobody writes."""

    device: int
    inode: int
    size: int
    mtime_ns: int


class Identity(NamedTuple):
    """Which file it is, and when anything of it was last changed; equal means untouched since."""

    written: Written
    ctime_ns: int


@dataclass
class New:
    """What was hashed, or looked at, and is not kept beyond this process yet (known_hashes.py)."""

    files: int = 0
    size: int = 0


HASHED: dict[Identity, str] = {}
"""Of this process, and of earlier drivers of its run."""
SOUND: set[tuple[str, Identity]] = set()
"""What was looked at, and for what, and found to be right, likewise."""
NEW = New()


def identity(path: Path) -> Identity:
    """Who a file is now.

    Raises:
        OSError: it is not there, or may not be looked at.
        Damaged: it is no regular file, and reading it might never end.
    """
    said = path.stat()
    if not stat.S_ISREG(said.st_mode):
        raise Damaged(f"{path}: is no regular file")
    return Identity(Written(said.st_dev, said.st_ino, said.st_size, said.st_mtime_ns), said.st_ctime_ns)


def sha256(path: Path) -> tuple[Written, str]:
    """A file's sha256 and what it was then; without reading it where its identity is that of a file that was hashed.

    Raises:
        OSError, Damaged: as `identity`.
    """
    before = identity(path)
    if before in HASHED:
        return before.written, HASHED[before]
    settled, found = is_settled(max(before.written.mtime_ns, before.ctime_ns)), durable.sha256(path)
    if settled and identity(path) == before:
        _keep(before, found)
    return before.written, found


def renamed(path: Path, was: Written, sha: str) -> None:
    """A file that had this hash under another name. Its rename is a change, too, that nobody has to hash it for."""
    with contextlib.suppress(OSError, Damaged):
        if (now := identity(path)).written == was:
            _keep(now, sha)


def _keep(who: Identity, sha: str) -> None:
    HASHED[who] = sha
    NEW.files += 1
    NEW.size += who.written.size


def look_once(path: Path, what: str, look: Callable[[], None]) -> None:
    """Look at a file, which raises what is wrong with it; not again for the same (`what`) where it has the identity of
    one that was right.

    Raises:
        OSError, Damaged: as `identity`, or as `look` does.
    """
    before = identity(path)
    if (what, before) in SOUND:
        return
    settled = is_settled(max(before.written.mtime_ns, before.ctime_ns))
    look()
    if settled and identity(path) == before:
        SOUND.add((what, before))
        NEW.files += 1
        NEW.size += before.written.size


def hash_ahead(paths: Iterable[Path], large: int = LARGE) -> None:
    """Hash files of at least `large` bytes at the same time, so that `sha256` finds it done: one core takes a minute
    and a half for the weights of 70B parameters. What cannot be read is left to `sha256`, which says so."""
    new = list(dict.fromkeys(path for path in paths if _is_new(path, large)))
    if len(new) > 1:
        at_once(_hash, new)


def at_once(work: Callable[[Path], None], paths: Sequence[Path]) -> None:
    """Do something with each file, with several at the same time; raises what the first of them raises."""
    if not paths:
        return
    threads = ThreadPoolExecutor(min(len(paths), len(os.sched_getaffinity(0)), _MOST_THREADS))
    try:
        for _ in threads.map(work, paths):
            pass
    finally:  # whoever interrupts does not wait for the files that are left
        threads.shutdown(wait=False, cancel_futures=True)


def _is_new(path: Path, large: int) -> bool:
    with contextlib.suppress(OSError, Damaged):
        who = identity(path)
        return who.written.size >= large and who not in HASHED
    return False


def _hash(path: Path) -> None:
    with contextlib.suppress(OSError, Damaged):
        sha256(path)


def is_settled(time_ns: int) -> bool:
    """Whether a file with such a time gets another one from whoever changes it from now on."""
    return abs(time.time_ns() - time_ns) > _TICK_NS
