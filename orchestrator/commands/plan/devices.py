"""GPUs by name, with what their makers publish of them, and clusters as `--cluster` names them. Pure.

The figures are those of NVIDIA's data sheets: dense bfloat16 products without sparsity, and the bandwidth of the
memory. Memory is what a driver leaves of the data sheet's, which is some hundredths less.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.driver.fitting import Gpus
from orchestrator.errors import BadInput

GIB = 2**30
_MOST = 10**5
_CLUSTER = re.compile(r"(?:(\d{1,6})x)?(?:(\d{1,6})x)?([A-Za-z][A-Za-z0-9-]*)")


@dataclass(frozen=True)
class Device:
    """What one of a kind can do at most."""

    name: str
    memory: int
    """Bytes."""
    flops: float
    """Operations a second, of products of bfloat16 matrices; on processors of float32."""
    bandwidth: float
    """Bytes a second, of its memory."""


def _gpu(name: str, gib: float, tera: float, gigabytes: float) -> Device:
    return Device(name, int(gib * GIB), tera * 1e12, gigabytes * 1e9)


DEVICES = {
    device.name: device
    for device in (
        _gpu("A10", 22, 125, 600),
        _gpu("L4", 22, 121, 300),
        _gpu("L40S", 44, 362, 864),
        _gpu("A100-40GB", 39, 312, 1555),
        _gpu("A100-80GB", 79, 312, 2039),
        _gpu("H100-PCIe", 79, 756, 2000),
        _gpu("H100", 79, 989, 3350),
        _gpu("H200", 139, 989, 4800),
        _gpu("B200", 178, 2250, 8000),
    )
}
"""H100 and H200 are the SXM modules, the A100-80GB too."""
SOURCE = "NVIDIA's data sheet"


@dataclass(frozen=True)
class Asked:
    """A cluster that a job is planned for."""

    nodes: Sequence[Gpus]
    device: Device

    def __str__(self) -> str:
        each = f"{self.nodes[0].count} x {self.device.name}"
        return each if len(self.nodes) == 1 else f"{len(self.nodes)} nodes with {each}"


def cluster(text: str) -> Asked:
    """What `8xH100`, one node, or `4x8xH100`, four of them, stands for.

    Raises:
        BadInput: it is none of these, or the GPU is not known.
    """
    found = _CLUSTER.fullmatch(text)
    names = {name.casefold(): device for name, device in DEVICES.items()}
    device = names.get(found[3].casefold()) if found else None
    if found is None or device is None:
        raise BadInput(
            f"--cluster: {text!r} is not known. Write such as 8xH100, or 4x8xH100 for four nodes, with one "
            f"of {', '.join(DEVICES)}"
        )
    numbers = [int(number) for number in found.groups()[:2] if number]
    count, nodes = numbers[-1] if numbers else 1, numbers[0] if len(numbers) == 2 else 1
    if not count or not nodes or count * nodes > _MOST:
        raise BadInput(f"--cluster: {text!r} asks for {count * nodes:,} GPUs; from 1 to {_MOST:,} can be planned for")
    return Asked([Gpus(count, device.memory)] * nodes, device)


def named(name: str) -> Device | None:
    """The device that a driver calls so, such as "NVIDIA H100 80GB HBM3"; None where it is not known."""
    words = set(re.split(r"[\s-]+", name.casefold()))
    fits = [device for key, device in DEVICES.items() if set(key.casefold().split("-")) <= words]
    return max(fits, key=lambda device: len(device.name), default=None)
