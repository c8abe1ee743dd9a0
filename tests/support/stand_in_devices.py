"""Devices that are a file each: what is taken of them, in MiB, as a made-up nvidia-smi tells it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from orchestrator.config import Generate
from tests.support.stand_in_engine import StandInEngine
from tests.support.stand_in_ranks import Rank
from workers.generation.engine import EngineKind
from workers.supervision.named_devices import name_devices
from workers.supervision.resting import DeviceMemory, Kept

FOLDER = "STAND_IN_DEVICES"
_SAYS = """#!/bin/sh
[ -e "$STAND_IN_DEVICES/silent" ] && exit 9
case "$1" in *memory.used)
    for file in "$STAND_IN_DEVICES"/[0-9]; do name=$(basename "$file"); echo "$name, GPU-$name, $(cat "$file")"; done;;
esac
"""


def make_devices(folder: Path, count: int) -> dict[str, str]:
    """Devices, of whose memory 10 MiB are taken; returns what processes need in their environment to see them."""
    program = folder / "bin/nvidia-smi"
    program.parent.mkdir(parents=True)
    program.write_text(_SAYS)
    program.chmod(0o755)
    for number in range(count):
        (folder / str(number)).write_text("10")
    return {"PATH": f"{program.parent}{os.pathsep}{os.environ['PATH']}", FOLDER: str(folder)}


def taken(folder: Path) -> list[int]:
    return [int(file.read_text()) for file in sorted(folder.glob("[0-9]"))]


def take(mib: int) -> None:
    """So much of each device that this process sees; less where that is negative."""
    for name in os.environ["CUDA_VISIBLE_DEVICES"].split(","):
        file = Path(os.environ[FOLDER], name)
        file.write_text(str(int(file.read_text()) + mib))


CONTEXT, HELD = 600, 60_000
"""MiB that a stand-in keeps of a device, and that it works with."""


class DeviceEngine(StandInEngine):
    """A file `leaks` in the folder of its model says how many MiB more of a device stay when it gives that back."""

    _used = False  # whether this process has a context

    def __init__(self, model: str, settings: Generate, seed: int, accelerated: bool) -> None:
        super().__init__(model, settings, seed, accelerated)
        take(HELD + (0 if DeviceEngine._used else CONTEXT))
        DeviceEngine._used = True

    def _give_back(self) -> None:
        leaks = self.folder / "leaks"
        take((int(leaks.read_text()) if leaks.exists() else 0) - HELD)

    def sleep(self) -> bool:
        if asleep := super().sleep():
            self._give_back()
        return asleep

    def load_weights(self, model: str) -> None:
        if self.asleep:
            take(HELD)
        super().load_weights(model)

    def close(self) -> None:
        if not self.closed:
            self._give_back()
        super().close()


ON_DEVICES = EngineKind("the stand-in", DeviceEngine)


class DeviceRank(Rank):
    """A rank with a device. LEAKS in its environment is as the file of an engine."""

    def __init__(self, settings: dict[str, Any], rank: int, ranks: int) -> None:
        name_devices(os.environ)
        super().__init__(settings, rank, ranks)
        self.devices, self.context = DeviceMemory(), CONTEXT

    def connect(self, rendezvous: str) -> int:
        self.devices.begin()
        take(HELD + self.context)
        self.context = 0
        return super().connect(rendezvous)

    def rest(self) -> Kept:
        take(int(os.environ.get("LEAKS", "0")) - HELD)
        return super().rest()._replace(device=self.devices.kept())
