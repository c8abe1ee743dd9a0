"""A training rank that needs as much memory as it is told. Imports no torch, since a Ray actor is made of it."""

from __future__ import annotations

import os
import resource
import signal
from pathlib import Path
from typing import Any

import ray

from orchestrator.records.rows import ScoringPlan, TrainingPlan
from workers.supervision.resting import Kept

MIB = 2**20


class OutOfMemoryError(RuntimeError):
    """Named as torch's is."""


class Rank:
    """A rank that takes a MiB a token of a micro-batch, and may have so many MiB as the plan's model is called."""

    def __init__(self, settings: dict[str, Any], rank: int, ranks: int) -> None:
        self.tokens, self.rank = settings["tokens_per_microbatch"], rank
        self.connected = False

    def rendezvous(self) -> str:
        return "nowhere"

    @ray.method(concurrency_group="watch")
    def beats(self) -> int:
        return 0

    def prepare(self) -> None:
        pass

    def rest(self) -> Kept:
        if not self.connected:
            raise RuntimeError("it holds nothing that could be given back")
        return Kept(int(os.environ.get("KEEPS", "0")) if self.rank else 0)

    def connect(self, rendezvous: str) -> int:
        self.connected = True
        return os.getpid()

    def preference_facts(self, *_: Any) -> dict[str, float]:
        return {}

    def reference_logprobs(self, plan: ScoringPlan) -> list[tuple[str, float, int]]:
        if self.rank == 0:
            self.work(plan.model)
        return [(f"key {self.rank}", -float(self.tokens), 1)]

    def work(self, kind_and_limit: str) -> None:
        kind, limit = kind_and_limit.split()
        if kind == "device" and self.tokens > int(limit):
            raise OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        if kind in ("killed", "kernel") and self.tokens > int(limit):
            if kind == "kernel":
                with open(os.environ["KERNEL_KILLS"], "a") as file:
                    file.write("x")
            os.kill(os.getpid(), signal.SIGKILL)
        if kind == "machine":
            has = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (has + (int(limit) + 8) * MIB, -1))
            assert len(bytearray(self.tokens * MIB))

    def train(self, plan: TrainingPlan, reference_file: str | None) -> Any:
        yield "step", {"step": 1, "tokens": self.tokens}
        self.work(plan.init)
        yield "facts", {"tokens": self.tokens}

    def follow(self, plan: TrainingPlan, reference_file: str | None) -> None:
        pass
