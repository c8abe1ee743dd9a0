"""Paths that a run's own files name. A run may come from somebody else: no name of a record, and no link in the folder,
may have a command read, move or remove something outside of the run, or wait for what is no file at all.

`remove`, `remove_rest` and `rename` are the only ways by which something of a run goes or gets another name.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import stat
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

from orchestrator.errors import Damaged
from orchestrator.files.lack import MOST_OF_A_PATH

_RECORD = re.compile(r"[0-9]{8}\.json")
_FOLDER = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_CLOEXEC
_LISTED = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
_MADE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


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
        with _not_too_deep(path):
            shutil.rmtree(path.name, ignore_errors=True, dir_fd=folder)
            if strict and os.path.lexists(path):
                shutil.rmtree(path.name, dir_fd=folder)


def remove_rest(root: Path, path: Path, may: Callable[[], bool]) -> None:
    """Remove a folder of the run `root` whose name may be given anew, where `may` says so of what stands there now.
    What somebody makes of that name afterwards is not touched, and neither is what is no folder.

    Raises:
        Damaged: a link leads out of the run, or its folders are nested too deeply.
        OSError: it cannot be removed.
    """
    with contextlib.ExitStack() as held:
        held.enter_context(contextlib.suppress(FileNotFoundError, NotADirectoryError))
        above = held.enter_context(_holding(root, path))
        folder = held.enter_context(_listed(path.name, above))
        held.enter_context(_not_too_deep(path))
        if may():
            _remove_held(above, path.name, folder)


def rename(root: Path, old: Path, new: Path, copies: bool = True) -> None:
    """Give something of the run `root` another name in it. Some file systems do not for a folder, such as a container's
    layers (overlayfs) for one of its image: unless `copies` is False, its files are copied then, and it is removed. Cut
    off, that leaves a hidden folder as of a dead driver, or the whole copy at `new`, with a rest at `old`.

    Raises:
        Damaged: a link leads the one or the other out of the run, or folders to be copied are nested too deeply.
        OSError: it cannot be renamed; FileNotFoundError where there is nothing of the old name.
    """
    with _holding(root, old) as source, _holding(root, new) as target, _not_too_deep(old):
        try:
            os.rename(old.name, new.name, src_dir_fd=source, dst_dir_fd=target)
        except OSError as error:
            one_disk = os.fstat(source).st_dev == os.fstat(target).st_dev
            folder = stat.S_ISDIR(os.stat(old.name, dir_fd=source, follow_symlinks=False).st_mode)
            if not (copies and error.errno == errno.EXDEV and one_disk and folder):
                raise
            _move_files(source, old.name, target, new.name)


def _move_files(source: int, old: str, target: int, new: str) -> None:
    """Rename a folder by copying it: under another name first, so that it is at `new` whole or not at all."""
    copy = f".{uuid.uuid4().hex}-e0"
    with _listed(old, source) as folder:
        try:
            _copy_folder(folder, copy, target)
            os.rename(copy, new, src_dir_fd=target, dst_dir_fd=target)
        except BaseException:
            shutil.rmtree(copy, ignore_errors=True, dir_fd=target)
            raise
        with _listed(".", target) as names:  # lasting before what it is a copy of goes
            os.fsync(names)
        _remove_held(source, old, folder)


def _remove_held(above: int, name: str, folder: int) -> None:
    """Remove a folder that is open: by its descriptor, since another may get its name once it begins to go."""
    shutil.rmtree(".", ignore_errors=True, dir_fd=folder)
    os.rmdir(name, dir_fd=above)


def _copy_folder(folder: int, name: str, target: int) -> None:
    """Copy an open folder of regular files and folders to `name` in `target`; all of it is on the disk then.

    Raises:
        OSError: EXDEV where something else is in it, which only a rename would keep; others of the disk.
    """
    os.mkdir(name, dir_fd=target)
    with _listed(name, target) as made:
        for inner in os.listdir(folder):
            mode = os.stat(inner, dir_fd=folder, follow_symlinks=False).st_mode
            if stat.S_ISDIR(mode):
                with _listed(inner, folder) as below:
                    _copy_folder(below, inner, made)
            elif stat.S_ISREG(mode):
                _copy_file(inner, folder, made)
            else:
                raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), inner)
        os.fsync(made)


def _copy_file(name: str, folder: int, made: int) -> None:
    with os.fdopen(os.open(name, _READ, dir_fd=folder), "rb") as old:
        status = os.fstat(old.fileno())
        if not stat.S_ISREG(status.st_mode):  # it has become another since
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), name)
        with os.fdopen(os.open(name, _MADE, dir_fd=made), "wb") as new:
            shutil.copyfileobj(old, new, 1 << 20)
            new.flush()
            os.fchmod(new.fileno(), stat.S_IMODE(status.st_mode))
            os.fsync(new.fileno())


@contextlib.contextmanager
def _not_too_deep(path: Path) -> Iterator[None]:
    try:
        yield
    except RecursionError:
        raise Damaged(f"{path}: folders are nested too deeply in it to be removed; do so by hand") from None


@contextlib.contextmanager
def _listed(name: str, folder: int) -> Iterator[int]:
    """A folder in another, as a descriptor by which it can be listed and synced. It may be no link."""
    descriptor = os.open(name, _LISTED, dir_fd=folder)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


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
