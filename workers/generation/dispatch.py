"""Shards to engines without barriers, in smaller and smaller parts near the end, so that engines finish together."""

from __future__ import annotations

import itertools
import math
import os
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Iterator
from dataclasses import replace
from statistics import fmean
from typing import Any, NamedTuple

import ray

from orchestrator.records.rows import SamplingPlan, Shard
from workers.generation.blame import Work
from workers.generation.engine import EngineBroken
from workers.generation.memory import MemoryWait
from workers.generation.parts import join, parts_of
from workers.generation.shard import Partial, read_prompts
from workers.generation.slot import GenerationFailed, Slot
from workers.supervision.failures import memory_taken, node_lost

MOST_CALLS = 128
"""Calls that an engine has at once, each in a thread of its process."""
LEAST_CALLS = 2
"""The same at least: the next one's prompts fill the engine while the last samples of one end."""
_FULL = 1.5
"""Times an engine's sequences at once: with so many samples to draw it has enough until it tells again how many."""
AHEAD = 6
"""The same of samples in calls under way, most of which are drawn: a call ends with the longest of its samples."""
_IN_PARTS = 6
"""Times all engines' sequences at once: when no more samples than these wait behind a unit, all go out in parts."""
SEQUENCES = 256
"""At once, of an engine that nobody has told."""
_PART = 16
"""A part has as many samples as this part of an engine's sequences at once, and at least one prompt."""
_PART_BY_LENGTH = 32
"""The same where parts go out by how long their samples are expected to be, which the fewer the better tell apart."""


class Event(NamedTuple):
    """A call that came back, or an engine that was lost: in a call, at its start, or because it hangs."""

    slot: Slot
    reference: Any
    result: Any
    error: Exception | None = None


class _Call(NamedTuple):
    """A call under way."""

    slot: Slot
    work: Work
    sent: Shard
    """The work's shard, with the number of this attempt."""
    samples: int


class Sampling:
    """One pass over shards: which wait, which are where. `sequences` is how many an engine works on at once; where that
    is left to the engine, an assumption serves, which changes nothing but the time."""

    def __init__(self, slots: list[Slot], plan: SamplingPlan, memory: MemoryWait, sequences: int | None) -> None:
        self._slots, self._plan, self._memory = slots, plan, memory
        self._sequences = sequences or SEQUENCES
        self._fresh: deque[Work] = deque()
        self._waiting = 0  # prompts in `_fresh`
        self._whole = True
        """Whether units go out whole."""
        self._struck: deque[Work] = deque()  # works that were in a death: each needs an engine to itself
        self._running: dict[Any, _Call] = {}
        self._asked: Counter[int] = Counter()  # samples in calls under way, by engine
        self._left: Counter[int] = Counter()  # of these, those that are not drawn yet, as far as is known
        self._parts: dict[str, list[tuple[Shard, dict[str, Any]]]] = defaultdict(list)
        self._lost: list[str] = []  # why engines were lost since the last shard
        self._attempts = itertools.count(1)

    def run(self, shards: Iterable[Shard], events: Any) -> Iterator[tuple[Shard, dict[str, Any]]]:
        """As `GeneratorPool.generate`; `events` tells what has happened since, given calls under way with their slots.

        Raises:
            GenerationFailed, NoRoom: as there.
        """
        for shard in shards:
            self._fresh.append(Work(shard, shard))
            self._waiting += _prompts(shard)
        while self._fresh or self._struck or self._running:
            self._dispatch()
            for event in events({reference: call.slot for reference, call in self._running.items()}):
                if event.error is not None:
                    self._engine_lost(event)
                    continue
                slot, work, sent, samples = self._running.pop(event.reference)
                self._asked[slot.index] -= samples
                result, self._left[slot.index] = event.result
                if work.only is None or work.only:  # else all that was left is given up, and no engine has drawn
                    slot.progressed()
                if result is None:
                    self._go_on(work)
                    continue
                os.replace(sent.written, work.shard.output)
                if (facts := self._of_unit(work, result)) is None:
                    continue
                lost, self._lost = self._lost, []
                yield work.unit, facts | ({"engines_lost": lost} if lost else {})

    def _of_unit(self, work: Work, facts: dict[str, Any]) -> dict[str, Any] | None:
        """The facts of the work's unit, if that is done with it."""
        if work.shard == work.unit:
            return facts
        parts = self._parts[work.unit.output]
        parts.append((work.shard, facts))
        if sum(_prompts(part) for part, _ in parts) < _prompts(work.unit):
            return None
        return join(work.unit, self._parts.pop(work.unit.output))

    def _dispatch(self) -> None:
        """Fresh works first: those that may take an engine down wait until there is nothing else to lose."""
        while self._fresh:
            free = [s for s in self._slots if s.ready and not s.exclusive and self._takes_more(s)]
            if not free:
                return
            if self._whole and self._ends():
                self._cut()
            self._send(min(free, key=lambda s: (self._left[s.index], s.load)), self._next())
        while self._struck:
            idle = [s for s in self._slots if s.ready and s.load == 0]
            if not idle:
                return
            self._send_struck(min(idle, key=lambda s: s.deaths))

    def _next(self) -> Work:
        work = self._fresh.popleft()
        self._waiting -= _prompts(work.shard)
        return work

    def _takes_more(self, slot: Slot) -> bool:
        """Parts come back often, and each time the engine says how much it has left; whole units may not."""
        if not 0 < slot.load < MOST_CALLS:
            return slot.load == 0
        if self._left[slot.index] < _FULL * self._sequences:
            return True
        few = slot.load < LEAST_CALLS or self._asked[slot.index] < AHEAD * self._sequences
        return self._whole and few

    def _ends(self) -> bool:
        """Whether too little would wait behind the next unit for engines to finish together. A single one's end is no
        earlier for parts."""
        behind = (self._waiting - _prompts(self._fresh[0].shard)) * self._plan.samples
        return len(self._slots) > 1 and behind <= _IN_PARTS * self._sequences * len(self._slots)

    def _cut(self) -> None:
        """Have the last units go out in parts, so that engines finish together. Where it is known from a round before
        which of them are long, those are begun first: what is begun late and long is what engines end with."""
        self._whole = False
        known = all(work.shard.expected for work in self._fresh)
        size = _PART_BY_LENGTH if known else _PART
        prompts = math.ceil(self._sequences / size / self._plan.samples)
        works: list[Work] = []
        for work in self._fresh:
            if work.begun or prompts >= _prompts(work.shard):
                works.append(work)
            else:
                works.extend(Work(part, work.unit) for part in parts_of(work.shard, prompts))
        if known:
            works.sort(key=lambda work: (not work.begun, -fmean(work.shard.expected)))
        self._fresh = deque(works)

    def _send_struck(self, slot: Slot) -> None:
        """A work that was in a death, to an engine that has no other; and further parts, as many as make a unit, since
        an engine may have had many of them. A suspect goes alone."""
        work = self._struck.popleft()
        most, prompts = _prompts(work.unit), _prompts(work.shard)
        self._send(slot, work)
        while self._struck and not (work.alone or self._struck[0].alone):
            prompts += _prompts(self._struck[0].shard)
            if prompts > most:
                return
            self._send(slot, self._struck.popleft())

    def _send(self, slot: Slot, work: Work) -> None:
        shard = replace(work.shard, attempt=next(self._attempts))
        engine = slot.taken(work.exclusive)
        reference = engine.generate.remote(shard, self._plan, work.only, work.quarantined)
        samples = self._plan.samples * (_prompts(work.shard) if work.only is None else len(work.only))
        self._asked[slot.index] += samples
        self._left[slot.index] += samples
        self._running[reference] = _Call(slot, work, shard, samples)
        work.begun = True

    def _go_on(self, work: Work) -> None:
        """Some prompts of a shard are done, and its suspects are left."""
        work.choose(list(read_prompts(work.shard)), self._finished(work))
        self._struck.appendleft(work)

    def _engine_lost(self, event: Event) -> None:
        if event.reference in self._running:
            raise_unless_lost(f"shard {self._running[event.reference].sent.index}", event)
        assert event.error is not None
        slot = event.slot
        if not slot.ready and node_lost(event.error):  # before it had any work: Ray had thought the node alive
            slot.restart()
            return
        if not slot.ready and memory_taken(event.error):
            self._memory.again(slot, event.error)
            return
        lost = [call.work for call in self._running.values() if call.slot is slot]
        self._running = {r: call for r, call in self._running.items() if call.slot is not slot}
        self._asked[slot.index] = self._left[slot.index] = 0
        before = sum(len(work.quarantined) for work in lost)
        blameless = node_lost(event.error)
        progressed = [self._charge(work, blameless) for work in lost]
        given_up = sum(len(work.quarantined) for work in lost) > before
        self._lost.append(slot.replace(event.error, any(progressed), given_up))
        for work in reversed(lost):
            if work.exclusive:
                self._struck.appendleft(work)
            else:
                self._fresh.appendleft(work)
                self._waiting += _prompts(work.shard)

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


def _prompts(shard: Shard) -> int:
    return shard.stop - shard.start


def raise_unless_lost(what: str, event: Event) -> None:
    """An error that the engine survived would only come again: a full disk, a request that the engine refuses.

    Raises:
        GenerationFailed: with the worker's own words.
    """
    error = event.error
    if isinstance(error, ray.exceptions.RayTaskError) and not isinstance(error.cause, EngineBroken):
        raise GenerationFailed(f"{what} on engine {event.slot.index}: {event.slot.why(error)}") from error
