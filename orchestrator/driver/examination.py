"""What `ratchet doctor` asks of the workers of a run besides their work, and what is asked of this machine alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from orchestrator.config import Grade
from orchestrator.driver.everywhere import everywhere
from orchestrator.driver.fitting import Gpus
from orchestrator.driver.nodes import Node
from orchestrator.driver.own_process import rendered, tried
from orchestrator.driver.wiring import ENGINE, RealWorkers, unread_golds


class Examination(RealWorkers):
    """The same workers, and what `ratchet doctor` asks of them besides. A time limit is in seconds; what is asked
    of every node comes back by node, as an exception where it failed there."""

    early = False

    def needs(self) -> dict[str, tuple[int, int, int]]:
        """By key of the job: how many workers, and each one's cores and accelerators."""
        return {"generate.engines": self._engines_need(), "train.ranks": self._ranks_need()}

    def rendered(self, request: Mapping[str, Any]) -> dict[str, Any]:
        return rendered(request)

    def tried(self, request: Mapping[str, Any]) -> dict[str, Any]:
        return tried(request)

    def versions(self, packages: Sequence[str], limit: float) -> dict[Node, Any]:
        from workers.doctor import versions

        return self.cluster.on_nodes(versions, packages, timeout=limit)

    def exchange(self, folder: str, token: str, limit: float) -> dict[Node, Any]:
        from workers.doctor import exchange

        return self.cluster.on_nodes(exchange, folder, token, timeout=limit)

    def storage(self, probe: str, arguments: Sequence[Any], limit: float, alone: bool) -> dict[Node | None, Any]:
        from workers import storage

        return everywhere(getattr(storage, probe), arguments, limit, None if alone else self.cluster.on_nodes)

    def file_sizes(self, folder: str, limit: float) -> dict[Node, Any]:
        from workers.doctor import file_sizes

        return self.cluster.on_nodes(file_sizes, folder, timeout=limit)

    def machines(self, limit: float) -> dict[Node, Any]:
        from workers.doctor import machine

        return self.cluster.on_nodes(machine, timeout=limit)

    def holders(self, before: dict[str, Any], limit: float) -> dict[Node, Any]:
        """`before` is what `machines` told, by a node's name."""
        from workers.doctor import holders

        seen = {name: told["processes"] for name, told in before.items()}
        return self.cluster.on_nodes(holders, seen, self.cluster.job_id, ENGINE.process_title, timeout=limit)

    def unread_golds(self, settings: Grade, golds: Iterable[str]) -> tuple[dict[str, str], int]:
        return unread_golds(settings, golds)

    def all_reduce(self) -> list[dict[str, Any]]:
        """What each training rank says of a sum over all of them."""
        from workers.doctor import all_reduce

        return list(self.trainers().each(all_reduce))

    def peak_memory(self) -> list[dict[str, int]]:
        """Most bytes that each training rank has held so far."""
        from workers.doctor import peak_memory

        return list(self.trainers().each(peak_memory))

    def release(self) -> None:
        """End the engines and the ranks."""
        self._turns.release()


def gpus_here() -> Gpus:
    """The GPUs of this machine, as its driver tells, and its memory."""
    from workers.doctor import accelerators
    from workers.supervision.host_memory import free_memory

    found = [device["total"] for device in accelerators()]
    return Gpus(len(found), min(found, default=None), free_memory())


def device_here() -> str | None:
    """The name of this machine's first GPU, as its driver tells; None where there is none."""
    from workers.doctor import accelerators

    return next((str(device["name"]) for device in accelerators()), None)
