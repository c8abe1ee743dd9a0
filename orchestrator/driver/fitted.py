"""Engines and ranks as a run has them: as the job says, and as fitting.py says where it leaves them to the machine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from orchestrator.config import Generate, Job, Train
from orchestrator.driver.fitting import NO_GPUS, Fit, Gpus, fit_engines
from orchestrator.driver.rank_fitting import fit_ranks, fits_rank
from orchestrator.driver.settled import CHECKPOINTING, MICROBATCH, Settled
from orchestrator.models.sizes import BYTES, ModelSize
from orchestrator.rounds.context import Say


def said(value: Any) -> str:
    """A setting's value as a job file has it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


class Fitted:
    """What settings of a job come to on these nodes. `share` is that of a GPU's memory which an engine takes, `stages`
    over how many groups of GPUs its layers are spread. `say` is told what is resolved anew, and why: on GPUs, and where
    memory is short."""

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
        """The settings of training, with what is left to the machine filled in.

        Raises:
            BadInput: the model does not fit, and there is nothing that the job says of it.
        """
        settings = self._job.train
        for which, name in enumerate(("ranks", "zero", "tokens_per_microbatch", "activation_checkpointing")):
            settings = self._filled(settings, which, name)
        return settings

    def _filled(self, settings: Train, which: int, name: str) -> Train:
        """The settings with this one, which is so many in what ranks are fitted to."""

        def fits(value: int) -> bool:
            if name == "ranks":
                return self._has_ranks(value)
            held = {name: value}
            if name == "tokens_per_microbatch" and settings.activation_checkpointing is None:
                held["activation_checkpointing"] = self._settled.known(CHECKPOINTING, self._device)
            return fits_rank(self._size, settings.model_copy(update=held), self._nodes)

        fit, given = partial(fit_ranks, self._size, settings, self._nodes), getattr(settings, name)
        return settings.model_copy(update={name: self._value(f"train.{name}", given, fit, which, fits)})

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
            if self._gpus or (found.why != NO_GPUS and key in (MICROBATCH, CHECKPOINTING)):
                self._say(f"settings  {key} is {said(found.values[which])}: {found.why}")
            return found.values[which]

        return self._settled.value(key, self._device, resolve, holds)

    @property
    def _device(self) -> str:
        return "cuda" if self._gpus else "cpu"

    def _has_ranks(self, ranks: int) -> bool:
        return ranks <= self._gpus or (ranks == 1 and not self._gpus)

    def _engines(self, settings: Generate) -> Fit:
        number: Any = settings.engine.get("dtype", settings.dtype)
        own = self._size.number_bytes if self._size else 2
        return fit_engines(self._size, settings, BYTES.get(str(number), own), self._share, self._nodes, self._stages)

    def _has_spread(self, spread: int) -> bool:
        return spread == 1 or any(node.count >= spread * self._stages for node in self._nodes)

    def _has_engines(self, settings: Generate, engines: int) -> bool:
        each = settings.spread * self._stages
        return engines == 1 or sum(node.count // each for node in self._nodes) >= engines
