"""Engines and training ranks take turns on the same devices.

Where processes stay warm, both live in one reservation for as long as the run: who has had its turn rests, which keeps
its processes and gives back their memory, so that a change of phase costs no start of libraries. The reservation is
given up between two turns where another job waits for room. Elsewhere each turn reserves for itself and ends with its
processes. `cluster.warm` says which; left open, processes stay warm on CPU alone: that one which lives gives all of a
device's memory back has not been seen on an accelerator.

With `cluster.placement: split` nobody has turns: each role has devices of its own, in one reservation.

Reward workers on accelerators have a turn, too, however the others share: alone, in a reservation of their own size.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any, Literal, Protocol

from orchestrator.driver.cluster import Cluster
from orchestrator.driver.nodes import holds, shared
from orchestrator.driver.placement import Bundles, Part, Placement, Share

Role = Literal["generate.engines", "train.ranks", "reward.workers"]
"""Who takes turns, by the key of the job that says how many they are."""
ENGINES: Role = "generate.engines"
RANKS: Role = "train.ranks"
REWARDERS: Role = "reward.workers"


Hire = Callable[[Any], AbstractContextManager["Resting"]]
"""Starts workers in the place that it is given; they rest until something is asked of them."""


class Resting(Protocol):
    """Workers that can rest."""

    def rest(self) -> None:
        """Give back the memory of the devices until there is work again."""


class Turns:
    """Who holds the devices. A context manager: leaving it ends all."""

    def __init__(
        self,
        cluster: Callable[[], Cluster],
        needs: dict[Role, Callable[[], Bundles]],
        hire: Mapping[Role, Hire],
        ended: Callable[[str], None],
        early: bool = True,
        split: bool = False,
        warm: bool | None = None,
    ) -> None:
        """`cluster` is connected to by the first call, `needs` says what the workers of each role take, and `ended`
        waits until nothing lives that has the mark of a reservation that was given up. `early`: where both roles share
        one reservation, each is hired with the first, and loads its libraries while the other works. `split`: each has
        devices of its own. `warm`: `cluster.warm`."""
        self._cluster, self._needs, self._hire, self._ended = cluster, needs, hire, ended
        self._early, self._split, self._warm = early, split, warm
        self._apart = False  # whether it was told that each turn reserves for itself
        self._held = contextlib.ExitStack()
        self._placement: Placement | None = None
        self._workers: dict[Role, Any] = {}
        self.turn: Role | None = None
        """Whose it is."""

    def __enter__(self) -> Turns:
        return self

    def __exit__(self, *error: Any) -> None:
        self._held.__exit__(*error)

    @property
    def warm(self) -> bool:
        """Whether processes outlive their turn."""
        return not self._cluster().accelerated if self._warm is None else self._warm

    def there(self, role: Role) -> Any:
        """Workers of this role, whosever turn it is; None where there are none now."""
        return self._workers.get(role)

    def of(self, role: Role) -> Any:
        """Workers of this role, whose turn it is from now on.

        Raises:
            NoRoom: the cluster has none for them, or not soon enough.
            BadInput: it never has.
        """
        if self.turn == role:
            return self._workers[role]
        if self.turn == REWARDERS:
            self.release()
        if self._split:
            return self._own(role)
        if not self._may_stay(role):
            self.release()
        elif self.turn is not None:
            self._workers[self.turn].rest()
        self.turn = None
        if self._placement is None:
            self._placement = self._reserve(role)
        for one in (role, *self._others(role)):
            if one not in self._workers:
                place = Share(self._placement, self._needs[one]) if self.warm else self._placement
                self._workers[one] = self._held.enter_context(self._hire[one](place))
        self.turn = role
        return self._workers[role]

    def alone(self, need: Bundles, hire: Hire) -> Any:
        """Reward workers, whose turn it is from now on, until somebody else's: nobody holds anything beside them.

        Raises:
            NoRoom, BadInput: as `of`.
        """
        if self.turn != REWARDERS:
            self.release()
            self._placement = self._held.enter_context(self._cluster().reserve(REWARDERS, *need))
            self._workers[REWARDERS] = self._held.enter_context(hire(self._placement))
            self.turn = REWARDERS
        return self._workers[REWARDERS]

    def _own(self, role: Role) -> Any:
        """Workers that have devices of their own. Reserved together, so that no two jobs wait for each other's half."""
        if self._placement is not None and self._cluster().others_wait():
            self.release()
        if self._placement is None:
            (one, need), (other, beside) = ((who, asked()) for who, asked in self._needs.items())
            reserved = self._cluster().reserve(f"{one} and {other}", *need, None, beside)
            self._placement = self._held.enter_context(reserved)
            for who, place in ((one, Part(self._placement, 0, need)), (other, Part(self._placement, need[0], beside))):
                self._workers[who] = self._held.enter_context(self._hire[who](place))
        self.turn = role
        return self._workers[role]

    def _others(self, role: Role) -> list[Role]:
        """Roles that can be hired although it is not their turn."""
        return [one for one in self._needs if one != role and self._early and self._may_stay(one)]

    def _may_stay(self, role: Role) -> bool:
        """Whether what is reserved serves this role's turn too, and nobody else waits for it."""
        held = self._placement
        if held is None or not self.warm or self._cluster().others_wait():
            return False
        return holds((held.count, held.cpus, held.gpus), self._needs[role]())

    def _reserve(self, role: Role) -> Placement:
        reserved = self._cluster().reserve(role, *self._bundles(role), lambda: self._bundles(role))
        placement: Placement = self._held.enter_context(reserved)
        return placement

    def _bundles(self, role: Role) -> Bundles:
        """For both roles, where that is possible."""
        need, cluster = self._needs[role](), self._cluster()
        both = shared(cluster.nodes(), *(asked() for asked in self._needs.values())) if self.warm else None
        if both is None and self.warm and cluster.accelerated and not self._apart:
            self._apart = True
            cluster.say("turns     no reservation has room for engines and ranks alike: each turn starts new processes")
        return both or need

    @contextlib.contextmanager
    def unused(self, seconds: float | None, tell: Callable[[], None]) -> Iterator[None]:
        """Around work that needs no devices: where it takes longer than so many seconds, they are given back, and
        `tell` is called. Nothing may be asked of workers before `of` has given them anew.

        Raises:
            Exception: what went wrong when they were given back.
        """
        failed: list[Exception] = []

        def give_back() -> None:
            try:
                tell()
                self.release()
            except Exception as error:
                failed.append(error)

        if seconds is None or self._placement is None:
            yield
            return
        timer = threading.Timer(min(seconds, threading.TIMEOUT_MAX), give_back)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
            timer.join()
        if failed:
            raise failed[0]

    def release(self) -> None:
        """End all workers, and wait until they are gone: only then is their memory free for certain."""
        placement, self._placement = self._placement, None
        self._workers.clear()
        self.turn = None
        self._held.close()
        if placement is not None:
            self._ended(placement.mark)
