"""Where the time of the GPUs goes: each is in one state at a time, and the states' seconds add up to all there are."""

from __future__ import annotations

from collections import defaultdict

IDLE = ("engine idle", "free")
"""States in which a GPU waits for somebody. While the driver's own code runs, that is the driver."""


class Accounts:
    """GPU-seconds by state. `free` are those GPUs that no worker holds and whose node is there; why they wait is
    `waiting`, while the driver is in a call that blocks."""

    def __init__(self, gpus: int, now: float) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.waiting = "between phases"
        self.driver_runs = False
        self._held: dict[str, int] = defaultdict(int)
        self._held["free"] = gpus
        self._settled = now

    def settle(self, now: float) -> None:
        """Count the time up to now in the states as they are."""
        passed, self._settled = now - self._settled, now
        if passed <= 0:
            return
        for state, gpus in self._held.items():
            if gpus and state in IDLE and self.driver_runs:
                self.seconds["driver"] += gpus * passed
            elif gpus:
                self.seconds[self.waiting if state == "free" else state] += gpus * passed

    def switch(self, now: float, gpus: int, old: str, new: str) -> None:
        """So many GPUs go from one state to another."""
        self.settle(now)
        self._held[old] -= gpus
        self._held[new] += gpus

    def move(self, old: str, new: str, seconds: float) -> None:
        """What was counted as one thing turns out to be another."""
        self.seconds[old] -= seconds
        self.seconds[new] += seconds
