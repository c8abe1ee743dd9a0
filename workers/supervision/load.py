"""How busy a node is, as MLflow names it: cores, memory and devices."""

from __future__ import annotations

import psutil

from workers.supervision import devices

_DEVICE = "--query-gpu=index,utilization.gpu,memory.used,memory.total,power.draw"


def load(seconds: float | None = None) -> dict[str, float]:
    """Shares in per cent and sizes in MB. The share of cores is that of the next `seconds`, or since the last call in
    this process. Of devices, what their driver tells; nothing where there is none."""
    memory = psutil.virtual_memory()
    found = {
        "cpu_utilization_percentage": psutil.cpu_percent(seconds),
        "system_memory_usage_percentage": round(100 * (1 - memory.available / memory.total), 1),
        "system_memory_usage_megabytes": round((memory.total - memory.available) / 1e6, 1),
    }
    for row in devices.rows(_DEVICE):
        if len(row) == 5 and row[0].isdigit():
            found |= _device(row)
    return found


def _device(row: list[str]) -> dict[str, float]:
    index, *told = row
    busy, used, total, power = (_number(field) for field in told)
    found = {"utilization_percentage": busy, "power_usage_watts": power}
    if used is not None:
        found["memory_usage_megabytes"] = round(used * 2**20 / 1e6, 1)
        found["memory_usage_percentage"] = round(100 * used / total, 1) if total else None
    return {f"gpu_{index}_{name}": value for name, value in found.items() if value is not None}


def _number(field: str) -> float | None:
    try:
        return float(field)
    except ValueError:  # "[N/A]"
        return None
