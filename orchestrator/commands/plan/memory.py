"""What engines and ranks of a job hold, by part, and whether it fits: the sums by which a run itself is fitted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from orchestrator.config import Job
from orchestrator.driver.fitting import Gpus, cached_tokens, smallest_gpu
from orchestrator.driver.memory import ENGINE_BESIDE, LIBRARIES, cache_bytes, rank_memory
from orchestrator.driver.rank_fitting import USABLE
from orchestrator.driver.wiring import ENGINE, engine_takes
from orchestrator.models.sizes import BYTES, ModelSize

ENGINE_LIBRARIES = 2**30
"""Bytes of host memory that an engine's process takes on processors before it has a model."""


@dataclass(frozen=True)
class Holding:
    """What one worker holds on its device, in bytes."""

    role: str
    """`rank` or `engine`."""
    workers: int
    parts: Mapping[str, int]
    total: int
    """The most at once: parts that follow one another do not add up."""
    room: float | None
    """What it may take; None where that is not known."""

    @property
    def fits(self) -> bool:
        return self.room is None or self.total <= self.room


def rank(job: Job, size: ModelSize, nodes: Sequence[Gpus]) -> Holding:
    """A training rank of a job whose ranks, ZeRO and micro-batches are filled in."""
    train, gpus = job.train, sum(node.count for node in nodes)
    sums = rank_memory(size, train, train.num_ranks, train.stage)
    parts = {name: int(held) for name, held in sums.parts().items()}
    if gpus:
        memory = smallest_gpu(nodes)
        return Holding("rank", train.num_ranks, parts, sums.total, None if memory is None else USABLE * memory)
    free = _host(nodes)
    share = None if free is None else USABLE * free / -(-train.num_ranks // len(nodes))
    return Holding("rank", train.num_ranks, parts | {"libraries": LIBRARIES}, sums.total + LIBRARIES, share)


def engine(job: Job, size: ModelSize, nodes: Sequence[Gpus]) -> Holding:
    """An engine; on GPUs its cache is what is left of its share, and has room for `cached_tokens` at least."""
    generate = job.generate
    share, stages = engine_takes(job)
    devices = generate.spread * stages
    numbers = BYTES.get(str(generate.engine.get("dtype", generate.dtype)), size.number_bytes)
    weights = -(-size.parameters * numbers // devices)
    if sum(node.count for node in nodes):
        memory = smallest_gpu(nodes)
        least = cached_tokens(size, generate) * cache_bytes(size, numbers, devices)
        room = None if memory is None else share * memory
        cache = least if room is None else max(least, int(room) - weights - ENGINE_BESIDE)
        parts = {"weights": weights, "cache": cache, "activations": ENGINE_BESIDE}
        return Holding("engine", generate.num_engines, parts, sum(parts.values()), room)
    parts = {"weights": weights, "cache": ENGINE.host_cache, "libraries": ENGINE_LIBRARIES}
    free = _host(nodes)
    room = None if free is None else USABLE * free / -(-generate.num_engines // len(nodes))
    return Holding("engine", generate.num_engines, parts, sum(parts.values()), room)


def _host(nodes: Sequence[Gpus]) -> int | None:
    return min((node.host for node in nodes if node.host is not None), default=None)
