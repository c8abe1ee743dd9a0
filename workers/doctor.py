"""What `ratchet doctor` runs on the nodes, and on the training ranks. Only what is asked of the ranks needs torch."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from workers import cuda
from workers.supervision import devices
from workers.supervision.host_memory import host_memory

_NOTICE_SECONDS = 10.0  # a network file system may show another node's new file late
_ALL_REDUCE_FLOATS = {"nccl": 2**26, "gloo": 2**20}
_WORTH_NAMING = 256 * 2**20  # bytes; an idle worker process of Ray takes less


def versions(packages: Sequence[str]) -> dict[str, str]:
    """Versions of Python and of those packages that are installed here; nothing is imported."""
    found = {"python": platform.python_version()}
    for package in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


def exchange(folder: str, token: str) -> str:
    """Read the driver's file in `folder`, and write one of this node's own; returns its name.

    Raises:
        OSError: the folder or the file is not there, holds something else, or nothing can be written.
    """
    theirs, deadline = Path(folder) / "driver", time.monotonic() + _NOTICE_SECONDS
    while not theirs.is_file():
        if time.monotonic() > deadline:
            raise FileNotFoundError(f"{folder} is not the folder that the driver sees")
        time.sleep(0.2)
    if theirs.read_text() != token:
        raise OSError(f"{theirs} does not hold what the driver wrote")
    mine = Path(folder) / f"node-{platform.node()}-{os.getpid()}"
    mine.write_text(token)
    return mine.name


def file_sizes(folder: str) -> dict[str, int]:
    """Size of each file of a model folder by name; empty where there is no such folder."""
    place = Path(folder)
    return {file.name: file.stat().st_size for file in place.iterdir() if file.is_file()} if place.is_dir() else {}


def machine() -> dict[str, Any]:
    """Memory in bytes, cores, accelerators, and the processes there are, of the node this runs on."""
    total, available = host_memory()
    shm = shutil.disk_usage("/dev/shm") if Path("/dev/shm").is_dir() else None
    return {
        "cores": len(os.sched_getaffinity(0)),
        "memory_total": total,
        "memory_available": available,
        "shm_total": shm.total if shm else 0,
        "shm_free": shm.free if shm else 0,
        "accelerators": accelerators(),
        "cuda": (found := cuda.seen()) | {"problems": [problem._asdict() for problem in cuda.problems(found)]},
        "processes": sorted(_processes()),
    }


def holders(before: Sequence[tuple[int, int, int]] | None, job: str, engine_title: str = "") -> list[dict[str, Any]]:
    """Processes that have taken memory since `before` (what `machine` said), the largest first; sizes in bytes.

    `ours` says which were started by Ray for `job` on this node, as engines and ranks are, or by an engine, which gives
    them titles that begin with `engine_title`. Ray also gives work to processes that it has started earlier, so that
    what was there before counts by its growth.
    """
    earlier = {(pid, start): resident for pid, start, resident in before or ()}
    on_device = _device_memory()
    marks = {f"RAY_JOB_ID={job}".encode(), f"RAY_RAYLET_PID={os.environ.get('RAY_RAYLET_PID')}".encode()}
    found = []
    for pid, start, resident in _processes():
        with contextlib.suppress(OSError):
            known = (pid, start) in earlier
            grown, device = resident - earlier.get((pid, start), 0), 0 if known else on_device.get(pid, 0)
            if pid == os.getpid() or (grown < _WORTH_NAMING and not device):
                continue
            name = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
            ours = marks <= set(Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"))
            ours |= bool(engine_title) and name.startswith(engine_title)
            found.append({"pid": pid, "name": name[:60], "memory": grown, "device_memory": device, "ours": ours})
    return sorted(found, key=lambda process: -(process["memory"] + process["device_memory"]))


def accelerators() -> list[dict[str, Any]]:
    """NVIDIA devices of this node with their memory in bytes, whoever uses them; none without `nvidia-smi`."""
    rows = devices.rows("--query-gpu=index,name,memory.total,memory.free")
    return [
        {"index": int(index), "name": name, "total": int(total) * 2**20, "free": int(free) * 2**20}
        for index, name, total, free in rows
        if total.isdigit() and free.isdigit()
    ]


def all_reduce(trainer: Any) -> dict[str, Any]:
    """Sum a tensor over the process group of a rank's Trainer: is the sum right, and how long does it take?"""
    import torch
    import torch.distributed as dist

    backend = str(dist.get_backend())
    size = _ALL_REDUCE_FLOATS[backend]
    seconds, correct = [], True
    for _ in range(3):  # the first one builds the connections
        values = torch.full((size,), float(trainer.rank + 1), device=trainer.device)
        dist.barrier()
        started = time.perf_counter()
        dist.all_reduce(values)
        correct &= bool((values == trainer.ranks * (trainer.ranks + 1) / 2).all())  # waits for the device as well
        seconds.append(time.perf_counter() - started)
    return {"backend": backend, "bytes": 4 * size, "first": seconds[0], "seconds": min(seconds), "correct": correct}


def peak_memory(trainer: Any) -> dict[str, int]:
    """Most bytes that a rank's process has held at once: in host memory, and on its device."""
    import torch

    device = torch.cuda.max_memory_reserved(trainer.device) if trainer.use_cuda else 0
    return {"host": _status(os.getpid(), "VmHWM"), "device": device}


def _processes() -> Iterator[tuple[int, int, int]]:
    """Every process: its id, when it started in clock ticks since boot, and its memory in bytes."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                start = int((entry / "stat").read_text().rpartition(")")[2].split()[19])
                yield int(entry.name), start, _status(int(entry.name), "VmRSS")


def _status(pid: int, key: str) -> int:
    """A size in bytes from a process's status; 0 where it has none, as a zombie."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1]) * 1024
    return 0


def _device_memory() -> dict[int, int]:
    """Bytes of device memory by process id, as far as the driver tells; in containers it often does not."""
    held: dict[int, int] = {}
    for pid, used in devices.rows("--query-compute-apps=pid,used_memory"):
        if pid.isdigit() and used.isdigit():
            held[int(pid)] = held.get(int(pid), 0) + int(used) * 2**20
    return held
