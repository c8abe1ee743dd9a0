"""How long a step's workers took to be ready: until others had given the devices back, processes had started, and the
model was loaded. Told as the fact `starting`, in seconds."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from orchestrator.ledger.run import Facts

W = TypeVar("W")
_NOTICED = 0.1  # seconds; what is less is not told


class Readiness:
    """Of workers that took so many seconds."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def once(self) -> Facts:
        """The fact, for the first that tells it; nothing for others, or where there is nothing to tell."""
        seconds, self._seconds = self._seconds, 0.0
        return {"starting": round(seconds, 3)} if seconds >= _NOTICED else {}

    def added(self, facts: Facts) -> Facts:
        """Facts of workers that started more themselves, with this."""
        self._seconds += float(facts.get("starting", 0.0))
        return {name: value for name, value in facts.items() if name != "starting"} | self.once()


def ready(ask: Callable[[], W]) -> tuple[W, Readiness]:
    """Workers that are asked for, and how long they took to be ready."""
    began = time.monotonic()
    workers = ask()
    return workers, Readiness(time.monotonic() - began)
