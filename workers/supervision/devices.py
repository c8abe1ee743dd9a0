"""What the driver of NVIDIA devices says of them; nothing where there is none."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

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
    holders, short = device_holders(), []
    for index, uuid, total, free in _mine("memory.total,memory.free", environment):
        if free is None or total is None or free >= share * total:
            continue
        held = ", ".join(f"process {pid} ({name_of(pid)})" for pid in sorted(holders.get(uuid, ())))
        by = f"held by {held}" if held else "the driver does not tell who holds the rest"
        short.append(f"device {index} has {free} of {total} MiB free, and {share:.0%} are asked for; {by}")
    return short


def taken(environment: Mapping[str, str]) -> dict[str, int] | None:
    """Bytes of memory that are taken of each device of this process, whoever has them; None where the driver does not
    tell."""
    found = {index: used for index, _, used in _mine("memory.used", environment)}
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    complete = visible is None or len(found) == visible.count(",") + 1
    if not found or not complete or None in found.values():
        return None
    return {index: used * 2**20 for index, used in found.items()}


def _mine(fields: str, environment: Mapping[str, str]) -> Iterator[tuple[Any, ...]]:
    """Of each device of this process its index, its UUID, and these fields in MiB: None where one is not told."""
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    mine = None if visible is None else [name.strip() for name in visible.split(",")]
    for row in rows(f"--query-gpu=index,uuid,{fields}"):
        if len(row) == 3 + fields.count(",") and (mine is None or {*row[:2]} & {*mine}):  # else it is no device
            yield *row[:2], *(int(field) if field.isdigit() else None for field in row[2:])


def name_of(pid: int) -> str:
    """A process of this node for people: its command, shortened."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        words = ""
    return words[:60] or "gone, or of another container"
