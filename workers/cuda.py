"""Whether a host's driver and compiler fit the CUDA that the installed wheels are built for; none of them is imported.

.venv/bin/python -c 'from workers import cuda; print(*cuda.lines(cuda.seen()), sep="\\n")'
"""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

_WHEELS = re.compile(r"nvidia-cuda-runtime(-cu\d+)?")
_LITTLE_SHM = 2**30  # bytes


class Problem(NamedTuple):
    """What does not fit, and what to do. One that is `fatal` keeps work off the accelerators."""

    text: str
    cure: str
    fatal: bool = False


def nvcc(environment: Mapping[str, str]) -> str | None:
    """The compiler that FlashInfer takes when an engine starts: of CUDA_HOME or CUDA_PATH, else the first of PATH, else
    that of /usr/local/cuda; None where it is missing."""
    home = environment.get("CUDA_HOME") or environment.get("CUDA_PATH")
    if home:
        return shutil.which(os.path.join(home, "bin", "nvcc"))
    return shutil.which("nvcc", path=environment.get("PATH", "")) or shutil.which("/usr/local/cuda/bin/nvcc")


def seen() -> dict[str, Any]:
    """Versions of CUDA, as far as there are any: the newest that the `driver` takes, and that of the `wheels`; where
    `nvcc` is, and how many bytes /dev/shm has."""
    return {
        "driver": driver_of(nvidia_smi()),
        "wheels": _wheels(),
        "nvcc": nvcc(os.environ),
        "shm": shutil.disk_usage("/dev/shm").total if Path("/dev/shm").is_dir() else 0,
    }


def nvidia_smi(*arguments: str) -> str:
    """What the driver's own program says; nothing where there is none, or it fails."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return ""
    try:
        return subprocess.run([program, *arguments], capture_output=True, text=True, timeout=30, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return ""


def driver_of(said: str) -> str | None:
    """The newest CUDA that a driver takes, from what `nvidia-smi` says: "13.0"; None where there is no driver."""
    found = re.search(r"CUDA (?:UMD )?Version:?\s*(\d+\.\d+)", said)
    return found[1] if found else None


def problems(facts: Mapping[str, Any]) -> list[Problem]:
    """What does not fit of what was `seen`; of a host without a driver, nothing."""
    driver, wheels, found = facts["driver"], facts["wheels"], []
    if driver is None:
        return []
    if wheels is None:
        cure = "make setup-gpu installs the pinned ones"
        found.append(Problem("the installed packages are built without CUDA", cure, True))
    elif int(driver.partition(".")[0]) < int(wheels.partition(".")[0]):  # within a major version any driver will do
        cure = f"install a driver for CUDA {wheels.partition('.')[0]}, or NVIDIA's compatibility package for it"
        found.append(Problem(f"the driver takes CUDA {driver}, and the packages need {wheels}", cure, True))
    if facts["nvcc"] is None:
        cure = "nothing need be done; with nvcc and CUDA_HOME it is used"
        found.append(Problem("without nvcc, engines do not use FlashInfer's sampler", cure))
    if facts["shm"] < _LITTLE_SHM:
        cure = "start its container with --shm-size=16g, or with the host's (--ipc=host)"
        found.append(Problem(f"/dev/shm has {facts['shm'] / 2**20:.0f} MiB, over which accelerators talk", cure))
    return found


def lines(facts: Mapping[str, Any]) -> list[str]:
    """The same for people who set a host up, a line each."""
    if facts["driver"] is None:
        return ["no GPU's driver answers here (nvidia-smi), so nothing is checked; that is no fault on another host"]
    found = [f"{'ERROR: ' if p.fatal else ''}{p.text}: {p.cure}" for p in problems(facts)]
    return found or [f"the driver takes CUDA {facts['driver']}, the packages need {facts['wheels']}; nvcc is there"]


def _wheels() -> str | None:
    """The CUDA that torch is built for, by the runtime that its wheel brings."""
    for package in importlib.metadata.distributions():
        if _WHEELS.fullmatch(package.metadata["Name"] or ""):
            return ".".join(package.version.split(".")[:2])
    return None
