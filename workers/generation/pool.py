"""Many engines as one: dispatch shards without barriers, replace an engine that dies or hangs."""

from __future__ import annotations

import itertools
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple, Protocol

import ray

from orchestrator.config import Generate
from orchestrator.records.limits import start_limit
from orchestrator.records.rows import SamplingPlan, Shard
from workers.generation.blame import Work
from workers.generation.engine import EngineBroken, EngineKind
from workers.generation.host import host_of
from workers.generation.memory import WAITS, MemoryWait
from workers.generation.shard import Partial, read_prompts
from workers.generation.slot import GenerationFailed, Slot
from workers.logs import logged
from workers.secret_environment import knowing
from workers.supervision.calls import RAY, Calls
from workers.supervision.failures import memory_taken, node_lost
from workers.supervision.kernel import Kills
from workers.supervision.patience import WATCH_SECONDS
from workers.supervision.rested import after_rest, answering

_IN_FLIGHT = 3  # shards an engine has at once: the next ones' prompts fill it while the last samples of one end


class Placement(Protocol):
    """Where the pool's engines may run (orchestrator.driver.cluster.Placement)."""

    @property
    def count(self) -> int: ...
    @property
    def gpus(self) -> int: ...
    def actor_options(self, index: int) -> dict[str, Any]:
        """Ray's options for the actor that is engine `index`."""

    def placed(self) -> list[bool]:
        """Of each engine, whether its place is on a living node."""

    def wait(self) -> None:
        """Return when all are; raises where that takes too long. No engine may be running."""


class _Event(NamedTuple):
    """A call that came back, or an engine that was lost: in a call, at its start, or because it hangs."""

    slot: Slot
    reference: Any
    result: Any
    error: Exception | None = None


class GeneratorPool:
    """Engines that serve one model, and another one after that. A context manager: leaving it ends their processes,
    which gives the devices back for certain, those of an engine that hangs too.

    `kind` says how to make an engine (workers.generation.vllm.VLLM does), and `interval` the seconds between two looks.
    `secrets` are in the environment of the engines, and `kills` begins to watch the kernels of the nodes. A start that
    finds too little memory is made again after each of the `waits`, in seconds, which `say` is told of. What an engine
    prints goes into a file in the folder `logs`. `ready` is told of each engine that `wait_ready` finds to be there.
    """

    def __init__(
        self,
        model: str,
        settings: Generate,
        seed: int,
        placement: Placement,
        kind: EngineKind,
        interval: float = WATCH_SECONDS,
        secrets: Mapping[str, str] | None = None,
        say: Callable[[str], None] = lambda line: None,
        waits: Sequence[float] = WAITS,
        logs: str | None = None,
        calls: Calls = RAY,
        kills: Callable[[], Kills] = Kills,
        ready: Callable[[], None] = lambda: None,
    ) -> None:
        self.model = model
        self._logs = logs
        self._settings = settings
        self.start_limit = start_limit(settings, model)
        """Seconds that an engine may take to load the model."""
        self._seed = seed
        self._placement = placement
        self._kind = kind
        self._interval = interval
        self._secrets = secrets or {}
        self._say = say
        self._memory = MemoryWait(say, waits, calls.clock)
        self._calls, self._look_for_kills, self._ready = calls, kills, ready
        self.resting = False
        """Whether the engines have given the devices back."""
        self._looked = 0.0
        self._slots: list[Slot] = []

    def __enter__(self) -> GeneratorPool:
        self._kills, calls = self._look_for_kills(), self._calls
        for index in range(self._placement.count):
            start = partial(self._start, index)
            limits = (self.start_limit, self._interval)
            self._slots.append(Slot(index, start, self.model, self._settings, *limits, self._kills, calls))
        return self

    def __exit__(self, *_: object) -> None:
        for slot in self._slots:
            slot.kill()
        self._slots = []

    def rest(self) -> None:
        """Give the devices back until `serve`; nothing may be asked of the engines meanwhile. Their processes stay, but
        for those that do not give their memory back: these are ended, which is told."""
        self.resting = True
        for slot in self._slots:
            if not slot.ready:  # it has lost its place, and may find one while it rests
                slot.kill()
        slots = [slot for slot in self._slots if slot.ready]
        told = after_rest(self._calls, [slot.actor.rest.remote() for slot in slots])
        for slot, kept in zip(slots, told, strict=True):
            if kept:
                slot.kill()
                self._say(f"memory    engine {slot.index} {kept}: its process is ended")

    def serve(self, model: str) -> None:
        """Have the engines serve another model, or the same again after a rest; `wait_ready` waits until they do."""
        if not self.resting:
            self.rest()  # which looks whether the old weights are gone
        self.model, self.resting = model, False
        self.start_limit = start_limit(self._settings, model)
        self._kills = self._look_for_kills()
        lives = answering(self._calls, [slot.actor.progress.remote() for slot in self._slots])
        for slot, there in zip(self._slots, lives, strict=True):
            slot.serve(model, self.start_limit, self._kills, there)

    def wait_ready(self) -> None:
        """Return when every engine has loaded the model, but for those that have no place since a node was lost.

        Raises:
            GenerationFailed: with the engine's own words, or after `generate.start_timeout` seconds.
            NoRoom: none has a place, or one found too little memory at every start.
        """
        self._kills.wait()
        limit = self.start_limit
        deadline = self._calls.clock() + limit
        while starting := {slot.started: slot for slot in self._slots if not slot.ready}:
            left = max(0.0, deadline - self._calls.clock())
            ready, _ = self._calls.wait(list(starting), timeout=min(self._interval, left))
            if not ready:
                homeless = self._homeless()
                if len(homeless) == len(starting) and len(starting) < len(self._slots):
                    return  # those that are there begin
                if homeless:
                    deadline = self._calls.clock() + limit
                if self._calls.clock() >= deadline:
                    raise GenerationFailed(
                        f"{self._kind.name} did not start to serve {self.model} within {limit:g} s. If the model takes "
                        "longer to load, raise generate.start_timeout; otherwise see what it said: `ratchet logs RUN`."
                    )
                continue
            slot = starting[ready[0]]
            try:
                self._calls.get(ready[0])
            except ray.exceptions.RayError as error:
                if node_lost(error):
                    slot.restart()
                    continue
                if memory_taken(error):
                    self._memory.again(slot, error)
                    deadline = self._calls.clock() + limit
                    continue
                if slot.was_killed(error):
                    slot.replace(error, progressed=False)
                    continue
                raise GenerationFailed(f"{self._kind.name} cannot serve {self.model}: {slot.why(error)}") from error
            slot.ready = True
            self._ready()
            self._memory.started(slot)

    def _homeless(self) -> list[Slot]:
        """Engines whose place is on no living node; where no other is left, there is room for them again first.

        Raises:
            NoRoom: there is not.
        """
        if all(slot.ready for slot in self._slots):
            return []
        placed = self._placement.placed()
        homeless = [slot for slot in self._slots if not slot.ready and not placed[slot.index]]
        if len(homeless) == len(self._slots):
            self._placement.wait()
            for slot in homeless:  # the places may be other ones now
                slot.restart()
        for slot in homeless:
            slot.wait_for_place()
        return homeless

    def _housed(self) -> list[Slot]:
        homeless = self._homeless()
        return [slot for slot in self._slots if slot not in homeless]

    def generate(self, shards: list[Shard], plan: SamplingPlan) -> Iterator[tuple[Shard, dict[str, Any]]]:
        """Yield each shard with its facts as it is finished, in the order of finishing.

        An engine that dies or hangs is replaced, and only its unfinished prompts are dispatched again. One that was
        in the engine at three deaths, the last time alone, is left out (`quarantined` in the facts). `engines_lost`
        tells why engines were replaced since the last shard; both keys are there only when there is something to say.

        Raises:
            GenerationFailed: an engine cannot be started again, or is lost without finishing any prompt.
            NoRoom: as above.
        """
        yield from _Sampling(self._slots, plan, self._memory).run(shards, self._events)

    def logprobs(self, prompts: list[list[int]], completions: list[list[int]]) -> list[list[float | None]]:
        """Summed log-probabilities of completions, from each engine that has a place; None for what does not fit its
        context."""
        running: dict[Any, Slot] = {}
        results: dict[int, list[float | None]] = {}
        while any(slot.index not in results for slot in self._housed()):
            for slot in self._slots:
                if slot.ready and slot.load == 0 and slot.index not in results:
                    running[slot.taken().logprobs.remote(prompts, completions)] = slot
            for event in self._events(running):
                running = {r: s for r, s in running.items() if r != event.reference}
                if event.error is None:
                    event.slot.progressed()
                    results[event.slot.index] = event.result
                    continue
                if not event.slot.ready and memory_taken(event.error):
                    self._memory.again(event.slot, event.error)
                    continue
                _raise_unless_lost("the probe", event)
                running = {r: s for r, s in running.items() if s is not event.slot}
                event.slot.replace(event.error, progressed=False)
        return [results[index] for index in sorted(results)]

    def _start(self, index: int) -> Any:
        options = self._placement.actor_options(index)
        environment = dict(self._kind.environment) | options.pop("runtime_env")["env_vars"]  # with the user's own
        # Threads beyond the shards in flight answer `pid`, `progress` and the probe while shards run.
        options |= {"runtime_env": {"env_vars": environment}, "max_concurrency": _IN_FLIGHT + 2}
        # Engines seeded as a whole must not all draw the same samples.
        kind, seed, accelerated = self._kind, self._seed + index, self._placement.gpus > 0
        log = self._logs and f"{self._logs}/engine-{index}.log"
        before = [*([log] if log else []), *([self._secrets] if self._secrets else [])]
        arguments = (*before, kind.make, kind.prepare, self._settings, seed, accelerated)
        return self._calls.start(logged(knowing(host_of(kind.make), self._secrets), log), arguments, options)

    def _events(self, running: dict[Any, Slot]) -> Iterator[_Event]:
        """What happens next, if anything within a few seconds. `running` maps calls under way to their engines."""
        starting = {slot.started: slot for slot in self._slots if not slot.ready}
        ready, _ = self._calls.wait([*running, *starting], timeout=self._interval)
        for reference in ready:
            slot = running.get(reference) or starting[reference]
            try:
                result = self._calls.get(reference)
            except ray.exceptions.RayError as error:
                yield _Event(slot, reference, None, error)
                continue
            if reference in running:
                slot.done()
                yield _Event(slot, reference, result)
            else:
                slot.ready = True
                self._memory.started(slot)
        if self._calls.clock() - self._looked >= self._interval:
            self._looked = self._calls.clock()
            self._homeless()
            for slot in self._slots:
                if (hangs := slot.stalled()) is not None:
                    yield _Event(slot, None, None, hangs)


class _Sampling:
    """One pass over shards: which wait, which are where."""

    def __init__(self, slots: list[Slot], plan: SamplingPlan, memory: MemoryWait) -> None:
        self._slots, self._plan, self._memory = slots, plan, memory
        self._fresh: deque[Work] = deque()
        self._struck: deque[Work] = deque()  # shards that were in a death: each needs an engine to itself
        self._running: dict[Any, tuple[Slot, Work, Shard]] = {}
        self._lost: list[str] = []  # why engines were lost since the last shard
        self._attempts = itertools.count(1)

    def run(self, shards: Iterable[Shard], events: Any) -> Iterator[tuple[Shard, dict[str, Any]]]:
        self._fresh.extend(Work(shard) for shard in shards)
        while self._fresh or self._struck or self._running:
            self._dispatch()
            for event in events({reference: slot for reference, (slot, *_) in self._running.items()}):
                if event.error is not None:
                    self._engine_lost(event)
                    continue
                _, work, sent = self._running.pop(event.reference)
                if work.only is None or work.only:  # else all that was left is given up, and no engine has drawn
                    event.slot.progressed()
                if event.result is None:
                    self._go_on(work)
                    continue
                os.replace(sent.written, work.shard.output)
                lost, self._lost = self._lost, []
                yield work.shard, event.result | ({"engines_lost": lost} if lost else {})

    def _dispatch(self) -> None:
        """Fresh shards first: those that may take an engine down wait until there is nothing else to lose."""
        while self._fresh:
            free = [s for s in self._slots if s.ready and not s.exclusive and s.load < _IN_FLIGHT]
            if not free:
                return
            self._send(min(free, key=lambda s: s.load), self._fresh.popleft())
        while self._struck:
            idle = [s for s in self._slots if s.ready and s.load == 0]
            if not idle:
                return
            self._send(min(idle, key=lambda s: s.deaths), self._struck.popleft())

    def _send(self, slot: Slot, work: Work) -> None:
        shard = replace(work.shard, attempt=next(self._attempts))
        engine = slot.taken(work.exclusive)
        reference = engine.generate.remote(shard, self._plan, work.only, work.quarantined)
        self._running[reference] = (slot, work, shard)

    def _go_on(self, work: Work) -> None:
        """Some prompts of a shard are done, and its suspects are left."""
        work.choose(list(read_prompts(work.shard)), self._finished(work))
        self._struck.appendleft(work)

    def _engine_lost(self, event: _Event) -> None:
        if event.reference in self._running:
            _raise_unless_lost(f"shard {self._running[event.reference][1].shard.index}", event)
        assert event.error is not None
        if not event.slot.ready and node_lost(event.error):  # before it had any work: Ray had thought the node alive
            event.slot.restart()
            return
        if not event.slot.ready and memory_taken(event.error):
            self._memory.again(event.slot, event.error)
            return
        lost = [work for slot, work, _ in self._running.values() if slot is event.slot]
        self._running = {r: held for r, held in self._running.items() if held[0] is not event.slot}
        before = sum(len(work.quarantined) for work in lost)
        blameless = node_lost(event.error)
        progressed = [self._charge(work, blameless) for work in lost]
        given_up = sum(len(work.quarantined) for work in lost) > before
        self._lost.append(event.slot.replace(event.error, any(progressed), given_up))
        for work in reversed(lost):
            (self._struck if work.exclusive else self._fresh).appendleft(work)

    def _charge(self, work: Work, blameless: bool) -> bool:
        """Settle what a dead engine leaves of a shard; returns whether any prompt was finished since the last time. No
        prompt is to blame where the whole node was lost."""
        prompts, finished = list(read_prompts(work.shard)), self._finished(work)
        if not blameless:
            work.engine_died(prompts, finished)
            work.choose(prompts, finished)
        before, work.finished = work.finished, len(finished)
        return work.finished > before

    def _finished(self, work: Work) -> set[str]:
        return set(Partial(work.shard.output).read(self._plan.samples))


def _raise_unless_lost(what: str, event: _Event) -> None:
    """An error that the engine survived would only come again: a full disk, a request that the engine refuses.

    Raises:
        GenerationFailed: with the worker's own words.
    """
    error = event.error
    if isinstance(error, ray.exceptions.RayTaskError) and not isinstance(error.cause, EngineBroken):
        raise GenerationFailed(f"{what} on engine {event.slot.index}: {event.slot.why(error)}") from error
