"""What a worker prints, kept in the run's folder, where one command finds it (orchestrator/reports/worker_logs.py).

    logs/e2/engine-0.log    of driver 2, engine 0: all that its process, and what that starts, print
    {"ratchet": "begins", "at": 1790000000.2, "step": "rounds/01/samples", "shard": 3, "host": ..., "pid": ...}

Such a line, a mark, says at what the worker is from there on. The descriptors lead to the file, not a thread in
between: so the last words of a process that crashes are kept, too. What Ray keeps of a worker ends with a line that
names the file.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import socket
import stat
import sys
import time
from collections.abc import Iterator
from typing import Any

_HIDDEN = re.compile(r"\.(.+?)(?:-e\d+(?:-a\d+)?)(?:\..*)?")  # of orchestrator.ledger.run, Run.hidden
_MOST = 1000  # characters of a value in a mark


def logged(actor: Any, log: str | None) -> Any:
    """An actor's class whose process prints into the file `log`; it takes it before its other arguments. Where there
    is none, it is the class as it was."""

    class Logged(actor):
        def __init__(self, log: str, *arguments: Any) -> None:
            keep(log)
            super().__init__(*arguments)

    Logged.__name__ = Logged.__qualname__ = actor.__name__  # by which Ray calls the process
    return Logged if log else actor


class _Log:
    """The file of this process."""

    def __init__(self, path: str) -> None:
        self.run = os.path.dirname(os.path.dirname(os.path.dirname(path)))
        self.who = {"host": socket.gethostname(), "pid": os.getpid()}

    def mark(self, word: str, **about: Any) -> None:
        said = {"ratchet": word, "at": round(time.time(), 3)} | about | self.who
        line = json.dumps({key: value[:_MOST] if isinstance(value, str) else value for key, value in said.items()})
        with contextlib.suppress(OSError):  # a full disk ends the work by its own words, not by ours
            os.write(1, f"{line}\n".encode())


_log: _Log | None = None


def opened(path: str) -> int:
    """A descriptor to write to the end of a file in the folder of a run, which is made; it follows no link there.

    Raises:
        OSError: it cannot be opened, or is no regular file.
    """
    folder = os.path.dirname(path)
    for each in (os.path.dirname(folder), folder):  # the run's own, which may have been moved, is not made anew
        with contextlib.suppress(FileExistsError):
            os.mkdir(each)
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    file = os.open(path, flags, 0o666)
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise OSError(errno.EINVAL, "it is no regular file", path)
    return file


def keep(path: str) -> None:
    """Have this process, and what it starts, print into a file in the folder of a run. Where that cannot be opened, as
    on a node that does not see the folder, or is no regular file, all stays as it is."""
    global _log
    try:
        file = opened(path)
    except OSError as error:
        print(f"ratchet: cannot be written to {path}: {error.strerror}", flush=True)
        return
    try:
        print(f"ratchet: goes on in {path}", flush=True)
        sys.stderr.flush()
        for number in (1, 2):
            os.dup2(file, number, inheritable=True)
    finally:
        os.close(file)
    _log = _Log(path)
    _log.mark("starts")


@contextlib.contextmanager
def at_work(path: str, shard: int | None = None) -> Iterator[None]:
    """Around a piece of work whose output goes to `path`, a file or folder of the run, hidden or not: what is printed
    meanwhile is of that step, and shard."""
    if _log is None:
        yield
        return
    about: dict[str, Any] = {"step": step_of(os.path.relpath(path, _log.run), shard is not None)}
    if shard is not None:
        about["shard"] = shard
    _log.mark("begins", **about)
    try:
        yield
    except BaseException as error:
        _log.mark("fails", **about, why=f"{type(error).__name__}: {error}")
        raise
    _log.mark("ends", **about)


def step_of(path: str, file: bool) -> str:
    """The step that a path in a run belongs to; of a file of a step, such as a shard's, without its name.

    Example: step_of("rounds/01/samples/.00003.parquet-e2-a7", True) is "rounds/01/samples".
    """
    names = [found[1] if (found := _HIDDEN.fullmatch(name)) else name for name in path.split(os.sep)]
    return "/".join(names[:-1] if file else names)
