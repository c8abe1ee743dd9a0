"""Engines that give tokens by a cost model: each decoding step takes the longer, the more sequences there are."""

from __future__ import annotations

import hashlib
import heapq
import itertools
from collections import deque
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.scale.cluster import Worker
from benchmarks.scale.files import skill_of, words
from benchmarks.scale.model import Case
from benchmarks.scale.simulation import Event, Ref, Simulation
from orchestrator.config import Generate
from orchestrator.records import counts
from orchestrator.records.parquet import read_table
from orchestrator.records.rows import SAMPLES, SamplingPlan, Shard
from workers.files import write_table
from workers.generation.engine import EngineKind
from workers.generation.shard import Partial, Sample


class _Call:
    """A shard that is being sampled."""

    def __init__(self, shard: Shard, plan: SamplingPlan, without: Collection[str], ref: Ref) -> None:
        self.shard, self.plan, self.without, self.ref = shard, plan, list(without), ref
        rows = read_table(shard.source, columns=["prompt_id", "gold"])
        rows = rows.slice(shard.start, shard.stop - shard.start)
        self.golds = dict(zip(rows["prompt_id"].to_pylist(), rows["gold"].to_pylist(), strict=True))
        self.done = set(Partial(shard.output).read(plan.samples))
        self.left: dict[str, int] = {}
        """Samples that a prompt lacks yet, of those that are asked for."""
        self.drawn: dict[str, int] = {}
        """Tokens of prompts that are not finished."""
        self.kept = 0


class SimulatedEngine(Worker):
    """An engine; see workers.generation.engine.Engine."""

    starts_as = "starting engines"

    def __init__(
        self, simulation: Simulation, options: Mapping[str, Any], settings: Generate, seed: int, gpu: bool
    ) -> None:
        super().__init__(simulation, options)
        self.gpus = simulation.case.model.engine_gpus
        self.skill, self._most = 0.0, settings.max_num_seqs or simulation.case.model.full_batch
        self._steps = 0
        self._service = 0.0  # tokens that a sequence has got that was there all along
        self._looked = simulation.now
        self._active: list[tuple[float, int, _Call, str, int]] = []
        self._waiting: deque[tuple[_Call, str, int]] = deque()
        self._calls: list[_Call] = []
        self._order = itertools.count()
        self._next: Event | None = None

    def starting(self) -> float:
        """Its node reads the weights once, for all engines on it, beside the nodes that do so at the same time."""
        costs, model = self.simulation.case.costs, self.simulation.case.model
        reading = {w.place for w in self.simulation.workers if w.state == self.starts_as and not w.dead}
        return costs.engine + costs.reading(model.weights, len(reading))

    def answer(self, name: str, arguments: tuple[Any, ...], ref: Ref) -> None:
        if name == "progress":
            if not self.hangs:
                self._steps += 1
            ref.complete(self._steps)
        elif self.hangs:
            return
        elif name == "serve":
            self.skill = skill_of(arguments[0])
            ref.complete(1)
        elif name == "logprobs":
            ref.complete([-self.skill * len(completion) for completion in arguments[1]])
        else:
            self._generate(*arguments, ref=ref)

    def _generate(
        self, shard: Shard, plan: SamplingPlan, only: Collection[str] | None, without: Collection[str], ref: Ref
    ) -> None:
        call = _Call(shard, plan, without, ref)
        lengths = dict(zip(call.golds, lengths_of(self.simulation.case, shard, plan), strict=True))
        for prompt in call.golds:
            if prompt not in call.done and prompt not in without and (only is None or prompt in only):
                call.left[prompt], call.drawn[prompt] = plan.samples, 0
                self._waiting.extend((call, prompt, length) for length in lengths[prompt])
        self._calls.append(call)
        if not call.left:
            self._finish(call)
        self._proceed()

    def _proceed(self) -> None:
        """Count what was decoded up to now, take in what waits, and look for the next sequence that ends."""
        now, model = self.simulation.now, self.simulation.case.model
        if self._active:
            self._service += (now - self._looked) * model.sequence_rate(len(self._active))
        self._looked = now
        while self._active and self._active[0][0] <= self._service + 1e-6:
            _, _, call, prompt, length = heapq.heappop(self._active)
            self._ended(call, prompt, length)
        while self._waiting and len(self._active) < self._most:
            call, prompt, length = self._waiting.popleft()
            heapq.heappush(self._active, (self._service + length, next(self._order), call, prompt, length))
        if self._next is not None:
            self._next.off = True
        self.become("engine works" if self._active else "engine idle")
        if self._active:
            left = (self._active[0][0] - self._service) / model.sequence_rate(len(self._active))
            self._next = self.simulation.after(max(left, 0.0), self._proceed)

    def _ended(self, call: _Call, prompt: str, length: int) -> None:
        call.drawn[prompt] += length
        call.left[prompt] -= 1
        if not call.left[prompt]:
            del call.left[prompt]
            call.done.add(prompt)
            call.kept += call.drawn.pop(prompt)
        if not call.left:
            self._finish(call)

    def _finish(self, call: _Call) -> None:
        """The file of the shard, where no prompt is left."""
        self._calls.remove(call)
        self._useful(call.kept)
        if any(prompt not in call.done and prompt not in call.without for prompt in call.golds):
            self._keep_finished(call)
            call.ref.complete((None, self._unfinished()))
            return
        table = table_of(self.simulation.case, call, self.skill)
        facts: dict[str, Any] = {
            **counts.samples(table),
            "seconds": 0.0,
            "file": write_table(table, call.shard.written),
        }
        Partial(call.shard.output).remove()
        if quarantined := [prompt for prompt in call.golds if prompt not in call.done]:
            facts["quarantined"] = quarantined
        call.ref.complete((facts, self._unfinished()))

    def _unfinished(self) -> int:
        return len(self._active) + len(self._waiting)

    def _useful(self, tokens: float, what: str = "sampling") -> None:
        """So many tokens, at the full rate, were to good purpose, or were `lost sampling`."""
        model = self.simulation.case.model
        self.simulation.accounts.move("engine works", what, tokens / model.full_rate * self.gpus)

    def _keep_finished(self, call: _Call) -> None:
        """What the driver finds of prompts that were finished; the texts are drawn again by whoever needs them."""
        partial = Partial(call.shard.output)
        known = partial.read(call.plan.samples)
        for prompt in sorted(call.done - known.keys()):
            partial.append(prompt, [Sample("", [], "stop")] * call.plan.samples)

    def abandoned(self) -> None:
        for call in self._calls:
            call.drawn["finished"], call.kept = call.kept, 0
        self.stopped()

    def stopped(self) -> None:
        """Finished prompts are in a file; the tokens of the others are lost."""
        if self._next is not None:
            self._next.off = True
        now, model = self.simulation.now, self.simulation.case.model
        if self._active:
            self._service += (now - self._looked) * model.sequence_rate(len(self._active))
        self._looked = now
        self.simulation.accounts.settle(now)
        lost = sum(length - max(0.0, end - self._service) for end, _, _, _, length in self._active)
        for call in self._calls:
            lost += sum(call.drawn.values())
            self._useful(call.kept)
            call.kept = 0
            self._keep_finished(call)
        self._useful(lost, "lost sampling")
        self._active, self._calls = [], []
        self._waiting.clear()


KIND = EngineKind("vLLM", SimulatedEngine)


def _random(*what: object) -> np.random.Generator:
    digest = hashlib.blake2b(repr(what).encode(), digest_size=8).digest()
    return np.random.default_rng(int.from_bytes(digest, "big"))


def lengths_of(case: Case, shard: Shard, plan: SamplingPlan) -> list[list[int]]:
    """Tokens of each sample, by prompt: the same whenever and wherever they are drawn, in whichever part of a unit."""
    source, found = Path(shard.source).name, []
    for row in range(shard.start, shard.stop):
        deviations = _random("length", plan.seed, source, row).normal(size=plan.samples)
        if case.alike:
            own = _random("prompt", source, row).normal()
            deviations = np.sqrt(case.alike) * own + np.sqrt(1 - case.alike) * deviations
        drawn = np.exp(np.log(case.mean_tokens) - case.sigma**2 / 2 + case.sigma * deviations)
        found.append(np.clip(drawn.astype(np.int64) + 1, 2, plan.max_tokens).tolist())
    return found


def table_of(case: Case, call: _Call, skill: float) -> pa.Table:
    """The samples of a shard. Texts and token ids have the lengths that real ones would have, so that whoever reads
    them has as much to do; what they hold but for their beginnings and ends is all the same."""
    plan, lengths = call.plan, lengths_of(case, call.shard, call.plan)
    columns: dict[str, list[Any]] = {name: [] for name in SAMPLES.names if name != "token_ids"}
    numbers: list[int] = []
    for place, (prompt, gold) in enumerate(call.golds.items()):
        row = call.shard.start + place
        rng = _random("right", plan.seed, Path(call.shard.source).name, row)
        chance = rng.beta(2 * skill, 2 * (1 - skill))
        right = rng.random(plan.samples) < chance
        if prompt not in call.done:
            continue
        for index, length in enumerate(lengths[place]):
            whole = length < plan.max_tokens
            answer = f"\nFinal answer: {gold if right[index] else gold + '0'}" if whole else ""
            columns["prompt_id"].append(prompt)
            columns["sample_index"].append(index)
            columns["text"].append(words(f"{index} {row}", 4 * length - len(answer)) + answer)
            columns["finish_reason"].append("stop" if whole else "length")
            columns["num_tokens"].append(length)
            numbers.append(index + plan.samples * row)
    offsets = np.concatenate(([0], np.cumsum(columns["num_tokens"]))).astype(np.int32)
    ids = np.full(int(offsets[-1]), 7, np.int32)
    ids[offsets[:-1]] = np.array(numbers, np.int32) % 32_000  # so that no two samples of a prompt are alike
    token_ids = pa.ListArray.from_arrays(pa.array(offsets), pa.array(ids))
    arrays = [token_ids if name == "token_ids" else pa.array(columns[name]) for name in SAMPLES.names]
    return pa.table(arrays, names=SAMPLES.names).cast(SAMPLES)
