"""A shard of prompts to a file of samples, prompt by prompt, so that an engine that dies loses only what it was at.

Finished prompts are kept in a file beside the shard's hidden output until that is written. Whoever gets the shard
next reads it and samples the rest. Its name ends as those of other unfinished files do, so a later driver removes it.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from orchestrator.records import counts
from orchestrator.records.masks import SAMPLE_MASK, as_mask, masked
from orchestrator.records.parquet import Rows
from orchestrator.records.rows import SAMPLES, SamplingPlan, Shard
from workers.files import write_table
from workers.logs import at_work


class Sample(NamedTuple):
    """One completion, as the engine gave it."""

    text: str
    token_ids: list[int]
    finish_reason: str
    mask: list[bool] | None = None
    """Which of `token_ids` are the model's own; None where all are (orchestrator.records.masks)."""

    def as_row(self) -> list[Any]:
        """The sample as it is kept; without a mask, as versions that knew none have kept it."""
        return list(self if self.mask else self[:3])


class Request(NamedTuple):
    """A sample that is wanted."""

    prompt_id: str
    sample_index: int
    token_ids: list[int]


Draw = Callable[[Sequence[Request]], Iterator[tuple[int, Sample]]]
"""Samples for requests, each with its request's place, in the order in which they are finished."""


class Unfinished:
    """Samples that the engine of this process was asked for and has not drawn yet, whichever calls they are of."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.samples = 0

    def _add(self, samples: int) -> None:
        with self._lock:
            self.samples += samples

    def counting(self, drawn: Iterator[tuple[int, Sample]], number: int) -> Iterator[tuple[int, Sample]]:
        """What is drawn, of so many samples that were asked for; those that an error leaves are given up."""
        self._add(number)
        try:
            for each in drawn:
                number -= 1
                self._add(-1)
                yield each
        finally:
            self._add(-number)


UNFINISHED = Unfinished()


class Partial:
    """The finished prompts of an unfinished shard: JSON lines, flushed but not synced, since a dead machine's share
    can be sampled again. A torn line, or one of an engine that was given up too early, does no harm."""

    def __init__(self, output: str) -> None:
        self.path = Path(f"{output}.partial-e0")

    def read(self, samples: int) -> dict[str, list[Sample]]:
        """Prompts with all their `samples`, by id; the first of several lines for a prompt counts."""
        found: dict[str, list[Sample]] = {}
        try:
            lines = self.path.read_bytes().splitlines()
        except FileNotFoundError:
            return found
        for line in lines:
            try:
                prompt_id, rows = json.loads(line)
            except ValueError:
                continue
            if len(rows) == samples:
                found.setdefault(prompt_id, [Sample(*row) for row in rows])
        return found

    def append(self, prompt_id: str, samples: Sequence[Sample]) -> None:
        """Add a finished prompt, in one write; a line that was torn before stays a line of its own."""
        rows = [sample.as_row() for sample in samples]
        with open(self.path, "ab", buffering=0) as file:
            file.write(b"\n" + json.dumps([prompt_id, rows]).encode() + b"\n")

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)


def sample_seed(seed: int, prompt_id: str, sample_index: int) -> int:
    """A sample's own seed: a stable hash of the round's seed, the prompt and the sample's index."""
    text = f"{seed}\x1f{prompt_id}\x1f{sample_index}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=4).digest(), "big") >> 1


def read_prompts(shard: Shard) -> dict[str, list[int]]:
    """Token ids of the shard's prompts, by id, in order."""
    rows = Rows(shard.source, ["prompt_id", "token_ids"]).between(shard.start, shard.stop)
    return dict(zip(rows["prompt_id"].to_pylist(), rows["token_ids"].to_pylist(), strict=True))


def sample_shard(
    shard: Shard, plan: SamplingPlan, only: Collection[str] | None, without: Collection[str], draw: Draw
) -> dict[str, Any] | None:
    """Sample the shard's prompts that have no samples yet: those in `only` (None: all), and never those in `without`.

    When nothing but `without` is left, the rows are written to `shard.written` (schema SAMPLES), by prompt in the
    source's order, and the facts returned: samples, tokens, truncated, seconds, the file's size and sha256, and
    `quarantined`, the prompts without samples, if there are any. None when prompts are left for another call.

    Raises:
        ValueError: a mask does not fit its sample.
    """
    with at_work(shard.output, shard.index):
        return _sampled(shard, plan, only, without, draw)


def _sampled(
    shard: Shard, plan: SamplingPlan, only: Collection[str] | None, without: Collection[str], draw: Draw
) -> dict[str, Any] | None:
    started = time.monotonic()
    prompts = read_prompts(shard)
    partial = Partial(shard.output)
    done = partial.read(plan.samples)
    todo = [p for p in prompts if p not in done and p not in without and (only is None or p in only)]
    for prompt_id, samples in _by_prompt(todo, prompts, plan.sample_indices, draw):
        done[prompt_id] = samples
        partial.append(prompt_id, samples)
    if any(p not in done and p not in without for p in prompts):
        return None
    table = _table({p: done[p] for p in prompts if p in done}, plan.first_sample)
    facts: dict[str, Any] = {
        **counts.samples(table),
        "seconds": time.monotonic() - started,
        "file": write_table(table, shard.written),
    }
    partial.remove()
    if quarantined := [p for p in prompts if p not in done]:
        facts["quarantined"] = quarantined
    return facts


def _by_prompt(
    todo: Sequence[str], prompts: Mapping[str, list[int]], indices: range, draw: Draw
) -> Iterator[tuple[str, list[Sample]]]:
    """Prompts with all their samples, each as soon as its last one is drawn."""
    requests = [Request(p, i, prompts[p]) for p in todo for i in indices]
    drawn: dict[str, dict[int, Sample]] = {p: {} for p in todo}
    for place, sample in UNFINISHED.counting(draw(requests), len(requests)):
        prompt_id, index, _ = requests[place]
        drawn[prompt_id][index] = _with_fitting_mask(sample, f"prompt {prompt_id}, sample {index}")
        if len(drawn[prompt_id]) == len(indices):
            samples = drawn.pop(prompt_id)
            yield prompt_id, [samples[i] for i in indices]


def _with_fitting_mask(sample: Sample, where: str) -> Sample:
    try:
        mask = as_mask(sample.mask, len(sample.token_ids))
    except ValueError as error:
        raise ValueError(f"{where}: the engine's mask: {error}") from error
    return sample if mask is not None or sample.mask is None else sample._replace(mask=None)


def _table(done: Mapping[str, Sequence[Sample]], first: int) -> pa.Table:
    rows = [(prompt_id, index, s) for prompt_id, samples in done.items() for index, s in enumerate(samples, first)]
    columns: dict[str, list[Any]] = {
        "prompt_id": [prompt_id for prompt_id, _, _ in rows],
        "sample_index": [index for _, index, _ in rows],
        "text": [s.text for _, _, s in rows],
        "token_ids": [s.token_ids for _, _, s in rows],
        "finish_reason": [s.finish_reason for _, _, s in rows],
        "num_tokens": [len(s.token_ids) for _, _, s in rows],
    }
    if all(s.mask is None for _, _, s in rows):
        return pa.table(columns, schema=SAMPLES)
    return pa.table(columns | {SAMPLE_MASK: [s.mask for _, _, s in rows]}, schema=masked(SAMPLES))
