"""Where workers run, as far as they must know (orchestrator.driver.placement makes such places)."""

from __future__ import annotations

from typing import Any, Protocol


class Placement(Protocol):
    """The places of a group of workers."""

    @property
    def count(self) -> int:
        """How many workers have one."""

    @property
    def gpus(self) -> int:
        """How many accelerators each has; where it has a share of one, not 0."""

    def actor_options(self, index: int) -> dict[str, Any]:
        """Ray's options for the actor that is worker `index`: num_cpus, num_gpus, scheduling_strategy, runtime_env."""

    def placed(self) -> list[bool]:
        """Of each worker, whether its place is on a living node."""

    def wait(self) -> None:
        """Return when all are; raises where that takes too long. No worker may be running."""
