"""Where reward workers run. On CPU they live beside the others, as graders do, and take no cores of Ray's: they score
while engines and ranks have nothing to do, and rest while these work. On accelerators they have a turn (turns.py)."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

from orchestrator.driver.cluster import Cluster
from orchestrator.driver.placement import SPINS, Bundles
from orchestrator.driver.turns import REWARDERS, Turns
from orchestrator.records.rewards import RewardWorkers

Make = Callable[[Any, RewardWorkers], contextlib.AbstractContextManager[Any]]
"""Starts a pool of reward workers in the places that it is given."""


class OnCpu:
    """Places of `count` workers with `cpus` threads each, wherever Ray starts them."""

    gpus = 0

    def __init__(self, count: int, cpus: int) -> None:
        self.count, self._cpus = count, cpus

    def actor_options(self, index: int) -> dict[str, Any]:
        """As `Placement.actor_options`."""
        variables = {"OMP_NUM_THREADS": str(self._cpus), "GOMP_SPINCOUNT": SPINS}
        return {"num_cpus": 0, "num_gpus": 0, "runtime_env": {"env_vars": variables}}

    def placed(self) -> list[bool]:
        """As `Placement.placed`: each can be anywhere."""
        return [True] * self.count

    def wait(self) -> None:
        """There is always a place."""


class OnGpus:
    """Places of `count` workers in a reservation, `per_gpu` of them in each bundle, whose GPU they share."""

    def __init__(self, placement: Any, count: int, per_gpu: int) -> None:
        self._placement, self.count, self._per_gpu = placement, count, per_gpu
        self.gpus = 1

    def actor_options(self, index: int) -> dict[str, Any]:
        """As `Placement.actor_options`."""
        options: dict[str, Any] = self._placement.actor_options(index // self._per_gpu)
        variables = dict(options["runtime_env"]["env_vars"])
        variables["OMP_NUM_THREADS"] = str(max(1, self._placement.cpus // self._per_gpu))
        shares = {"num_cpus": self._placement.cpus / self._per_gpu, "num_gpus": 1 / self._per_gpu}
        return options | shares | {"runtime_env": {"env_vars": variables}}

    def placed(self) -> list[bool]:
        """As `Placement.placed`, of each worker."""
        bundles = self._placement.placed()
        return [bundles[index // self._per_gpu] for index in range(self.count)]

    def wait(self) -> None:
        """As `Placement.wait`."""
        self._placement.wait()


class Rewarding:
    """The pool of reward workers of a run, which is started when it is asked for; leaving it ends one on CPU."""

    def __init__(self, cluster: Cluster, turns: Turns, make: Make) -> None:
        self._cluster, self._turns, self._make = cluster, turns, make
        self._how: RewardWorkers | None = None
        self._held = contextlib.ExitStack()
        self._pool: Any = None

    def __enter__(self) -> Rewarding:
        return self

    def __exit__(self, *error: Any) -> None:
        self._held.__exit__(*error)

    def pool(self, how: RewardWorkers) -> Any:
        """Workers as `how` says.

        Raises:
            NoRoom: the cluster has no accelerators for them soon enough.
            BadInput: it never has.
        """
        if how != self._how:
            self._end()
            self._how = how
        if self._cluster.accelerated and how.device == "auto":
            need, count = self._on_gpus(how)
            return self._turns.alone(need, lambda placement: self._make(OnGpus(placement, count, how.per_gpu), how))
        if self._pool is None:
            count = how.workers or 1
            cpus = how.cpus or self._cluster.cpus_for(count, 0)
            self._pool = self._held.enter_context(self._make(OnCpu(count, cpus), how))
        return self._pool

    def _on_gpus(self, how: RewardWorkers) -> tuple[Bundles, int]:
        """The bundles that workers need, of a GPU each, and how many workers there are."""
        cluster = self._cluster
        gpus = sum(node.gpus for node in cluster.nodes())
        count = how.workers or gpus * how.per_gpu
        bundles = -(-count // how.per_gpu)
        if how.cpus is not None:
            return (bundles, how.cpus * how.per_gpu, 1), count
        return (bundles, cluster.cpus_for(bundles, 1), 1), count

    def _end(self) -> None:
        self._pool = None
        self._held.close()
        if self._turns.turn == REWARDERS:
            self._turns.release()
