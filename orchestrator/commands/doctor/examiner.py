"""What `ratchet doctor` asks of the run's own workers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from orchestrator.config import Grade
from orchestrator.driver.nodes import Node


class Examiner(Protocol):
    """The run's own workers, and what they tell of the nodes (examination.Examination)."""

    @property
    def cluster(self) -> Any: ...

    @property
    def fits(self) -> list[str]:
        """What was left to the machine and has been resolved, and why."""

    def measure(self, model: str) -> None:
        """Have engines and ranks that are left to the machine fit the model in this folder."""

    def needs(self) -> dict[str, tuple[int, int, int]]:
        """By key of the job: how many workers, and each one's cores and accelerators."""

    def versions(self, packages: Any, limit: float) -> dict[Node, Any]:
        """Versions of Python and of those `packages` that are installed, on each node."""

    def exchange(self, folder: str, token: str, limit: float) -> dict[Node, Any]:
        """Each node reads the driver's `token` in `folder` and writes a file of its own; that one's name."""

    def storage(self, probe: str, arguments: Sequence[Any], limit: float, alone: bool) -> dict[Node | None, Any]:
        """What a probe of `workers.storage` says on every node, unless the driver is `alone`, and here; see
        `driver.everywhere`."""

    def file_sizes(self, folder: str, limit: float) -> dict[Node, Any]:
        """Bytes of each file of a model folder by name, as each node sees it."""

    def machines(self, limit: float) -> dict[Node, Any]:
        """Each node's memory in bytes, cores, accelerators and processes."""

    def holders(self, before: dict[str, Any], limit: float) -> dict[Node, Any]:
        """Processes that have taken memory since `before`, what `machines` told by a node's name."""

    def unread_golds(self, settings: Grade, golds: Iterable[str]) -> tuple[dict[str, str], int]:
        """Gold answers that no grader reads, with the reason; and how many were looked at."""

    def all_reduce(self) -> list[dict[str, Any]]:
        """What each training rank says of a sum over all of them: right or wrong, seconds, bytes."""

    def peak_memory(self) -> list[dict[str, int]]:
        """Most bytes that each training rank has held so far, in host memory and on its device."""

    def rendered(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        """Answers a request of `driver.preview`: prompts and pairs as the model gets them."""

    def tried(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        """Answers a request of `driver.trainable`: what the trainer makes of the job's models."""

    def engines(self, model: str) -> Any:
        """Engines that serve a model; see rounds.context.Workers."""

    def trainers(self) -> Any:
        """The training ranks; see rounds.context.Workers."""

    def release(self) -> None:
        """End the engines and the ranks."""
