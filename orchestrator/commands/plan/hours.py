"""How long a job's phases take: as this machine did in an earlier run, else by sums over operations and bytes. Pure,
but for `here`, which tries what this machine's processors do.

Of N parameters and D tokens, training is 6 N D operations (8 N D where activations are computed again), a pass without
gradients and the reading of a prompt 2 N D (arXiv 2001.08361, section 2.1). What is drawn comes a token a step for each
of the sequences at once, and a step reads the weights and those sequences' keys and values, or computes 2 N for each of
them, whichever takes longer. Of the published peaks, a share is counted: TRAINING, READING and BANDWIDTH below.
Nobody has measured these shares with Ratchet on GPUs; docs/planning.md has what was measured on processors.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from orchestrator.commands.plan.devices import Device
from orchestrator.commands.plan.earlier import Earlier
from orchestrator.commands.plan.work import Amount, Texts
from orchestrator.config import Job
from orchestrator.driver.memory import cache_bytes
from orchestrator.models.sizes import ModelSize

TRAINING, READING, BANDWIDTH = 0.35, 0.45, 0.6
"""Shares of the peaks: of operations in training, of those in passes without gradients, of bytes a second."""
_SEQUENCES = 256
"""That an engine takes at once, where `generate.max_num_seqs` does not say."""
STEP = {"cuda": 0.005, "cpu": 0.02}
"""Seconds of a step of an engine besides: to schedule it, and to write down what was drawn."""
START = {"cuda": 180.0, "cpu": 40.0}
"""Seconds until Ray and the first engines are there, with what they compile; the weights besides."""
BETWEEN = {"cuda": 60.0, "cpu": 5.0}
"""Seconds of a round in which engines and ranks change places."""
_READ = 1e9
"""Bytes a second at which weights are read and written."""
_HANDOVERS = 3  # a round's weights are read by ranks, written by them, read by engines
_SIDE, _TRIES, _COPIED = 1024, 3, 2**25


@dataclass(frozen=True)
class Timed:
    """The seconds of a phase, and on what they rest."""

    phase: str
    seconds: float
    rests_on: str


@dataclass(frozen=True)
class Clock:
    """Tells what phases take. `device` is None where nothing is known of it; `earlier` counts where it was here."""

    job: Job
    """With engines and ranks filled in."""
    size: ModelSize | None
    kind: str
    """`cpu` or `cuda`."""
    device: Device | None
    source: str
    """Of the figures of the device."""
    texts: Texts
    weights: int
    """Bytes of the model's weights as they are stored."""
    earlier: Earlier | None = None
    rewards: Mapping[str, int] = field(default_factory=dict)
    """Parameters of the reward models, by the phase in which each scores."""

    def phase(self, amount: Amount) -> Timed | None:
        """What it takes; None where nothing tells."""
        return self._as_before(amount) or self._by_sums(amount)

    def start(self) -> Timed:
        """What comes before the first answer of the baseline."""
        if self.earlier is not None and self.earlier.starting:
            return Timed("start", self.earlier.starting, self._earlier_said)
        return Timed("start", START[self.kind] + self.weights / _READ, "a usual start")

    def between(self) -> Timed:
        """What of a round is no phase's work."""
        if self.earlier is not None and self.earlier.between:
            return Timed("between", self.earlier.between, self._earlier_said)
        return Timed("between", BETWEEN[self.kind] + _HANDOVERS * self.weights / _READ, "usual changes of phases")

    @property
    def _earlier_said(self) -> str:
        return f"the run {self.earlier.name} on this machine" if self.earlier else ""

    def _as_before(self, amount: Amount) -> Timed | None:
        if self.earlier is None:
            return None
        rates: Mapping[str, float] = {
            "reference": self.earlier.scoring_rate,
            "policy": self.earlier.scoring_rate,
            "train": self.earlier.training_rate,
            **dict.fromkeys(self.job.reward.phases() if self.job.reward else (), self.earlier.rewarding_rate),
            **dict.fromkeys(("evaluation", "selection"), self.earlier.answering_rate),
        }
        rate = rates.get(amount.phase, self.earlier.sampling_rate)
        tokens = amount.written or amount.read
        return Timed(amount.phase, tokens / rate, self._earlier_said) if rate else None

    def _by_sums(self, amount: Amount) -> Timed | None:
        if self.size is None or self.device is None:
            return None
        if amount.written:
            return Timed(amount.phase, self._drawing(amount, self.size, self.device), self.source)
        operations, share, parameters, devices = 2, READING, self.size.parameters, self.job.train.num_ranks
        if amount.phase == "train":
            operations, share = (8 if self.job.train.checkpointing else 6), TRAINING
        elif amount.phase in self.rewards:
            workers = (self.job.reward and self.job.reward.workers) or devices
            parameters, devices = self.rewards[amount.phase], min(workers, devices)
        flops = devices * self.device.flops * share
        return Timed(amount.phase, operations * parameters * amount.read / flops, self.source)

    def _drawing(self, amount: Amount, size: ModelSize, device: Device) -> float:
        """Seconds of an engine, which has an equal part of it."""
        generate, number = self.job.generate, self.job.generate.num_engines
        devices, numbers = generate.spread, size.number_bytes
        each = min(generate.max_num_seqs or _SEQUENCES, max(1, -(-amount.samples // number)))
        steps = amount.written / (number * each)
        kept = each * (self.texts.prompt + self.texts.sample / 2) * cache_bytes(size, numbers, devices)
        moved = (size.parameters * numbers / devices + kept) / (device.bandwidth * BANDWIDTH)
        computed = 2 * size.parameters * each / (device.flops * devices * READING)
        read = 2 * size.parameters * amount.read / (number * devices * device.flops * READING)
        return read + steps * (max(moved, computed) + STEP[self.kind])


def here() -> Device:
    """What this machine's processors do together: a product of float32 matrices and a copy, tried for a moment."""
    one, other = np.ones((_SIDE, _SIDE), np.float32), np.ones(_COPIED, np.uint8)
    products = min(_seconds(lambda: one @ one) for _ in range(_TRIES))
    copies = min(_seconds(other.copy) for _ in range(_TRIES))
    return Device("processors", 0, 2 * _SIDE**3 / products, 2 * _COPIED / copies)


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started
