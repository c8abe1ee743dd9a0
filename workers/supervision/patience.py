"""How long a worker has been without progress, as far as its watcher was awake to see it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import Any

import ray

from workers.supervision.calls import RAY, Calls

WATCH_SECONDS = 5.0
"""How often workers with work are asked for a sign of life."""


class Patience:
    """Counts the seconds for which a sign of life stays the same.

    Between two looks it counts no more than twice the time that should lie between them: a watcher that was stopped
    itself, or had other things to do, blames nobody for it.
    """

    def __init__(self, interval: float = WATCH_SECONDS, clock: Callable[[], float] = time.monotonic) -> None:
        self._most, self._clock = 2 * interval, clock
        self.rest()

    def rest(self) -> None:
        """Start anew: the worker has nothing to do, or just got something."""
        self._sign: object = None
        self._seconds, self._looked = 0.0, self._clock()

    def seconds(self, sign: object) -> float:
        """Look: the seconds since `sign` changed."""
        now = self._clock()
        self._seconds = 0.0 if sign != self._sign else self._seconds + min(now - self._looked, self._most)
        self._sign, self._looked = sign, now
        return self._seconds


class Pulse:
    """The progress counter of an actor: asked for without ever waiting, one question at a time."""

    def __init__(self, ask: Callable[[], Any], calls: Calls = RAY) -> None:
        self._ask, self._asked, self._count = ask, None, 0
        self._calls = calls

    def count(self) -> int:
        """The latest count that is known. An actor that does not answer stays at its last one."""
        if self._asked is None:
            self._asked = self._ask()
        if self._calls.wait([self._asked], timeout=0)[0]:
            asked, self._asked = self._asked, None
            with contextlib.suppress(ray.exceptions.RayError):  # it died: whoever waits for its work hears of it
                self._count = self._calls.get(asked)
        return self._count
