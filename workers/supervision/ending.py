"""Is a phase over on a node? Its processes are gone, and with them their memory.

An engine or a rank that was ended may have children that outlive it for a while, and hold the memory of a device that
the next phase asks for. All of them have the phase's mark in their environment, whoever their parent is by then; no
other process has, so that nobody else's is ever waited for or ended.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

from workers.supervision.devices import device_holders, name_of

VARIABLE = "RATCHET_PHASE"  # set by orchestrator.driver.placement
_LOOK_SECONDS = 0.1


def phase_over(mark: str, patience: float) -> list[str]:
    """Wait until no process of this node has the mark, and devices that one of them used have its memory back. After
    `patience` seconds those that are left are killed; each further wait has as long. Returns what is still not as it
    should be, a clause each: who holds what."""
    held = {device: pids & set(_marked(mark)) for device, pids in device_holders().items()}
    if not _until(lambda: not _marked(mark), patience):
        for pid in _marked(mark):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        _until(lambda: not _marked(mark), patience)
    left = [f"process {pid} ({name_of(pid)}) of the phase before does not end" for pid in _marked(mark)]
    if used := {device: pids for device, pids in held.items() if pids}:
        _until(lambda: not any(used.get(device, set()) & pids for device, pids in device_holders().items()), patience)
        left += [
            f"memory of device {device} is held by process {pid} ({name_of(pid)})"
            for device, pids in sorted(device_holders().items())
            for pid in sorted(pids)
            if device in used
        ]
    return left


def _until(over: Callable[[], bool], seconds: float) -> bool:
    """Whether something came about in so many seconds."""
    deadline = time.monotonic() + seconds
    while not over():
        if time.monotonic() > deadline:
            return False
        time.sleep(_LOOK_SECONDS)
    return True


def _marked(mark: str) -> list[int]:
    """Living processes with the mark in the environment that they were started with. A zombie has none, and holds
    nothing."""
    wanted, found = f"{VARIABLE}={mark}".encode(), []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):  # it ended, or is another user's
                if wanted in (entry / "environ").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
    return sorted(found)
