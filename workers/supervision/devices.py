"""What the driver of NVIDIA devices says of them; nothing where there is none."""

from __future__ import annotations

import shutil
import subprocess


def nvidia_smi(query: str) -> list[list[str]]:
    """Rows of a query, sizes in MiB; none where there is no driver."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    command = [program, query, "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return [[field.strip() for field in line.split(",")] for line in done.stdout.splitlines() if line.strip()]


def device_holders() -> dict[str, set[int]]:
    """The processes that hold memory of each device, by its UUID; in containers the driver often does not tell."""
    held: dict[str, set[int]] = {}
    for device, pid in (row for row in nvidia_smi("--query-compute-apps=gpu_uuid,pid") if len(row) == 2):
        if pid.isdigit():
            held.setdefault(device, set()).add(int(pid))
    return held
