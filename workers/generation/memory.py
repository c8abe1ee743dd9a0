"""What the pool does about engines whose start found too little memory: waits, tries again, and gives up in the end."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from orchestrator.errors import NoRoom
from workers.generation.slot import Slot

WAITS = (10.0, 30.0, 60.0)
"""Seconds before each further try: what a process held is back within that, where it has ended."""


class MemoryWait:
    """Lets engines whose start found too little memory try again, some seconds later; `say` is told."""

    def __init__(
        self,
        say: Callable[[str], None],
        waits: Sequence[float] = WAITS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._say, self._waits = say, tuple(waits)
        self._tries: dict[int, int] = {}
        self._waited = 0.0  # when the last wait was over

    def again(self, slot: Slot, error: Exception) -> None:
        """Start an engine again after a while. Engines that failed at the same time share a wait.

        Raises:
            NoRoom: it was tried as often as it is.
        """
        tries = self._tries.get(slot.index, 0)
        if tries == len(self._waits):
            raise NoRoom(
                f"engine {slot.index} found too little memory {tries + 1} times in a row; the last time, "
                f"{slot.why(error)}. What is committed is kept: the same command goes on from here, when what holds "
                "the memory has ended, or with a smaller share"
            ) from error
        self._tries[slot.index] = tries + 1
        seconds = 0.0 if slot.began < self._waited else self._waits[tries]
        if seconds:
            which = f"start {tries + 2} of {len(self._waits) + 1} of engine {slot.index} in {seconds:g} s"
            self._say(f"waiting   memory: {which}; {slot.why(error)}")
            time.sleep(seconds)
            self._waited = self._clock()
        slot.restart()

    def started(self, slot: Slot) -> None:
        """An engine has found its memory."""
        self._tries.pop(slot.index, None)
