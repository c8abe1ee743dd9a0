"""Paths that a run's own files name. A run may come from somebody else: no name of a record, and no link in the folder,
may have a command read, move or remove something outside of the run, or wait for what is no file at all.

`remove` and `rename` are the only ways by which something of a run goes or gets another name.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

from orchestrator.errors import Damaged
from orchestrator.files.lack import MOST_OF_A_PATH

_RECORD = re.compile(r"[0-9]{8}\.json")
_FOLDER = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_CLOEXEC


def resolved(path: Path) -> Path:
    """`path` with all links resolved; the end of it need not exist.

    Raises:
        Damaged: the links go round in a circle, or no file can have such a name.
    """
    try:
        return path.resolve()
    except (RuntimeError, ValueError) as error:
        raise Damaged(f"{path}: leads nowhere ({error})") from error


def is_run(folder: Path) -> bool:
    """Whether a folder is a run: it has a folder `ledger` with a record's name in it. Others have folders of that name,
    too, with their accounts in them."""
    try:
        with os.scandir(folder / "ledger") as entries:
            return any(_RECORD.fullmatch(entry.name) for entry in entries)
    except PermissionError:  # nobody can say that it is none
        return True
    except (OSError, ValueError):
        return False


def run_around(path: Path) -> Path | None:
    """The run that a file lies in, by its name or by what its links lead to; None where it lies in none."""
    for place in (
        Path(os.path.abspath(path)),
        Path(os.path.realpath(path)),
    ):  # from within a run, `../..` leads out of it
        for folder in place.parents:
            if is_run(folder):
                return folder
    return None


def walk(folder: Path | str) -> Iterator[tuple[str, list[str], list[str]]]:
    """As os.walk from above, to any depth: that one gives up with a RecursionError where a stranger's folders are
    nested a thread's stack deep. What vanishes meanwhile, or has too long a path to be looked at, is passed over; links
    are named, and not followed."""
    waiting = [os.fspath(folder)]
    while waiting:
        here = waiting.pop()
        try:
            names = [name for name in os.listdir(here) if len(os.fsencode(os.path.join(here, name))) <= MOST_OF_A_PATH]
        except OSError:
            continue
        folders = [name for name in names if os.path.isdir(os.path.join(here, name))]
        yield here, folders, sorted({*names} - {*folders})
        below = (os.path.join(here, name) for name in reversed(folders))  # without those that were taken out of it
        waiting += [path for path in below if not os.path.islink(path)]


def require_below(root: Path, path: Path) -> None:
    """Before `path` is made, renamed or removed: the folder that it stands in is the run's, all links resolved.

    Raises:
        Damaged: a link leads it out of the run, or it is the run itself.
    """
    _folder_below(resolved(root), path)


def remove(root: Path, path: Path, strict: bool = False) -> None:
    """Remove a file, a link or a whole folder of the run `root`; what is not there is removed already. Of a folder
    something may stay, in which a dying worker of an earlier driver still writes; with `strict` that is an error.

    Raises:
        Damaged: a link leads out of the run, or its folders are nested too deeply.
        OSError: it cannot be removed.
    """
    with contextlib.suppress(FileNotFoundError), _holding(root, path) as folder:
        if not stat.S_ISDIR(os.stat(path.name, dir_fd=folder, follow_symlinks=False).st_mode):
            os.unlink(path.name, dir_fd=folder)
            return
        try:
            shutil.rmtree(path.name, ignore_errors=True, dir_fd=folder)
            if strict and os.path.lexists(path):
                shutil.rmtree(path.name, dir_fd=folder)
        except RecursionError:
            raise Damaged(f"{path}: folders are nested too deeply in it to be removed; do so by hand") from None


def rename(root: Path, old: Path, new: Path) -> None:
    """Give something of the run `root` another name in it.

    Raises:
        Damaged: a link leads the one or the other out of the run.
        OSError: it cannot be renamed; FileNotFoundError where there is nothing of the old name.
    """
    with _holding(root, old) as source, _holding(root, new) as target:
        os.rename(old.name, new.name, src_dir_fd=source, dst_dir_fd=target)


def _folder_below(here: Path, path: Path) -> Path:
    """The folder that `path` stands in, all links resolved; `here` is the run's."""
    folder = resolved(path.parent)
    if not folder.is_relative_to(here) or folder / path.name == here or path.name == "..":
        raise Damaged(f"{path}: leads out of the run, to {folder}")
    return folder


@contextlib.contextmanager
def _holding(root: Path, path: Path) -> Iterator[int]:
    """The folder that `path` stands in, as a descriptor: opened name by name from the run on, none of which may be a
    link any more. So what is swapped for a link between the look and the deed is no way out."""
    here = resolved(root)
    names = _folder_below(here, path).relative_to(here).parts
    try:
        folder = os.open(here, _FOLDER)
        try:
            for name in names:
                inner = os.open(name, _FOLDER | os.O_NOFOLLOW, dir_fd=folder)
                os.close(folder)
                folder = inner
            yield folder
        finally:
            os.close(folder)
    except OSError as error:  # which names no more than the last part
        raise OSError(error.errno, error.strerror, str(path)) from error


def regular_size(path: Path, root: Path | None = None) -> int:
    """Bytes of a file that is to be read. With `root`, it must be inside that folder, all links resolved.

    Raises:
        Damaged: it is a pipe, a device, a folder, or leads out of the run.
        OSError: it is not there, or may not be looked at.
    """
    if root is not None and not resolved(path).is_relative_to(resolved(root)):
        raise Damaged(f"{path}: leads out of the run, to {resolved(path)}")
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise Damaged(f"{path}: is no regular file")
    return status.st_size


_ODD = (errno.ELOOP, errno.ENXIO, errno.ENOTDIR, errno.EISDIR)  # ENXIO: a pipe that nobody reads


def open_to_write(path: Path) -> int:
    """The descriptor of a file that is written to where it stands, and made where it is not there: a regular one, that
    no link leads to, in whosever folder. It is open to be read, too, and what is written goes to its end.

    Raises:
        Damaged: something else stands there.
        OSError: it cannot be opened.
    """
    try:
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        descriptor = os.open(path, flags, 0o666)
    except OSError as error:
        if error.errno not in _ODD:
            raise
        raise Damaged(f"{path}: is no regular file, and nothing is written there; remove it") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise Damaged(f"{path}: is no regular file, and nothing is written there; remove it")
    return descriptor


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
        content = b""
        if status.st_size <= limit:
            content = file.read(status.st_size + 1)  # as much memory is taken, however little there is
        if status.st_size < len(content) <= limit:
            content += file.read(limit + 1 - len(content))  # it grows
    if max(status.st_size, len(content)) > limit:
        raise Damaged(f"{path}: is larger than the {limit:,} bytes that such a file may have")
    return content
