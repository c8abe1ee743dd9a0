"""A process that rests between two turns keeps its libraries and gives back all else. What it keeps is measured: a
model that something still refers to would be in the way of those whose turn it is."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import re
import time
from pathlib import Path
from typing import NamedTuple

import psutil

from workers.supervision.devices import taken

_ANONYMOUS = re.compile(r"^(?:RssAnon|RssShmem):\s+(\d+) kB$", re.MULTILINE)
_LIBRARIES = 512 * 2**20  # bytes that a first use may leave behind: code that was loaded late, caches of kernels, heaps
_BESIDE_A_DEVICE = 3 * 2**30  # likewise, where a device is used: what its driver and its libraries keep. Not seen yet
_SHARE = 0.05  # of what was held, likewise
CONTEXT = 2 * 2**30
"""Bytes of a device that a process may keep while it rests, for its libraries: a context, kernels, what they reckon in.
Not seen on one yet."""
_FREED_SECONDS = 10.0  # within which a driver has taken note of what was given back


class Kept(NamedTuple):
    """What a process keeps while it rests."""

    host: int = 0
    """Bytes of the host's memory that should be free and are not."""
    device: int | None = 0
    """Bytes of a device, the one with the most; None where nobody tells."""
    asleep: bool = False
    """Whether it is an engine that can take weights again."""


class Memory:
    """What this process and its children hold of the host's memory: at the beginning, and at most since. To be made
    when libraries are loaded: what they made is not looked through for garbage again, which takes half a second.
    `accelerated`: they are those of a device, too."""

    def __init__(self, accelerated: bool = False) -> None:
        self._libraries = _BESIDE_A_DEVICE if accelerated else _LIBRARIES
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
        return held if held > self._libraries + _SHARE * most else 0


class DeviceMemory:
    """What this process and its children keep of their devices, of all turns that they have had: by how much more is
    taken after each than was before it. The driver often does not tell by whom; but nobody else begins or ends to use
    the devices during a turn."""

    def __init__(self) -> None:
        self._before: dict[str, int] | None = {}  # no turn has begun
        self._kept: dict[str, int] = {}

    def begin(self) -> None:
        """A turn begins."""
        self._before = taken(os.environ)

    def kept(self) -> int | None:
        """Bytes that are kept of the device with the most, when a turn is over; None where the driver does not tell."""
        deadline = time.monotonic() + _FREED_SECONDS
        while True:
            before, now = self._before, taken(os.environ) if self._before else self._before
            if before is None or now is None or before.keys() != now.keys():
                return None
            kept = {name: max(0, self._kept.get(name, 0) + now[name] - before[name]) for name in now}
            if max(kept.values(), default=0) <= CONTEXT or time.monotonic() > deadline:
                self._kept, self._before = kept, now
                return max(kept.values(), default=0)
            time.sleep(0.5)


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
