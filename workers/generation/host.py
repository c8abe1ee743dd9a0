"""The process of an engine, which outlives it: it serves one model after another, and rests while others have the
devices. What takes long at its start is to load libraries; these it keeps."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from typing import Any

from orchestrator.config import Generate
from orchestrator.records.rows import SamplingPlan, Shard
from workers.generation.engine import Engine, EngineBroken, Scored
from workers.generation.scoring import score_shard
from workers.generation.shard import UNFINISHED
from workers.supervision.named_devices import name_devices
from workers.supervision.resting import DeviceMemory, Kept, Memory


class EngineHost:
    """Has no engine at first; `make` and its arguments are as `engine.EngineKind` has them. The methods of `Engine`
    are those of the engine that is there."""

    def __init__(
        self,
        make: Callable[[str, Generate, int, bool], Engine],
        prepare: Callable[[bool], None],
        settings: Generate,
        seed: int,
        accelerated: bool,
    ) -> None:
        name_devices(os.environ)
        prepare(accelerated)
        self._make = make
        self._arguments = (settings, seed, accelerated)
        self._engine: Engine | None = None
        self._asleep = False
        self._memory, self._devices = Memory(accelerated), DeviceMemory() if accelerated else None

    def serve(self, model: str) -> int:
        """Have a new engine serve this model, where none is; returns the id of this process.

        Raises: whatever the engine raises when it cannot serve the model.
        """
        if self._devices:
            self._devices.begin()
        self._engine = self._make(model, *self._arguments)
        return os.getpid()

    def rest(self, may_sleep: bool = False) -> Kept:
        """Close the engine, or let it sleep where it can. Returns what is kept; the host's memory is not an engine's to
        give back that sleeps."""
        engine, host = self._engine, 0
        self._asleep = may_sleep and engine is not None and _sleeps(engine)
        if not self._asleep:
            self._engine = None
            if engine is not None:
                self._memory.look()
                engine.close()
            del engine
            host = self._memory.kept(collected=True)  # by its close
        return Kept(host, self._devices.kept() if self._devices else 0, self._asleep)

    def pid(self) -> int:
        return os.getpid()

    def progress(self) -> int:
        engine = self._engine
        return engine.progress() if engine else 0

    def generate(
        self, shard: Shard, plan: SamplingPlan, only: Collection[str] | None = None, without: Collection[str] = ()
    ) -> tuple[dict[str, Any] | None, int]:
        """What the engine returns, and how many samples it has still to draw, of other calls."""
        return self._serving.generate(shard, plan, only, without), UNFINISHED.samples

    def logprobs(self, prompts: list[list[int]], completions: list[list[int]]) -> list[float | None]:
        return self._serving.logprobs(prompts, completions)

    def score(self, prompts: list[list[int]], completions: list[list[int]]) -> list[Scored | None]:
        return self._serving.score(prompts, completions)

    def score_shard(self, shard: Shard) -> dict[str, Any]:
        """Write what the engine says of the completions of a shard of requests; see scoring.py."""
        return score_shard(shard, self._serving.score)

    def load_weights(self, model: str) -> None:
        if self._devices and self._asleep:
            self._devices.begin()
        self._serving.load_weights(model)
        self._asleep = False

    def held(self) -> dict[str, str]:
        return self._serving.held()

    def close(self) -> None:
        self._serving.close()

    @property
    def _serving(self) -> Engine:
        if self._engine is None:
            raise EngineBroken("no model is served here now")
        return self._engine


def _sleeps(engine: Engine) -> bool:
    try:
        return engine.sleep()
    except EngineBroken:  # it can be closed still
        return False


def host_of(make: type[Engine] | Callable[..., Engine]) -> type[EngineHost]:
    """The class of an engine's process, under the name of the engine's own, by which Ray calls the process."""
    name = getattr(make, "__name__", "Engine")
    return type(name, (EngineHost,), {"__qualname__": name})
