"""What the driver of NVIDIA devices says of them; nothing where there is none."""

from __future__ import annotations

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
