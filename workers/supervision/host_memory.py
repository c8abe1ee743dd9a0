"""What a host has of memory, as its kernel tells."""

from __future__ import annotations

import contextlib
from pathlib import Path


def host_memory() -> tuple[int, int]:
    """Total and available bytes, of the container where one sets a limit."""
    lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    total, available = (int(lines[key].split()[0]) * 1024 for key in ("MemTotal", "MemAvailable"))
    group = Path("/sys/fs/cgroup")
    with contextlib.suppress(OSError, ValueError):  # no limit is the word `max`
        limit = int((group / "memory.max").read_text())
        statistics = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        used = int((group / "memory.current").read_text()) - int(statistics["inactive_file"])
        total, available = min(total, limit), min(available, max(0, limit - used))
    return total, available


def free_memory() -> int:
    """Bytes that are available."""
    return host_memory()[1]
