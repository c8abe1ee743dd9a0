"""What the driver of NVIDIA devices says of them; nothing where there is none."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from workers import cuda


def rows(query: str) -> list[list[str]]:
    """Rows of a query of the driver, sizes in MiB; none where there is no driver."""
    said = cuda.nvidia_smi(query, "--format=csv,noheader,nounits")
    return [[field.strip() for field in line.split(",")] for line in said.splitlines() if line.strip()]


def smallest_memory() -> int | None:
    """Bytes of the device with the least memory; None where the driver does not tell."""
    sizes = [int(row[0]) * 2**20 for row in rows("--query-gpu=memory.total") if row[0].isdigit()]
    return min(sizes, default=None)


def device_holders() -> dict[str, set[int]]:
    """The processes that hold memory of each device, by its UUID; in containers the driver often does not tell."""
    held: dict[str, set[int]] = {}
    for device, pid in (row for row in rows("--query-compute-apps=gpu_uuid,pid") if len(row) == 2):
        if pid.isdigit():
            held.setdefault(device, set()).add(int(pid))
    return held


def devices_short_of(share: float, environment: Mapping[str, str]) -> list[str]:
    """The devices of this process that have less than this share of their memory free, a clause each, with who holds
    it as far as the driver tells; none where there is no driver."""
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    mine = None if visible is None else [name.strip() for name in visible.split(",")]
    holders, short = device_holders(), []
    for row in rows("--query-gpu=index,uuid,memory.total,memory.free"):
        if len(row) != 4 or not (row[2].isdigit() and row[3].isdigit()):
            continue
        index, uuid, total, free = row[0], row[1], int(row[2]), int(row[3])
        if (mine is not None and index not in mine and uuid not in mine) or free >= share * total:
            continue
        held = ", ".join(f"process {pid} ({name_of(pid)})" for pid in sorted(holders.get(uuid, ())))
        by = f"held by {held}" if held else "the driver does not tell who holds the rest"
        short.append(f"device {index} has {free} of {total} MiB free, and {share:.0%} are asked for; {by}")
    return short


def name_of(pid: int) -> str:
    """A process of this node for people: its command, shortened."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        words = ""
    return words[:60] or "gone, or of another container"
