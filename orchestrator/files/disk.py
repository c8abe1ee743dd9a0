"""A disk that is full, became read-only or is closed to us, in words: nobody's bug."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from orchestrator.errors import BadInput, Closed, RatchetError, cut
from orchestrator.files.durable import NO_LINKS
from orchestrator.files.rights import reason

CURE = "see to the disk"
COPY = "copy the folder and go on with the copy (`cp -a`), since a container renames no folder of its image"
"""What helps on a file system of layers (overlayfs), where a folder lies in a lower one."""
LINKS = "copy the folder to a file system with hard links, such as ext4 or XFS, and go on with the copy"
"""What helps where records cannot be linked to their names, as on FAT and exFAT."""
_OF_THE_DISK = frozenset(
    getattr(errno, name)
    for name in (
        *("ENOSPC", "EDQUOT", "EFBIG", "EROFS", "EIO", "ESTALE", "ENODEV", "ENXIO", "ENOTCONN", "EHOSTDOWN"),
        *("EUCLEAN", "EBADMSG", "EREMOTEIO", "ENOLCK"),
    )
    if hasattr(errno, name)  # of Linux
)
_OF_ITS_FILES = frozenset(
    getattr(errno, name)
    for name in (
        *("ETIMEDOUT", "EHOSTUNREACH", "ESHUTDOWN", "ECONNRESET", "EPROTO", "ENODATA"),  # of a network's
        *("EBUSY", "EXDEV", "EMLINK", "ETXTBSY", "EINVAL", "ENOSYS", "EOPNOTSUPP"),
    )
    if hasattr(errno, name)
)
"""Errors of a disk where they name a file; a socket has them, too."""
_MORE_FILES = "let the process open more files (`ulimit -n`)"
_OF_THE_PROCESS = {
    errno.EMFILE: _MORE_FILES,
    errno.ENFILE: _MORE_FILES,
    errno.ENOMEM: "let the process have more memory (`ulimit -v`)",
}
"""What helps against errors that are no file's."""
MORE_PROCESSES = "end some processes, or let there be more (`ulimit -u`)"
_IN_THE_WAY = frozenset({errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ENOTEMPTY})
_OF_RIGHTS = frozenset({errno.EACCES, errno.EPERM})
_SHOWN = 255  # characters of a name
_RECORDED = 2000  # characters of an error that is none of the disk's


def cure(error: OSError, folder: Path) -> str | None:
    """What helps against an error of the disk, in words; None where it is another error. Rights are its matter only
    below `folder`, and so is what is not there."""
    if _is_of_the_disk(error):
        return COPY if error.errno == errno.EXDEV else LINKS if error.strerror == NO_LINKS else CURE
    if isinstance(error, BlockingIOError):  # of a fork: no file that is written here says so
        return MORE_PROCESSES
    if error.errno in _OF_THE_PROCESS:
        return _OF_THE_PROCESS[error.errno]
    if not isinstance(error.filename, str | Path) or not Path(error.filename).is_relative_to(folder):
        return None
    if error.errno in _OF_RIGHTS:
        return CURE
    if error.errno in (errno.ENOENT, errno.ENOTDIR) and not (folder / "ledger").is_dir():
        if _has_no_room_at_all(folder):
            return "choose a folder on a disk"
        return "the folder was moved, deleted or unmounted: put it back"
    return "take away what stands there" if error.errno in _IN_THE_WAY else None


def unusable(error: OSError) -> RatchetError | None:
    """In a line, why something cannot be looked at: its name is too long or leads in a circle, it is closed to us, its
    disk is ill, or the current folder is gone. None where it is another error."""
    if isinstance(error, FileNotFoundError) and error.filename is None and _is_nowhere():
        return BadInput("the current folder was deleted or unmounted: go to another one, and give the command there")
    if isinstance(error, BlockingIOError):
        return RatchetError(f"no more processes may be started: {MORE_PROCESSES}")
    named = error.errno in _OF_RIGHTS | {errno.ENAMETOOLONG, errno.ELOOP}
    if not named and not _is_of_the_disk(error) and error.errno not in _OF_THE_PROCESS:
        return None
    name = str(error.filename or "a file")
    said = f"{name if len(name) <= _SHOWN else f'{name[:80]}...'}: {reason(error)}"
    if error.errno in _OF_THE_PROCESS:
        said += f": {_OF_THE_PROCESS[error.errno]}"
    if error.errno in _OF_RIGHTS:
        return Closed(said)
    return BadInput(said) if named else RatchetError(said)


def _is_of_the_disk(error: OSError) -> bool:
    return error.errno in _OF_THE_DISK or (error.errno in _OF_ITS_FILES and error.filename is not None)


def _has_no_room_at_all(folder: Path) -> bool:
    """Whether it lies in a file system that has no room for any file, such as /proc."""
    try:
        return os.statvfs(folder).f_blocks == 0
    except OSError:
        return False


def _is_nowhere() -> bool:
    """Whether the current folder is gone, so that no relative path leads anywhere."""
    try:
        os.getcwd()
    except FileNotFoundError:
        return True
    return False


@contextlib.contextmanager
def one_message(what: Path | str, then: str, folder: Path | None = None) -> Iterator[None]:
    """Say in one message that `what` cannot be written, and `then` what is kept and what to do, in which `CURE` stands
    for what helps. Rights are the disk's matter below `folder`, which is `what` if none is given.

    Raises:
        RatchetError: for an OSError of the disk; others pass.
    """
    try:
        yield
    except OSError as error:
        if (helps := cure(error, folder or Path(what))) is None:
            raise
        if CURE not in then and helps != CURE:
            then = f"{helps[0].upper()}{helps[1:]}. {then}"
        raise RatchetError(f"{what}: {_not_written(error)}. {then.replace(CURE, helps)}") from error


def why(error: BaseException, folder: Path) -> str:
    """Why what was to be done below a folder failed, for a record of it: in words where it was the disk."""
    if isinstance(error, OSError) and cure(error, folder) is not None:
        return _not_written(error)
    return cut(f"{type(error).__name__}: {error}", _RECORDED)


def _not_written(error: OSError) -> str:
    name = error.filename2 or error.filename
    return f"cannot be written: {reason(error)}{f' ({name})' if name else ''}"
