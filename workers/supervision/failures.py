"""Why a worker was lost, in one sentence for people; and what to do where memory was short."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path
from typing import Literal

from orchestrator.errors import last_line

ADVICE = {
    "engine": "lower generate.max_num_seqs or generate.max_model_len, or gpu_memory_utilization in generate.engine",
    "grader": "lower grade.processes or grade.memory",
    "rewarder": "lower reward.per_gpu or reward.workers, or max_tokens in reward.models",
    "trainer": "lower train.tokens_per_microbatch, or set train.activation_checkpointing or train.offload_optimizer",
}
"""What makes each kind of worker take less memory."""

# Torch's class, its words and cuBLAS's, an engine's at its start, and Python's own.
_NO_DEVICE_MEMORY = re.compile(
    r"cuda out of memory|hip out of memory|cuda error: out of memory|cublas_status_alloc_failed|"
    r"torch\.OutOfMemoryError|OutOfMemoryError\(|no available memory for the cache blocks|"
    r"free memory on device .* is less than desired|NoDeviceMemory",
    re.IGNORECASE,
)
# Others hold it: the engine's own words, on accelerators and on processors.
_MEMORY_TAKEN = re.compile(
    r"NoDeviceMemory|free memory on device .* is less than desired|available memory on node .* is less than desired",
    re.IGNORECASE,
)
_NO_HOST_MEMORY = re.compile(r"cannot allocate memory|can't allocate memory|std::bad_alloc|MemoryError", re.IGNORECASE)
_NO_FAREWELL = "Worker unexpectedly exits"  # Ray's words, whatever ended the process; they always guess at memory too

_NODE_GONE = "because its node has died"  # likewise


def why(error: BaseException, worker: Literal["engine", "grader", "rewarder", "trainer"], oom_kills: int = 0) -> str:
    """Why a worker failed: in its own words, and with advice where it was for want of memory.

    `error` is what Ray raised for it, or a plain exception. `oom_kills` is how many processes the kernel killed on
    this machine for want of memory since the worker was well (`oom_kills()`, then and now): a process that is killed
    leaves no words of its own, so that this alone tells it from a crash.

    Example: "CUDA out of memory. Tried to allocate 2.00 GiB (out of memory on the device: lower generate...)"
    """
    cause = getattr(error, "cause", None) or error
    words, shortage = last_line(cause), _shortage(cause, oom_kills)
    if shortage == "ray":
        return f"Ray ended it, since the machine was short of memory ({ADVICE[worker]})"
    if shortage == "kernel":
        return f"its process was killed while the machine was out of memory ({ADVICE[worker]})"
    if shortage is not None:
        return f"{words} (out of memory on the {shortage}: {ADVICE[worker]})"
    text = str(cause)
    if _NODE_GONE in text:
        return "the node that it was on is gone"
    if _unreachable(cause):
        return "it cannot be reached: its process, its node or the way to it is gone"
    if _NO_FAREWELL in text:
        return "its process ended without a word: it crashed or was killed"
    return words


def short_of_memory(error: BaseException, oom_kills: int = 0) -> bool:
    """Whether a worker failed for want of memory; arguments as for `why`."""
    return _shortage(getattr(error, "cause", None) or error, oom_kills) is not None


def _shortage(cause: BaseException, oom_kills: int) -> Literal["ray", "device", "machine", "kernel"] | None:
    """Whose memory was short, or who ended the process for it."""
    text, names = str(cause), _kinds(cause)
    if "OutOfMemoryError" in names and "RayError" in names:
        return "ray"
    if names & {"OutOfMemoryError", "NoDeviceMemory"} or _NO_DEVICE_MEMORY.search(text):
        return "device"
    if "MemoryError" in names or _NO_HOST_MEMORY.search(text):
        return "machine"
    if _NODE_GONE not in text and not _unreachable(cause) and _NO_FAREWELL in text and oom_kills > 0:
        return "kernel"
    return None


def _kinds(error: BaseException) -> set[str]:
    """The names of its classes: those of libraries that are not imported here."""
    return {kind.__name__ for kind in type(error).__mro__}


def memory_taken(error: BaseException) -> bool:
    """Whether a start found less memory free than it asks for, which may be given back."""
    cause = getattr(error, "cause", None) or error
    return "NoDeviceMemory" in _kinds(cause) or _MEMORY_TAKEN.search(str(cause)) is not None


def wordless(error: BaseException) -> bool:
    """Whether a process ended without a word: it crashed or was killed, which need not happen again."""
    return _NO_FAREWELL in str(getattr(error, "cause", None) or error)


def node_lost(error: BaseException) -> bool:
    """Whether a worker is gone, or out of reach, by no fault of its own: the whole node is."""
    return _NODE_GONE in str(error) or _unreachable(error)


def _unreachable(error: BaseException) -> bool:
    return "ActorUnavailableError" in _kinds(error)


def oom_kills() -> int:
    """How many processes the kernel has killed on this machine, or in this container, for want of memory. It counts
    up; 0 where it does not tell."""
    found = []
    for file in ("/proc/vmstat", "/sys/fs/cgroup/memory.events"):
        with suppress(OSError):
            found += re.findall(r"^oom_kill (\d+)$", Path(file).read_text(), re.MULTILINE)
    return max(map(int, found), default=0)
