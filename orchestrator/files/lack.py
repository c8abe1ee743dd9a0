"""What is lacking, so that what is looked at seems damaged, and is not: memory, open files, room in a path, or the
host that has the files."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
from collections.abc import Iterable, Iterator
from pathlib import Path

from orchestrator.errors import BadInput, RatchetError

MOST_OF_A_PATH = 4095
"""Bytes that Linux takes in one (PATH_MAX, less the null byte at its end)."""
ROOM_FOR_A_RUN = 200
"""Bytes that the names of a run's files, those of what is being made included, may take from its folder on."""
_MOST_OF_A_NAME = 512  # of a committed file, from its folder on; a longer one is the record's fault


_AWAY = frozenset(
    getattr(errno, name)
    for name in ("ETIMEDOUT", "ESTALE", "EHOSTDOWN", "EHOSTUNREACH", "ESHUTDOWN", "ENOTCONN", "ECONNRESET", "EREMOTEIO")
    if hasattr(errno, name)  # of Linux
)


TOO_LITTLE_MEMORY = "too little memory for this command: free some, or let it have more (`ulimit -v`)"
_UNMAPPED = "failed to map segment from shared object"
"""What the loader says of a library for which there are no addresses left, in an ImportError."""
_NEXT_TO_NONE = 16 << 20  # bytes; a thread's stack is 8 MiB


class Lack(RatchetError):
    """The process has too little of something; nothing is known of what it was looking at."""


def require_enough(error: BaseException) -> None:
    """Before an error is taken for a fault of a file.

    Raises:
        Lack: it, or what it comes from, only says that there was no memory, that no more files may be opened, or that
            the files are on another host, which does not answer.
    """
    if of_memory(error):
        raise Lack("too little memory to look at all files: nothing is said of the run (`ulimit -v`)") from error
    for cause in _causes(error):
        if isinstance(cause, OSError) and cause.errno in (errno.EMFILE, errno.ENFILE):
            raise Lack("too many open files to look at more: nothing is said of the run (`ulimit -n`)") from error
        if isinstance(cause, OSError) and cause.errno in _AWAY:
            said = f"{cause.filename or 'a file'}: {cause.strerror}"
            raise Lack(f"{said}: its file system does not answer, and nothing is said of the run. See to it") from error


def of_memory(error: BaseException) -> bool:
    """Whether an error only says that this process may have no more memory. Libraries make other errors of it, such as
    Arrow a TypeError without a cause: so any error is one of memory where next to nothing is left of what is allowed
    (`ulimit -v`, `ulimit -d`)."""
    return _is_at_its_limit() or any(
        isinstance(cause, MemoryError)
        or (isinstance(cause, OSError) and cause.errno == errno.ENOMEM)
        or (isinstance(cause, ImportError) and _UNMAPPED in str(cause))
        for cause in _causes(error)
    )


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error, and what it comes from."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__


def _is_at_its_limit() -> bool:
    limits = {0: resource.RLIMIT_AS, 5: resource.RLIMIT_DATA}  # by their columns in /proc/self/statm
    allowed = {column: soft for column, kind in limits.items() if (soft := resource.getrlimit(kind)[0]) >= 0}
    if not allowed:
        return False
    with contextlib.suppress(OSError):
        with open("/proc/self/statm") as told:
            pages = told.read().split()
        size = resource.getpagesize()
        return any(most - int(pages[column]) * size < _NEXT_TO_NONE for column, most in allowed.items())
    return False


def require_reachable(folder: Path, names: Iterable[str]) -> None:
    """Before files are looked at, named from `folder` on: the way to the folder leaves room for each of them.

    Raises:
        BadInput: it does not, so that files which are there cannot be opened.
    """
    sizes = (len(name.encode(errors="replace")) for name in names)
    longest = max((size for size in sizes if size <= _MOST_OF_A_NAME), default=0)
    if len(os.fsencode(folder)) + 1 + longest > MOST_OF_A_PATH:
        raise BadInput(
            f"{folder}: its path is so long that files in it cannot be reached by theirs, which may have "
            f"{MOST_OF_A_PATH:,} bytes: nothing is said of them. Move the folder to a shorter path, or mount it at one"
        )
