"""A wait for room on a cluster: told at its beginning, every minute, and where it is given up."""

from __future__ import annotations

import time
from collections.abc import Callable

from orchestrator.errors import NoRoom

TELL_SECONDS = 60.0
"""How often a wait is told."""


class Wait:
    """Look again and again, with the reason as it is then."""

    def __init__(
        self,
        what: str,
        limit: float,
        say: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
        meter: Callable[[float], None] = lambda seconds: None,
    ) -> None:
        """`limit` is in seconds; `what` is what is waited for. `meter` is told how many seconds more it has taken."""
        self._what, self._limit, self._say, self._clock, self._meter = what, limit, say, clock, meter
        self._began, self._told, self._metered = clock(), -1.0, 0.0

    def look(self, reason: str) -> None:
        """Not there yet.

        Raises:
            NoRoom: the limit is reached.
        """
        waited = self._waited()
        if waited >= self._limit:
            raise NoRoom(
                f"{self._what} did not become free within {self._limit:.0f} s (cluster.timeout): {reason}. What is "
                "committed is kept: the same command goes on from here. Wait for other jobs, add nodes, ask for "
                "fewer, or raise `cluster.timeout`."
            )
        if self._told < 0 or waited - self._told >= TELL_SECONDS:
            self._told = waited
            self._say(f"waiting   {self._what}, for {waited:.0f} of {self._limit:.0f} s: {reason}")

    def over(self) -> None:
        """It is there."""
        waited = self._waited()
        if self._told >= 0:
            self._say(f"waiting   over after {waited:.0f} s: {self._what}")

    def _waited(self) -> float:
        waited = self._clock() - self._began
        self._meter(waited - self._metered)
        self._metered = waited
        return waited
