"""What a model says of given completions: a shard of requests by one engine, and shards of them by many."""

from __future__ import annotations

import itertools
import os
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any

import pyarrow as pa

from orchestrator.records.harness import REQUESTS, SCORES
from orchestrator.records.parquet import Rows
from orchestrator.records.rows import Shard
from workers.files import write_table
from workers.generation.dispatch import LEAST_CALLS, raise_unless_lost
from workers.generation.engine import Scored
from workers.generation.memory import MemoryWait
from workers.generation.slot import GenerationFailed, Slot
from workers.supervision.failures import memory_taken, node_lost

_MOST_DEATHS = 3
"""Engines that are lost with one shard before it is taken to be at fault."""

Score = Callable[[list[list[int]], list[list[int]]], list[Scored | None]]


def score_shard(shard: Shard, score: Score) -> dict[str, Any]:
    """Write what `score` says of the shard's requests (schema REQUESTS) to `shard.written` (schema SCORES), in their
    order; returns how many, and their tokens.

    Raises:
        EngineBroken: see `Engine.score`.
    """
    table = Rows(shard.source, REQUESTS.names).between(shard.start, shard.stop)
    prompts, completions = table["token_ids"].to_pylist(), table["completion_token_ids"].to_pylist()
    said = score(prompts, completions)
    columns = {
        "prompt_id": table["prompt_id"].to_pylist(),
        "logprob": [scored and scored.logprob for scored in said],
        "greedy": [scored and scored.greedy for scored in said],
    }
    write_table(pa.table(columns, schema=SCORES), shard.written)
    return {"requests": len(said), "tokens": sum(map(len, prompts)) + sum(map(len, completions))}


class Scoring:
    """One pass over shards of requests."""

    def __init__(self, slots: list[Slot], memory: MemoryWait) -> None:
        self._slots, self._memory = slots, memory
        self._waiting: deque[Shard] = deque()
        self._struck: deque[Shard] = deque()  # those that were in a death: each needs an engine to itself
        self._running: dict[Any, tuple[Slot, Shard]] = {}
        self._deaths: Counter[int] = Counter()
        self._attempts = itertools.count(1)
        self._lost: list[str] = []  # why engines were lost since the last shard

    def run(self, shards: Iterable[Shard], events: Any) -> Iterator[tuple[Shard, dict[str, Any]]]:
        """As `GeneratorPool.score`; `events` as for `dispatch.Sampling`."""
        self._waiting.extend(shards)
        while self._waiting or self._struck or self._running:
            self._dispatch()
            for event in events({reference: slot for reference, (slot, _) in self._running.items()}):
                if event.error is not None:
                    self._engine_lost(event)
                    continue
                slot, shard = self._running.pop(event.reference)
                slot.progressed()
                os.replace(shard.written, shard.output)
                lost, self._lost = self._lost, []
                yield shard, event.result | ({"engines_lost": lost} if lost else {})

    def _dispatch(self) -> None:
        """Those that may take an engine down wait until there is nothing else to lose."""
        for slot in self._slots:
            while self._waiting and slot.ready and not slot.exclusive and slot.load < LEAST_CALLS:
                self._send(slot, self._waiting.popleft())
        for slot in self._slots:
            if self._struck and not self._waiting and slot.ready and slot.load == 0:
                self._send(slot, self._struck.popleft(), exclusive=True)

    def _send(self, slot: Slot, shard: Shard, exclusive: bool = False) -> None:
        shard = replace(shard, attempt=next(self._attempts))
        self._running[slot.taken(exclusive).score_shard.remote(shard)] = slot, shard

    def _engine_lost(self, event: Any) -> None:
        if event.reference in self._running:
            raise_unless_lost(f"requests of shard {self._running[event.reference][1].index}", event)
        slot: Slot = event.slot
        if not slot.ready and node_lost(event.error):
            slot.restart()
            return
        if not slot.ready and memory_taken(event.error):
            self._memory.again(slot, event.error)
            return
        lost = [shard for of, shard in self._running.values() if of is slot]
        self._running = {ref: call for ref, call in self._running.items() if call[0] is not slot}
        if node_lost(event.error):  # for which no request is to blame
            self._waiting.extendleft(reversed(lost))
        else:
            self._struck.extend(lost)
            self._deaths.update(shard.index for shard in lost)
        for shard in lost:
            if self._deaths[shard.index] >= _MOST_DEATHS:
                raise GenerationFailed(
                    f"requests {shard.start} to {shard.stop - 1} of {shard.source} have taken down {_MOST_DEATHS} "
                    f"engines; the last time, engine {slot.index}: {slot.why(event.error)}"
                ) from event.error
        self._lost.append(slot.replace(event.error, progressed=False))
