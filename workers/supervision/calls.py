"""What the driver's side of the workers asks of Ray, and the time that passes meanwhile. Behind one protocol, so that
waits, deaths and limits of time can be tried without waiting for them, with more workers than a machine holds."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import ray


class Calls(Protocol):
    """Actors, and calls of them that are answered some time. `actor.method.remote(...)` makes a call, and gives a
    reference to its answer."""

    def start(self, kind: Any, arguments: Sequence[Any], options: Mapping[str, Any], watched: bool = False) -> Any:
        """An actor of class `kind`, with Ray's actor options. Where it is `watched`, methods of the concurrency group
        `watch` are answered while another one runs."""

    def wait(
        self, references: Sequence[Any], timeout: float | None = None, num_returns: int = 1
    ) -> tuple[list[Any], list[Any]]:
        """Those that are answered, at most `num_returns`, within so many seconds; and the others."""

    def get(self, reference: Any) -> Any:
        """The answer.

        Raises:
            RayError: the call failed, or the actor was lost.
        """

    def kill(self, actor: Any) -> None:
        """End an actor's process, whatever it does."""

    def clock(self) -> float:
        """Seconds, from some moment on."""


class RayCalls:
    """Those of the cluster that this process is connected to."""

    def start(self, kind: Any, arguments: Sequence[Any], options: Mapping[str, Any], watched: bool = False) -> Any:
        actor = ray.remote(concurrency_groups={"watch": 1})(kind) if watched else ray.remote(kind)
        return actor.options(**options).remote(*arguments)

    def wait(
        self, references: Sequence[Any], timeout: float | None = None, num_returns: int = 1
    ) -> tuple[list[Any], list[Any]]:
        ready, others = ray.wait(list(references), num_returns=num_returns, timeout=timeout)
        return ready, others

    def get(self, reference: Any) -> Any:
        return ray.get(reference)

    def kill(self, actor: Any) -> None:
        ray.kill(actor)

    def clock(self) -> float:
        return time.monotonic()


RAY = RayCalls()
