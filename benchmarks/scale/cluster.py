"""Nodes that fail and are replaced, workers on them, and what stands for orchestrator.driver.cluster.Cluster."""

from __future__ import annotations

import contextlib
import random
import uuid
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from benchmarks.scale.simulation import Event, NodeDied, ProcessDied, Ref, Simulation, Stream
from orchestrator.driver.nodes import Node
from orchestrator.errors import NoRoom
from workers.supervision.kernel import Kills

_CPUS = 96  # of a node


class Place:
    """Where a node stands, or is missing."""

    def __init__(self, simulation: Simulation, index: int) -> None:
        self.simulation, self.index = simulation, index
        self.alive, self.number = True, 0
        self.workers: list[Worker] = []

    def arrive(self, worker: Worker) -> None:
        """A worker is to start here, as soon as a node is here."""
        self.workers.append(worker)
        if self.alive:
            worker.spawned()

    def fail(self) -> None:
        simulation, failures = self.simulation, self.simulation.case.failures
        self.alive, gone = False, self.workers
        self.workers = []
        for worker in gone:
            worker.lost(NodeDied(), failures.found_node)
        simulation.accounts.switch(simulation.now, simulation.case.node_gpus, "free", "node down")
        simulation.after(simulation.cluster.random.expovariate(1 / failures.replaced), self.come_back)

    def come_back(self) -> None:
        simulation = self.simulation
        self.alive, self.number = True, self.number + 1
        simulation.accounts.switch(simulation.now, simulation.case.node_gpus, "node down", "free")
        for worker in self.workers:
            worker.spawned()


class Worker:
    """An actor's process. Calls wait until it has started; a subclass answers them in `answer`, and says in `starting`
    how long the start takes, and under which state of its GPUs."""

    gpus = 1
    starts_as = "starting"

    def __init__(self, simulation: Simulation, options: Mapping[str, Any]) -> None:
        self.simulation = simulation
        self.place: Place = options["place"]
        self.state: str | None = None
        self.ready = self.dead = self.hangs = self.here = False
        self._open: list[Ref] = []
        self._queue: list[tuple[str, tuple[Any, ...], Ref]] = []
        self._start: Event | None = None
        self._error: Exception | None = None

    # Life

    def starting(self) -> float:
        """Seconds from the end of the process's imports to the answer to the first call."""
        raise NotImplementedError

    def spawned(self) -> None:
        """Its node is there."""
        if self.dead:
            return
        self.here = True
        self.become(self.starts_as)
        self._start = self.simulation.after(self.simulation.case.costs.process, self._begin)

    def _begin(self) -> None:
        if not self.dead:  # all that start together are known by now
            self._start = self.simulation.after(self.starting(), self._started)

    def _started(self) -> None:
        if self.dead:
            return
        self.ready = True
        self.become("engine idle")
        for name, arguments, ref in self._queue:
            self.answer(name, arguments, ref)
        self._queue = []

    def become(self, state: str | None) -> None:
        """Its GPUs are in another state; None: it holds them no longer."""
        if self.gpus and state != self.state:
            now = self.simulation.now
            self.simulation.accounts.switch(now, self.gpus, self.state or "free", state or "free")
        self.state = state

    def ended(self) -> None:
        """The driver has killed it."""
        if not self.dead:
            self.stopped()
            self._leave()

    def lost(self, error: Exception, found: float) -> None:
        """It dies; the driver hears of it after so many seconds."""
        self.stopped()
        self._leave()
        self._error = error
        for ref in self._open:
            self.simulation.after(found, lambda ref=ref: ref.complete(error=error))

    def _leave(self) -> None:
        self.dead = True
        if self._start is not None:
            self._start.off = True
        self.become(None)
        if self in self.place.workers:
            self.place.workers.remove(self)

    def abandoned(self) -> None:
        """The driver is gone, and nobody will ask for what was finished."""
        self.stopped()

    def stopped(self) -> None:
        """Settle what is under way: the process is about to be gone."""

    # Calls

    def called(self, name: str, arguments: tuple[Any, ...], stream: bool) -> Ref:
        simulation = self.simulation
        with simulation.inside():
            simulation.charge("call", simulation.case.costs.ray_call)
            ref = Stream(simulation) if stream else Ref(simulation)
            self._open = [other for other in self._open if not other.done or isinstance(other, Stream)]
            self._open.append(ref)
            if self.dead:
                found = simulation.case.failures.found_process
                simulation.after(found, lambda: ref.complete(error=self._error or ProcessDied()))
            elif not self.ready:
                self._queue.append((name, arguments, ref))
            else:
                self.answer(name, arguments, ref)
        return ref

    def answer(self, name: str, arguments: tuple[Any, ...], ref: Ref) -> None:
        """Do what is asked, and complete `ref` some time."""
        raise NotImplementedError


class NoKills(Kills):
    """Of kernels that kill nothing."""

    def __init__(self) -> None:
        pass

    def wait(self) -> None:
        pass

    def since(self, error: BaseException) -> int:
        return 0


class SimulatedPlacement:
    """Bundles on places, one after the other."""

    def __init__(self, cluster: SimulatedCluster, count: int, gpus: int) -> None:
        self.count, self.gpus, self.mark = count, gpus, uuid.uuid4().hex
        self._cluster = cluster
        each = cluster.case.node_gpus // gpus
        self._places = [cluster.places[index // each] for index in range(count)]

    def actor_options(self, index: int) -> dict[str, Any]:
        return {"num_gpus": self.gpus, "place": self._places[index], "runtime_env": {"env_vars": {}}}

    def placed(self) -> list[bool]:
        return [place.alive for place in self._places]

    def wait(self) -> None:
        self._cluster.until_whole(lambda: all(place.alive for place in self._places))


class SimulatedCluster:
    """What RealWorkers asks of a cluster; `timeout` is `cluster.timeout`."""

    accelerated = True

    def __init__(self, simulation: Simulation, timeout: float, seed: int) -> None:
        self.simulation, self.case, self._timeout = simulation, simulation.case, timeout
        simulation.cluster = self
        self.random = random.Random(seed)
        self.say: Callable[[str], None] = lambda line: None
        self.failures = {"nodes": 0, "processes": 0, "hangs": 0}
        self.places = [Place(simulation, index) for index in range(self.case.nodes)]
        self.head = Place(simulation, -1)  # where the graders are
        self._next_failure()

    def __enter__(self) -> SimulatedCluster:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def _next_failure(self) -> None:
        mean = self.case.mean_time_between_failures
        if mean < float("inf"):
            self.simulation.after(self.random.expovariate(1 / mean), self._failure)

    def _failure(self) -> None:
        self._next_failure()
        place, share = self.random.choice(self.places), self.case.failures
        if self.random.random() < share.node_share:
            if place.alive:
                self.failures["nodes"] += 1
                place.fail()
            return
        living = [worker for worker in place.workers if worker.here]
        if not living:
            return
        worker = self.random.choice(living)
        if self.random.random() < share.hang_share and worker.ready:
            self.failures["hangs"] += 1
            worker.stopped()
            worker.hangs = True
            worker.become("hanging")
        else:
            self.failures["processes"] += 1
            worker.lost(ProcessDied(), share.found_process)

    def until_whole(self, whole: Callable[[], bool]) -> None:
        """Return when a placement is whole.

        Raises:
            NoRoom: after `cluster.timeout` seconds.
        """
        if whole():
            return
        simulation = self.simulation
        with simulation.inside():
            simulation.block(simulation.now + self._timeout, "waiting for a node", whole)
        if not whole():
            raise NoRoom("a node is missing")

    @contextlib.contextmanager
    def reserve(self, what: str, count: int, cpus: int, gpus: int, again: Any = None) -> Iterator[SimulatedPlacement]:
        placement = SimulatedPlacement(self, count, gpus)
        placement.wait()
        yield placement

    def check_room(self, what: str, count: int, cpus: int, gpus: int) -> None:
        pass

    def nodes(self) -> list[Node]:
        living = [place for place in self.places if place.alive]
        return [Node(f"{p.index}.{p.number}", f"node-{p.index}", _CPUS, self.case.node_gpus) for p in living]

    def cpus_for(self, workers: int, gpus_each: int) -> int:
        return gpus_each

    def on_nodes(self, function: Callable[..., Any], *arguments: Any, timeout: float) -> dict[Node, Any]:
        """All that is asked of the nodes here is whether the processes of a phase are gone."""
        self.simulation.leap(self.case.costs.ending, "between phases")
        return {}
