"""Simulated time, and actors in it, behind the protocol that the pool, the group and the graders have towards Ray.

The driver's code is real, and its time counts as it is: what it takes between two calls passes in simulated time, too.
Where it waits, time leaps to the next event.
"""

from __future__ import annotations

import heapq
import itertools
import os
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import ray

from benchmarks.scale.accounts import Accounts
from benchmarks.scale.model import Case
from workers.generation.host import EngineHost


class Awake:
    """Seconds of the clock without those for which this thread was ready and had no core (proc(5), schedstat): the work
    and the waits for the disk, and nothing of what else the machine is doing."""

    def __init__(self) -> None:
        self._file = os.open("/proc/thread-self/schedstat", os.O_RDONLY)

    def __call__(self) -> float:
        return time.perf_counter() - int(os.pread(self._file, 100, 0).split()[1]) / 1e9


class Killed(BaseException):
    """The driver is to be killed at this moment."""


class Ref:
    """The answer of a call."""

    def __init__(self, simulation: Simulation) -> None:
        self.simulation, self.done, self.value = simulation, False, None
        self.error: Exception | None = None

    def complete(self, value: Any = None, error: Exception | None = None) -> None:
        if not self.done:
            self.done, self.value, self.error = True, value, error
            self.simulation.answered.append(self)


class Stream(Ref):
    """Answers that come one by one, as of a method that yields."""

    def __init__(self, simulation: Simulation) -> None:
        super().__init__(simulation)
        self._items: deque[Ref] = deque()
        self._over = False

    def give(self, value: Any) -> None:
        item = Ref(self.simulation)
        item.done, item.value = True, value
        self._items.append(item)
        super().complete()

    def complete(self, value: Any = None, error: Exception | None = None) -> None:
        if error is not None and not self._over:
            item = Ref(self.simulation)
            item.done, item.error = True, error
            self._items.append(item)
        self._over = True
        super().complete()

    def __iter__(self) -> Iterator[Ref]:
        return self

    def __next__(self) -> Ref:
        if not self._items:
            raise StopIteration
        item = self._items.popleft()
        self.done = bool(self._items) or self._over
        return item


class Event:
    """Something that happens at a time, unless it is `off` by then."""

    def __init__(self, work: Callable[[], None]) -> None:
        self.work, self.off = work, False


class Method:
    """`actor.name`, to be called with `remote`."""

    def __init__(self, handle: Handle, name: str, stream: bool = False) -> None:
        self._handle, self._name, self._stream = handle, name, stream

    def options(self, num_returns: str) -> Method:
        return Method(self._handle, self._name, num_returns == "streaming")

    def remote(self, *arguments: Any) -> Ref:
        return self._handle.worker.called(self._name, arguments, self._stream)


class Handle:
    """What whoever starts an actor gets."""

    def __init__(self, worker: Any) -> None:
        self.worker = worker

    def __getattr__(self, name: str) -> Method:
        return Method(self, name)


class Simulation:
    """Time and actors. `now` is the simulated time in seconds; `end` the moment at which the driver is killed."""

    def __init__(self, case: Case, now: float = 0.0, end: float | None = None) -> None:
        self.case, self.now, self.end = case, now, end
        self.accounts = Accounts(case.gpus, now)
        self.answered: list[Ref] = []
        self.workers: list[Any] = []
        self.calls: Counter[str] = Counter()
        self.driver_seconds = self.driver_cpu = 0.0
        self.before_workers = 0.0
        self.charged: Counter[str] = Counter()
        self._events: list[tuple[float, int, Event]] = []
        self._order = itertools.count()
        self.awake = Awake()
        self._left, self._left_cpu = self.awake(), time.thread_time()
        self._inside = 0
        self.parts: Counter[str] = Counter()
        self.parts_cpu: Counter[str] = Counter()
        self._told = (0.0, 0.0)
        self.on_killed: Callable[[], None] = lambda: None
        self.cluster: Any = None
        self.group: Any = None

    # Events

    def at(self, moment: float, work: Callable[[], None]) -> Event:
        """Have something done at a time."""
        event = Event(work)
        heapq.heappush(self._events, (moment, next(self._order), event))
        return event

    def after(self, seconds: float, work: Callable[[], None]) -> Event:
        return self.at(self.now + seconds, work)

    def _happen(self, until: float) -> bool:
        """Let the next event happen that is due by then."""
        while self._events and self._events[0][0] <= until:
            moment, _, event = heapq.heappop(self._events)
            if event.off:
                continue
            self.now = max(self.now, moment)
            event.work()
            return True
        return False

    def leap(self, seconds: float, why: str) -> None:
        """The driver is blocked for so long."""
        with self.inside():
            self.block(self.now + seconds, why, lambda: False)

    def block(self, until: float, why: str, over: Callable[[], bool]) -> None:
        """Let time pass until then, or until it is over."""
        accounts = self.accounts
        accounts.settle(self.now)
        before, accounts.waiting = accounts.waiting, why
        while not over():
            limit = until if self.end is None else min(until, self.end)
            if self._happen(limit):
                continue
            self.now = max(self.now, limit)
            if self.end is not None and self.now >= self.end:
                self.killed()
            break
        accounts.settle(self.now)
        accounts.waiting = before

    # The driver's time

    def inside(self) -> Simulation:
        return self

    def __enter__(self) -> None:
        """The driver's code calls: what it has taken since the last call has passed."""
        self._inside += 1
        if self._inside > 1:
            return
        seconds, cpu = self.awake() - self._left, time.thread_time() - self._left_cpu
        seconds = max(seconds, 0.0)
        self.driver_seconds += seconds
        self.driver_cpu += cpu
        self.pass_for_driver(seconds)

    def __exit__(self, *_: object) -> None:
        self._inside -= 1
        if not self._inside:
            self._left, self._left_cpu = self.awake(), time.thread_time()

    def pass_for_driver(self, seconds: float) -> None:
        """The driver is busy for so long, while everything else goes on."""
        until = self.now + seconds
        self.accounts.settle(self.now)
        self.accounts.driver_runs = True
        while self._happen(until):
            pass
        self.now = max(self.now, until)
        self.accounts.settle(self.now)
        self.accounts.driver_runs = False
        if self.end is not None and self.now >= self.end:
            self.killed()

    def killed(self) -> None:
        """The driver's process is gone, and what its workers were at is lost.

        Raises:
            Killed: where nobody has said what is to happen then.
        """
        for worker in list(self.workers):
            if not worker.dead:
                worker.abandoned()
        self.accounts.settle(self.now)
        self.on_killed()
        raise Killed

    def part(self, line: str) -> None:
        """The driver says that a step is done: what it has taken since the last one was for that."""
        with self.inside():  # what it has taken since the last call
            pass
        words = [word for word in line.split() if "/" not in word]
        so_far = (self.driver_seconds, self.driver_cpu)
        for counted, now, before in zip((self.parts, self.parts_cpu), so_far, self._told, strict=True):
            counted[words[0]] += now - before
        self._told = so_far

    # What Ray is asked (workers.supervision.calls.Calls)

    def start(self, kind: Any, arguments: Sequence[Any], options: Mapping[str, Any], watched: bool = False) -> Handle:
        with self.inside():
            if not self.calls["start"]:
                self.before_workers = self.driver_seconds
            self.charge("start", self.case.costs.ray_call)
            if issubclass(kind, EngineHost):  # an engine's process, which here is the engine
                kind, arguments = arguments[0], arguments[2:]
            worker = kind(self, options, *arguments)
            self.workers.append(worker)
            worker.place.arrive(worker)
            return Handle(worker)

    def wait(
        self, references: Sequence[Any], timeout: float | None = None, num_returns: int = 1
    ) -> tuple[list[Any], list[Any]]:
        with self.inside():
            costs = self.case.costs
            self.calls["references waited for"] += len(references)
            self.charge("wait", costs.ray_wait + costs.ray_wait_each * len(references))
            wanted, self.answered = set(references), []
            ready = [reference for reference in references if reference.done]

            def enough() -> bool:
                if self.answered:
                    ready.extend(r for r in self.answered if r in wanted and r not in ready)
                    self.answered = []
                return len(ready) >= num_returns

            until = float("inf") if timeout is None else self.now + timeout
            self.block(until, self.accounts.waiting, enough)
            taken = ready[:num_returns]
            return taken, [reference for reference in references if reference not in taken]

    def get(self, reference: Any) -> Any:
        with self.inside():
            self.charge("get", self.case.costs.ray_call)
            if not reference.done:
                self.block(float("inf"), self.accounts.waiting, lambda: reference.done)
        if reference.error is not None:
            raise reference.error
        return reference.value

    def kill(self, handle: Handle) -> None:
        with self.inside():
            self.charge("kill", self.case.costs.ray_call)
            handle.worker.ended()

    def clock(self) -> float:
        return self.now + (0.0 if self._inside else max(0.0, self.awake() - self._left))

    def charge(self, what: str, seconds: float) -> None:
        """What takes the driver so long, and is not done here: a call of Ray's, or the hash of a checkpoint."""
        self.calls[what] += 1
        self.charged["hash" if what == "hash" else "Ray"] += seconds
        self.pass_for_driver(seconds)


class ProcessDied(ray.exceptions.RayActorError):
    """As Ray says it of a process that was killed."""

    def __init__(self) -> None:
        super().__init__(error_msg="Worker unexpectedly exits with a connection error code 2")


class NodeDied(ray.exceptions.RayActorError):
    """As Ray says it of all that ran on a node."""

    def __init__(self) -> None:
        super().__init__(error_msg="The actor died because its node has died")
