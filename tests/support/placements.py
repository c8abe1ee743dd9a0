"""Where a test's workers run: wherever Ray has room, on a node that is never lost."""

from __future__ import annotations

from typing import Any


class Anywhere:
    """Room for `count` workers, each an actor with these options."""

    def __init__(self, count: int, **options: Any) -> None:
        self.count, self.gpus, self._options = count, options.get("num_gpus", 0), options

    def actor_options(self, index: int) -> dict[str, Any]:
        return dict(self._options)

    def placed(self) -> list[bool]:
        return [True] * self.count

    def wait(self) -> None:
        pass


class ForEngines(Anywhere):
    """Engines, which take no cores of Ray's and have one thread."""

    def __init__(self, count: int = 1) -> None:
        super().__init__(count, num_cpus=0, max_restarts=0, runtime_env={"env_vars": {"OMP_NUM_THREADS": "1"}})


class ForRanks(Anywhere):
    """Ranks, of one core each, and of so many accelerators that Ray is told of."""

    def __init__(self, count: int = 2, num_gpus: int = 0) -> None:
        super().__init__(count, num_cpus=1, num_gpus=num_gpus)
