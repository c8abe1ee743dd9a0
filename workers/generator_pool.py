"""Many engines as one: dispatch shards without barriers, replace an engine that dies."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any, Protocol

import ray

from orchestrator.config import Generate
from orchestrator.errors import RatchetError
from orchestrator.records import SamplingPlan, Shard
from workers.generator import ENVIRONMENT, Generator

_IN_FLIGHT = 3  # shards an engine has at once: the next ones' prompts fill it while the last samples of one end
_MOST_FAILURES = 3  # of one shard, before the run gives up on it


class Placement(Protocol):
    """Where the pool's engines may run (orchestrator.cluster.Placement)."""

    count: int
    gpus: int

    def actor_options(self, index: int) -> dict[str, Any]: ...


class GenerationFailed(RatchetError):
    """An engine could not be started, or a shard took down several engines."""


class GeneratorPool:
    """Engines that serve one model. A context manager: leaving it ends their processes."""

    def __init__(self, model: str, settings: Generate, seed: int, placement: Placement) -> None:
        self.model = model
        self._settings = settings
        self._seed = seed
        self._placement = placement
        self._engines: list[Any] = []

    def __enter__(self) -> GeneratorPool:
        self._engines = [self._start(index) for index in range(self._placement.count)]
        return self

    def __exit__(self, *_: object) -> None:
        for engine in self._engines:
            ray.kill(engine)
        self._engines = []

    def wait_ready(self) -> None:
        """Return when every engine has loaded the model.

        Raises:
            GenerationFailed: with the engine's own words.
        """
        try:
            ray.get([engine.pid.remote() for engine in self._engines])
        except ray.exceptions.RayError as error:
            raise GenerationFailed(f"vLLM cannot serve {self.model}: {_reason(error)}") from error

    def generate(self, shards: list[Shard], plan: SamplingPlan) -> Iterator[tuple[Shard, dict[str, Any]]]:
        """Yield each shard with its facts as it is finished, in the order of finishing.

        An engine that dies is replaced, and only its unfinished shards are dispatched again.
        """
        waiting = deque(shards)
        running: dict[Any, tuple[int, Shard]] = {}
        failures: dict[int, int] = {}
        load = [0] * len(self._engines)
        while waiting or running:
            while waiting and min(load) < _IN_FLIGHT:
                index = load.index(min(load))
                shard = waiting.popleft()
                running[self._engines[index].generate.remote(shard, plan)] = (index, shard)
                load[index] += 1
            [reference], _ = ray.wait(list(running), num_returns=1)
            index, shard = running.pop(reference)
            load[index] -= 1
            try:
                facts = ray.get(reference)
            except (ray.exceptions.RayActorError, ray.exceptions.RayTaskError) as error:
                lost = [shard] + [s for i, s in running.values() if i == index]
                running = {r: v for r, v in running.items() if v[0] != index}
                load[index] = 0
                self._replace(index, lost, failures, error)
                waiting.extendleft(reversed(lost))
                continue
            yield shard, facts

    def logprobs(self, prompts: list[list[int]], completions: list[list[int]]) -> list[list[float | None]]:
        """Summed log-probabilities of completions, from each engine; None for what does not fit its context."""
        try:
            return list(ray.get([e.logprobs.remote(prompts, completions) for e in self._engines]))
        except ray.exceptions.RayError as error:
            raise GenerationFailed(f"the engine could not score the probe: {_reason(error)}") from error

    def _start(self, index: int) -> Any:
        options = self._placement.actor_options(index)
        environment = options.pop("runtime_env")["env_vars"] | ENVIRONMENT
        # Threads beyond the shards in flight answer `pid` and the probe while shards run.
        actor = ray.remote(Generator).options(
            **options, runtime_env={"env_vars": environment}, max_concurrency=_IN_FLIGHT + 2
        )
        # Engines seeded as a whole must not all draw the same samples.
        return actor.remote(self.model, self._settings, self._seed + index, self._placement.gpus > 0)

    def _replace(self, index: int, lost: list[Shard], failures: dict[int, int], error: Exception) -> None:
        for shard in lost:
            failures[shard.index] = failures.get(shard.index, 0) + 1
            if failures[shard.index] >= _MOST_FAILURES:
                raise GenerationFailed(
                    f"shard {shard.index} took down {_MOST_FAILURES} engines: {_reason(error)}"
                ) from error
        ray.kill(self._engines[index])
        self._engines[index] = self._start(index)


def _reason(error: Exception) -> str:
    """The worker's own last line, without the trace."""
    cause = getattr(error, "cause", None) or error
    lines = [line for line in str(cause).splitlines() if line.strip()]
    return lines[-1].strip() if lines else repr(cause)
