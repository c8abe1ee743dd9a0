"""A process that rests between two turns keeps its libraries and gives back all else. What it keeps is measured: a
model that something still refers to would be in the way of those whose turn it is."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import re
from pathlib import Path

import psutil

_ANONYMOUS = re.compile(r"^(?:RssAnon|RssShmem):\s+(\d+) kB$", re.MULTILINE)
_LIBRARIES = 512 * 2**20  # bytes that a first use may leave behind: code that was loaded late, caches of kernels, heaps
_SHARE = 0.05  # of what was held, likewise


class Memory:
    """What this process and its children hold of the host's memory: at the beginning, and at most since. To be made
    when libraries are loaded: what they made is not looked through for garbage again, which takes half a second."""

    def __init__(self) -> None:
        gc.collect()
        gc.freeze()
        self._before = self._most = resident()

    def look(self) -> None:
        """The process holds what it works with now."""
        self._most = max(self._most, resident())

    def kept(self, collected: bool = False) -> int:
        """Have what nothing refers to go back to the system; `collected` says that it was looked for just now. Returns
        the bytes that are still held and should not be: 0 where it is what libraries keep."""
        if not collected:
            gc.collect()
        gc.freeze()
        with contextlib.suppress(OSError, AttributeError):  # a C library without it gives back by itself
            ctypes.CDLL(None).malloc_trim(0)
        held, most, self._most = resident() - self._before, self._most - self._before, self._before
        return held if held > _LIBRARIES + _SHARE * most else 0


def resident() -> int:
    """Bytes of memory that this process and its descendants hold and that no file stands behind."""
    return sum(map(_of, [os.getpid(), *_descendants()]))


def _descendants() -> list[int]:
    return [child.pid for child in psutil.Process().children(recursive=True)]


def _of(pid: int) -> int:
    try:
        return 1024 * sum(map(int, _ANONYMOUS.findall(Path(f"/proc/{pid}/status").read_text())))
    except OSError:  # it has ended
        return 0
