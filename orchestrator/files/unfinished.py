"""What a command is making outside of a run's own folders: at a hidden name that says who makes it, until it is whole.

    .irpo-2.fork-9f3c21aa-4711-8812345      .LABEL-HOST-PID-START

So a killed command's left-overs are known as such, and the next one removes them; a living one's are let be, and so are
those of another host, whose processes cannot be seen from here.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

from orchestrator.errors import BadInput
from orchestrator.files.disk import one_message
from orchestrator.files.durable import sync
from orchestrator.files.inside import remove
from orchestrator.files.processes import process_start

_MAKER = re.compile(r"-([0-9a-f]{8})-(\d{1,10})-(\d{1,20})")
_SPARE = 12  # a run's folders are 4 deep, and a model's in them may be deeper
_LONGEST = 180  # bytes of a label: a name may have 255, and the maker stands behind it


def hidden(folder: Path, label: str) -> Path:
    """Where this process makes what `label` names, in `folder`."""
    pid = os.getpid()
    return folder / f"{_prefix(label)}-{_host()}-{pid}-{_start(pid)}"


def maker(folder: Path, label: str) -> int | None:
    """Another living process of this host that makes the same right now."""
    others = (pid for _, pid, alive in _found(folder, label) if alive and pid != os.getpid())
    return next(others, None)


def tidy(folder: Path, label: str) -> None:
    """Remove what dead processes of this host, or this one earlier, have left of it. What cannot be removed stays."""
    for path, pid, alive in _found(folder, label):
        if alive and pid != os.getpid():
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                path.unlink()


def spare_descriptors() -> contextlib.ExitStack:
    """Descriptors for the removal of what cannot be made whole, which takes one a level of its folders: they are closed
    before it, or where the process may open no more files, nothing could be removed either.

    Raises:
        OSError: there are none, and nothing should be begun.
    """
    with contextlib.ExitStack() as spare:
        for _ in range(_SPARE):
            spare.callback(os.close, os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
        return spare.pop_all()


@contextlib.contextmanager
def whole_folder(target: Path, label: str, then: str, taken: Callable[[], str]) -> Iterator[Path]:
    """Make the folder `target` whole, or not at all: the block makes the folder that it is given, which gets that name
    at the end, where nothing or an empty folder has it.

    Raises:
        BadInput: another process of this host makes it, or somebody was faster, which `taken` says.
        RatchetError: the disk refuses; `then` says what that means.
    """
    if (other := maker(target.parent, label)) is not None:
        raise BadInput(f"{target}: process {other} on this host is making it. Wait for it, or stop it.")
    with one_message(target, then, target.parent), spare_descriptors() as spare:
        tidy(target.parent, label)
        building = hidden(target.parent, label)
        try:
            yield building
            _place(building, target, taken)
        except BaseException:
            spare.close()
            remove(building.parent, building)
            raise


def _place(building: Path, target: Path, taken: Callable[[], str]) -> None:
    for folder, _, _ in os.walk(building):  # the names of its files outlast a power cut as their bytes do
        sync(Path(folder))
    try:
        os.rename(building, target)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise
        raise BadInput(taken()) from error
    sync(target.parent)


def replace(path: Path, content: bytes) -> None:
    """Write a file atomically and durably, as `durable.replace`; what a killed process left of it is removed."""
    label = f"{path.name}.new"
    tidy(path.parent, label)
    new = hidden(path.parent, label)
    try:
        with open(new, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(new, path)
    finally:
        new.unlink(missing_ok=True)
    sync(path.parent)


def _found(folder: Path, label: str) -> Iterator[tuple[Path, int, bool]]:
    """What this host's processes have in the making, or left: each with the process, and whether that one lives."""
    prefix = _prefix(label)
    try:
        names = [name for name in os.listdir(folder) if name.startswith(prefix)]
    except OSError:
        return
    for name in names:
        made_by = _MAKER.fullmatch(name.removeprefix(prefix))
        if made_by and made_by[1] == _host():
            pid = int(made_by[2])
            yield folder / name, pid, _start(pid) == int(made_by[3]) and _lives(pid)


def _prefix(label: str) -> str:
    name = label if len(os.fsencode(label)) <= _LONGEST else hashlib.sha256(os.fsencode(label)).hexdigest()
    return f".{name}"


def _host() -> str:
    return hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's
        return True
    return True


def _start(pid: int) -> int:
    """When a process started, in hundredths of a second since boot: numbers of dead ones are given out again. 0 where
    that cannot be read: there is no such process, or no file may be opened."""
    return round(100 * (process_start(pid) or 0))
