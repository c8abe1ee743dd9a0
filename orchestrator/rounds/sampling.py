"""Sampling and grading at once: shards flow from the engines through the graders, and each is committed
as soon as it is done. Engines never wait for graders, nor for one another."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pyarrow.parquet as pq

from orchestrator.ledger.run import Facts
from orchestrator.ledger.sharded import ShardedStep
from orchestrator.records.counts import BY_PROMPT
from orchestrator.records.parquet import Rows, read_table
from orchestrator.records.rewards import RewardTask
from orchestrator.records.rows import CAUSES, SamplingPlan, Shard
from orchestrator.rounds.readiness import ready
from orchestrator.text.counts import many


class Engines(Protocol):
    """Engines that serve one model (workers.generation.pool.GeneratorPool)."""

    def generate(self, shards: list[Shard], plan: SamplingPlan) -> Iterator[tuple[Shard, Facts]]:
        """Sample shards of prompts; yields each with its facts once its file is written, in the order of finishing."""

    def score(self, shards: list[Shard]) -> Iterator[tuple[Shard, Facts]]:
        """Have given completions (schema REQUESTS) scored into files (schema SCORES), each by one engine; yields each
        shard with its facts once its file is written, in the order of finishing."""

    def logprobs(self, prompts: list[list[int]], completions: list[list[int]]) -> list[list[float | None]]:
        """By engine: the summed log-probability of each completion (token ids) after its prompt, in nats; None where
        the two do not fit the context."""


class Graders(Protocol):
    """Grader processes (workers.grading.group.GraderGroup)."""

    def submit(self, shard: Shard, golds: dict[str, str]) -> None:
        """Have a shard of samples graded; `golds` has the gold answer of each of its prompts."""

    def finished(self) -> list[tuple[Shard, Facts]]:
        """What is done by now."""

    def drain(self) -> Iterator[tuple[Shard, Facts]]:
        """All that was submitted, waiting for it."""


class Rewarders(Protocol):
    """Processes that hold one reward model (workers.reward.pool.RewardPool)."""

    def score(self, tasks: Sequence[RewardTask]) -> Iterator[tuple[RewardTask, Facts]]:
        """Score shards of answers; yields each with its facts once its file is written, in the order of finishing.

        The facts of a shard: `answers`, how many there are; `rewarded`, how many have a reward, and the others by
        their cause (REWARD_CAUSES); `mean_reward` of those, null where there are none; `tokens`; `form`, how prompt and
        answer were put together; `seconds`; `file`. Where workers were replaced since the last shard there is
        `rewarders_lost`, why.
        """


@dataclass(frozen=True)
class Slice:
    """Rows `start` to `stop` of a file of prompts, with their gold answers."""

    index: int
    source: Path
    start: int
    stop: int
    rows: Rows
    expected: tuple[float, ...] = ()
    """As `Shard.expected`."""

    @property
    def golds(self) -> dict[str, str]:
        """The gold answers of its prompts, read anew."""
        table = self.rows.between(self.start, self.stop)
        return dict(zip(table["prompt_id"].to_pylist(), table["gold"].to_pylist(), strict=True))


def shards_of(source: Path, size: int, first_index: int = 0) -> list[Slice]:
    """Cut a file of prompts into slices of `size` rows; the last one may be shorter."""
    rows = Rows(source, ["prompt_id", "gold"])
    starts = range(0, len(rows), size)
    return [Slice(first_index + i, source, s, min(s + size, len(rows)), rows) for i, s in enumerate(starts)]


def shards_as_of(source: Path, whole: Path, size: int) -> list[Slice]:
    """Cut a file that has some prompts of `whole`, in its order, where that is cut: slice i has prompts of slice i of
    `whole`, and where there are none, there is none."""
    row = {name: i for i, name in enumerate(read_table(whole, columns=["prompt_id"])["prompt_id"].to_pylist())}
    found: dict[int, list[int]] = {}
    for at, name in enumerate(read_table(source, columns=["prompt_id"])["prompt_id"].to_pylist()):
        found.setdefault(row[name] // size, []).append(at)
    rows = Rows(source, ["prompt_id", "gold"])
    return [Slice(index, source, places[0], places[-1] + 1, rows) for index, places in found.items()]


def sample_and_grade(
    engines: Engines,
    graders: Graders,
    slices: Sequence[Slice],
    plan: SamplingPlan,
    sample_files: tuple[Callable[[int], Path], Callable[[int], Path]],
    verdict_file: Callable[[int], Path],
    on_samples: Callable[[int, Facts], None],
    on_verdicts: Callable[[int, Facts], None],
) -> None:
    """Sample each slice and grade its samples.

    `sample_files` says where an engine writes the samples of slice i, and where the grader reads them:
    between the two stands `on_samples`, which may give the file its final name.
    """
    by_index = {slice_.index: slice_ for slice_ in slices}
    write, read = sample_files
    todo = [Shard(s.index, str(s.source), s.start, s.stop, str(write(s.index)), expected=s.expected) for s in slices]
    for shard, facts in engines.generate(todo, plan):
        on_samples(shard.index, facts)
        slice_ = by_index[shard.index]
        graders.submit(grading_shard(slice_, read(shard.index), verdict_file(shard.index)), slice_.golds)
        for graded, verdict_facts in graders.finished():
            on_verdicts(graded.index, verdict_facts)
    wall = Lap()
    for graded, verdict_facts in graders.drain():
        # Nothing is sampled any more: this time the graders are waited for.
        on_verdicts(graded.index, verdict_facts | {"waited": wall.lap()})


def grading_shard(slice_: Slice, samples: Path, output: Path) -> Shard:
    """All rows of a slice's samples, as a shard for the graders."""
    return Shard(slice_.index, str(samples), 0, pq.read_metadata(samples).num_rows, str(output))


def sample_and_grade_shards(
    engines: Callable[[], Engines],
    graders: Callable[[], Graders],
    slices: Sequence[Slice],
    plan: SamplingPlan,
    samples: ShardedStep,
    verdicts: ShardedStep,
) -> None:
    """Do what is not committed yet: grade samples without verdicts, sample and grade the rest."""
    grading = graders()
    for slice_ in slices:
        if samples.has(slice_.index) and not verdicts.has(slice_.index):
            shard = grading_shard(slice_, samples.path(slice_.index), verdicts.hidden(slice_.index))
            grading.submit(shard, slice_.golds)
    todo = [slice_ for slice_ in slices if not samples.has(slice_.index)]
    if not todo:
        for graded, facts in grading.drain():
            verdicts.commit(graded.index, facts)
        return
    samples.begin()
    serving, wait = ready(engines)
    wall = Lap()
    sample_and_grade(
        serving,
        grading,
        todo,
        plan,
        (samples.hidden, samples.path),
        verdicts.hidden,
        lambda index, facts: samples.commit(index, facts | {"wall": wall.lap()} | wait.once()),
        verdicts.commit,
    )


def sampling_facts(shards: Sequence[Facts], own: Sequence[Facts] | None = None) -> Facts:
    """Facts of a whole sampling step, over however many drivers it took. `own` are those of its shards that were not
    taken over from another run: the time is theirs. `quarantined` (ids of prompts that have no
    samples, since each took down several engines) and `engines_lost` (why engines were replaced) are there only
    where there is something to say."""
    total: dict[str, Any] = {key: sum(f[key] for f in shards) for key in ("samples", "tokens", "truncated")}
    timed = shards if own is None else own
    seconds = sum(f["wall"] for f in timed)
    total |= {
        "seconds": round(seconds, 3),
        "tokens_per_second": round(sum(f["tokens"] for f in timed) / max(seconds, 1e-9), 1),
    }
    if any("starting" in f for f in timed):
        total["starting"] = round(sum(f.get("starting", 0) for f in timed), 3)
    return total | mishaps(shards, "quarantined", "engines_lost")


def grading_facts(shards: Sequence[Facts], own: Sequence[Facts] | None = None) -> Facts:
    """Facts of a whole grading step; `own` as for `sampling_facts`. `seconds` is the graders' own time, hidden behind
    the sampling; `waited` is what was not hidden, the time from the last sample to the last verdict. What is ungradable
    is also counted by its cause, and prompts by what samples they have (counts.by_prompt); `graders_version` says by
    which version of the graders, which is one."""
    timed = shards if own is None else own
    keys = ("correct", "wrong", "ungradable", *CAUSES)
    rules: dict[str, int] = {}
    for facts in shards:
        for rule, count in facts["rules"].items():
            rules[rule] = rules.get(rule, 0) + count
    total: Facts = {key: sum(f.get(key, 0) for f in shards) for key in keys}
    total |= {key: round(sum(f.get(key, 0) for f in timed), 3) for key in ("seconds", "waited")}
    # Earlier versions, which may have graded a part, have told none of these.
    told = [key for key in (*BY_PROMPT, "distinct_answers") if all(key in f for f in shards)]
    total |= {key: sum(f[key] for f in shards) for key in told}
    if any("disputed" in f for f in shards):
        total["disputed"] = sum(f.get("disputed", 0) for f in shards)
    return total | {"rules": rules} | versions(shards) | mishaps(shards, "graders_lost")


def versions(shards: Sequence[Facts]) -> dict[str, int]:
    """The version of the graders that shards, of samples or of verdicts, have in their facts; empty where none has."""
    known = [facts["graders_version"] for facts in shards if "graders_version" in facts]
    return {"graders_version": known[0]} if known else {}


def mishaps(shards: Sequence[Facts], *keys: str) -> dict[str, list[str]]:
    """The lists of all shards by key; a key of which no shard has anything is left out."""
    found = {key: [item for facts in shards for item in facts.get(key, [])] for key in keys}
    return {key: items for key, items in found.items() if items}


def mishaps_text(facts: Mapping[str, Any]) -> str:
    """What went wrong on the way, for the end of a line for people; empty when nothing did."""
    parts = []
    for worker in ("engine", "grader", "rewarder"):
        if lost := facts.get(f"{worker}s_lost"):
            parts.append(f"{len(lost)} {worker}{'s' if len(lost) > 1 else ''} replaced (last: {lost[-1]})")
    if left_out := facts.get("quarantined"):
        names = ", ".join(left_out[:5]) + (", ..." if len(left_out) > 5 else "")
        parts.append(f"{many(len(left_out), 'prompt')} left out, each of which took down several engines ({names})")
    return "".join(f"; {part}" for part in parts)


class Lap:
    """Seconds since the last lap."""

    def __init__(self) -> None:
        self._last = time.monotonic()

    def lap(self) -> float:
        """They, and the next lap begins."""
        last, self._last = self._last, time.monotonic()
        return round(self._last - last, 4)
