"""What this process lacks, so that what it looks at seems damaged, and is not: memory, or descriptors of files."""

from __future__ import annotations

import errno

from orchestrator.errors import RatchetError


class Lack(RatchetError):
    """The process has too little of something; nothing is known of what it was looking at."""


def require_enough(error: BaseException) -> None:
    """Before an error is taken for a fault of a file.

    Raises:
        Lack: it, or what it comes from, only says that there was no memory, or that no more files may be opened.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, MemoryError) or (isinstance(cause, OSError) and cause.errno == errno.ENOMEM):
            raise Lack("too little memory to look at all files: nothing is said of the run (`ulimit -v`)") from error
        if isinstance(cause, OSError) and cause.errno in (errno.EMFILE, errno.ENFILE):
            raise Lack("too many open files to look at more: nothing is said of the run (`ulimit -n`)") from error
        cause = cause.__cause__
