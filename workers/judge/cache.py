"""What a judge has answered, and how often it was asked, on the disk: safe under threads, processes and crashes.

The folder is a run's, which may come from somebody else: no link in it is followed, and no pipe or device waited for.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import stat
import threading
import uuid
from pathlib import Path
from typing import Any

from orchestrator.errors import Damaged

_MOST_BYTES = 16 * 2**20  # of an answer


class JudgeCache:
    """A folder with a small file an answer, and the file `requests`, of one byte a request. Without a folder nothing
    is kept, and requests are counted for this object alone.

    Every method raises Damaged where a link leads out of the folder, or something else stands in a file's place.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._counted, self._lock = 0, threading.Lock()
        if folder is not None:
            _make_real(folder)

    def get(self, key: str) -> Any:
        """The JSON value that was put there; None where there is none, or no whole one."""
        if self._folder is None:
            return None
        try:
            with open(_opened(self._path(key), os.O_RDONLY), "rb") as file:
                return json.loads(file.read(_MOST_BYTES))
        except (FileNotFoundError, ValueError, RecursionError):
            return None

    def put(self, key: str, value: Any) -> None:
        """Keep a JSON value: whole or not at all, the last of several."""
        if self._folder is None:
            return
        path = self._path(key)
        _make_real(path.parent)
        temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
        try:
            temporary.write_text(json.dumps(value) + "\n")
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)

    def count_request(self, limit: int | None) -> bool:
        """Count one more request, before it is sent; False, and not counted, where there were `limit` already."""
        with self._lock, contextlib.ExitStack() as open_:
            if self._folder is None:
                free = limit is None or self._counted < limit
                self._counted += free
                return free
            requests = _opened(self._folder / "requests", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
            file = open_.enter_context(open(requests, "ab"))
            fcntl.flock(file, fcntl.LOCK_EX)  # gone when the file is closed
            if limit is not None and os.fstat(file.fileno()).st_size >= limit:
                return False
            file.write(b".")
            return True

    def _path(self, key: str) -> Path:
        assert self._folder is not None
        folder = self._folder / key[:2]
        if folder.is_symlink():
            raise Damaged(f"{folder}: is a link, which may lead out of the run; remove it")
        return folder / f"{key}.json"


def _make_real(folder: Path) -> None:
    """Make a folder, if it is not there."""
    if folder.is_symlink():
        raise Damaged(f"{folder}: is a link, which may lead out of the run; remove it")
    try:
        folder.mkdir(exist_ok=True)
    except FileExistsError:
        raise Damaged(f"{folder}: is no folder; remove it") from None


def _opened(path: Path, flags: int) -> int:
    """The descriptor of a regular file."""
    try:
        descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.ENXIO, errno.ENOTDIR, errno.EISDIR):  # ENXIO: a pipe without a reader
            raise
        raise Damaged(f"{path}: is no regular file; remove it") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise Damaged(f"{path}: is no regular file; remove it")
    return descriptor
