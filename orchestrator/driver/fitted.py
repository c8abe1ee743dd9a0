"""Engines and ranks as a run has them: as the job says, and as fitting.py says where it leaves them to the machine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from orchestrator.config import Generate, Job, Train
from orchestrator.driver.fitting import Fit, Gpus, fit_engines, fit_ranks, fits_rank
from orchestrator.driver.settled import Settled
from orchestrator.models.sizes import BYTES, ModelSize
from orchestrator.rounds.context import Say


class Fitted:
    """What settings of a job come to on these nodes. `share` is that of a GPU's memory which an engine takes, `stages`
    over how many groups of GPUs its layers are spread. `say` is told what is resolved anew on GPUs, and why."""

    def __init__(
        self,
        job: Job,
        size: ModelSize | None,
        nodes: Sequence[Gpus],
        share: float,
        stages: int,
        settled: Settled,
        say: Say,
    ) -> None:
        self._job, self._size, self._nodes, self._share, self._stages = job, size, nodes, share, stages
        self._settled, self._say = settled, say
        self._gpus = sum(node.count for node in nodes)

    def train(self) -> Train:
        """The settings of training, `ranks` and `zero` among them.

        Raises:
            BadInput: the model does not fit, and there is nothing that the job says of it.
        """
        given = self._job.train
        ranks = self._value("train.ranks", given.ranks, lambda: self._ranks(given), 0, self._has_ranks)
        among = given.model_copy(update={"ranks": ranks})
        zero = self._value("train.zero", given.zero, lambda: self._ranks(among), 1, lambda z: self._fits(among, z))
        return among.model_copy(update={"zero": zero})

    def generate(self) -> Generate:
        """The settings of sampling, `engines` and `tensor_parallel` among them.

        Raises:
            BadInput: likewise.
        """
        given, key = self._job.generate, "generate.tensor_parallel"
        spread = self._value(key, given.tensor_parallel, lambda: self._engines(given), 1, self._has_spread)
        each = given.model_copy(update={"tensor_parallel": spread})
        key = "generate.engines"
        engines = self._value(key, given.engines, lambda: self._engines(each), 0, lambda n: self._has_engines(each, n))
        return each.model_copy(update={"engines": engines})

    def _value(
        self, key: str, given: int | None, fit: Callable[[], Fit], which: int, holds: Callable[[int], bool]
    ) -> int:
        """What is `given`, or what of a fit the setting comes to."""
        if given is not None:
            return given

        def resolve() -> int:
            found = fit()
            if self._gpus:
                self._say(f"settings  {key} is {found.values[which]}: {found.why}")
            return found.values[which]

        return self._settled.value(key, "cuda" if self._gpus else "cpu", resolve, holds)

    def _ranks(self, settings: Train) -> Fit:
        return fit_ranks(self._size, settings, self._nodes)

    def _has_ranks(self, ranks: int) -> bool:
        return ranks <= self._gpus or (ranks == 1 and not self._gpus)

    def _fits(self, settings: Train, stage: int) -> bool:
        return fits_rank(self._size, settings, self._nodes, settings.num_ranks, stage)

    def _engines(self, settings: Generate) -> Fit:
        number: Any = settings.engine.get("dtype", settings.dtype)
        own = self._size.number_bytes if self._size else 2
        return fit_engines(self._size, settings, BYTES.get(str(number), own), self._share, self._nodes, self._stages)

    def _has_spread(self, spread: int) -> bool:
        return spread == 1 or any(node.count >= spread * self._stages for node in self._nodes)

    def _has_engines(self, settings: Generate, engines: int) -> bool:
        each = settings.spread * self._stages
        return engines == 1 or sum(node.count // each for node in self._nodes) >= engines
