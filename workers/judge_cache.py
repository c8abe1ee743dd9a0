"""What a judge has answered, and how often it was asked, on the disk: safe under threads, processes and crashes."""

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

_MAX_ANSWER = 1 << 22  # bytes


def _regular(path: str, flags: int) -> int:
    """Open a file of a run, which may come from somebody else: never waits for a pipe, writes to no device, and follows
    no link."""
    descriptor = os.open(path, flags | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "is no regular file", path)
    return descriptor


class JudgeCache:
    """A folder with a small file an answer, and the file `requests`, of one byte a request. Without a folder nothing
    is kept, and requests are counted for this object alone."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._counted, self._lock = 0, threading.Lock()
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)

    def get(self, key: str) -> Any:
        """The JSON value that was put there; None where there is none, or no whole one."""
        if self._folder is None:
            return None
        try:
            with open(self._path(key), "rb", opener=_regular) as file:
                return json.loads(file.read(_MAX_ANSWER))
        except (OSError, ValueError, RecursionError):
            return None

    def put(self, key: str, value: Any) -> None:
        """Keep a JSON value: whole or not at all, the last of several."""
        if self._folder is None:
            return
        path = self._path(key)
        path.parent.mkdir(exist_ok=True)
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
            file = open_.enter_context(open(self._folder / "requests", "ab", opener=_regular))
            fcntl.flock(file, fcntl.LOCK_EX)  # gone when the file is closed
            if limit is not None and os.fstat(file.fileno()).st_size >= limit:
                return False
            file.write(b".")
            return True

    def _path(self, key: str) -> Path:
        assert self._folder is not None
        return self._folder / key[:2] / f"{key}.json"
