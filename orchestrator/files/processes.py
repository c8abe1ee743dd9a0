"""Processes of this machine, told by their ids and by when they started: an id is given out again."""

from __future__ import annotations

import os
from pathlib import Path


def process_start(pid: int) -> float | None:
    """When a process started, in seconds since boot; None for no such process, a zombie, or no /proc."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()  # the program's name, in parentheses, may hold anything
    if fields[0] in "ZX":
        return None
    return int(fields[19]) / os.sysconf("SC_CLK_TCK")


def pid_namespace() -> int | None:
    """What tells this process's numbers of processes from those of a container on the same host; None without /proc."""
    try:
        return os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return None


def pid_exists(pid: int) -> bool:
    """Whether there is a process of this number on this machine, whoever's it is."""
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except OSError:
        return False
    return True
