"""What `ratchet verify` computes again of more than one kind of step, from the committed files of a run."""

from __future__ import annotations

import itertools
import re
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from orchestrator.config import Job
from orchestrator.errors import Damaged
from orchestrator.ledger.ledger import State
from orchestrator.ledger.run import Facts
from orchestrator.records import counts
from orchestrator.records.digests import Places
from orchestrator.records.groups import FURTHER, GROUP, Units, further_columns, groups_in
from orchestrator.records.masks import PAIR_MASKS, mask_columns
from orchestrator.records.parquet import read_table, streamed
from orchestrator.rounds import pair_files
from orchestrator.rounds.pair_files import Scored
from orchestrator.rounds.prompt_rows import Prompts
from orchestrator.rounds.round import pairing_plan
from orchestrator.rounds.run_files import RunFiles


@dataclass(frozen=True)
class Recounted:
    """How the facts of a source's own steps are computed again."""

    steps: Mapping[str, Callable[..., Facts]]
    """By a pattern of the step's whole name: told the `Counting`, the step and the pattern's groups."""
    parts: Sequence[str] = ()
    """Patterns of the parts of a round that have prompts, samples and verdicts of their own, such as `hinted`."""
    shards: Mapping[str, Callable[..., Facts]] = field(default_factory=dict)
    """By the name of a kind of shards that is the source's own: told the `Counting`, the step and the shard's index."""


class Counted(Protocol):
    """A source of pairs, as far as facts are computed again."""

    @property
    def recounted(self) -> Recounted: ...


class Pair(NamedTuple):
    """Token ids of a pair, and the masks of its sides."""

    prompt: Any
    chosen: Any
    rejected: Any
    chosen_mask: Any = None
    rejected_mask: Any = None


class Counting:
    """The committed files of a run and its job. Every method raises `Gone` where a file that it needs is not there any
    more, or is not what was committed."""

    def __init__(self, files: RunFiles, job: Job) -> None:
        self.files, self.job = files, job

    @property
    def state(self) -> State:
        return self.files.state

    def chosen(self, step: str, number: int, shards: list[Scored], hinted: Sequence[Scored] = ()) -> Facts:
        """Of pairs that `pairs` of the job makes of these samples, with those that had a hint."""
        folder, plan = step.rpartition("/")[0], pairing_plan(self.job, number)
        [prompts] = self.files.all(f"{folder}/prompts")
        choosing = pair_files.Choosing(Prompts(prompts), shards, plan, list(hinted))
        written = self.written(step, choosing.choices, plan.max_pairs, plan.seed)
        return choosing.facts() | written

    def written(self, step: str, chosen: Callable[[], pair_files.Choices], cap: int | None, seed: int) -> Facts:
        """Of the pairs that stand in the file, which must be those that were `chosen`."""
        before_cap, kept = pair_files.capped(chosen, cap, seed)
        [file] = self.files.all(step)
        own = ("pair_id", "chosen_sample", "rejected_sample")
        names, known = (*own, *FURTHER), pq.read_schema(file)
        picked = (choice for _, pairs in pair_files.only(chosen(), kept) for choice in pairs)
        wanted = ([getattr(choice, name, None) for name in names] for choice in picked)
        there = batches([file], [*own, *further_columns(known)])
        found = ([row.get(name) for name in names] for batch in there for row in batch.to_pylist())
        if any(one != other for one, other in itertools.zip_longest(wanted, found)):
            raise Damaged("its pairs are not those that the job makes of the samples and their verdicts")
        facts = pair_counts(file)
        return {"before_cap": facts["pairs"] if before_cap is None else before_cap} | facts

    def pairs(self, files: Iterable[Path]) -> Iterator[Pair]:
        """Pairs that are not too long to be trained on."""
        limit, ids = self.job.train.max_tokens, [f"{name}_token_ids" for name in ("prompt", *counts.SIDES)]
        for file in files:
            known = [*ids, *mask_columns(pq.read_schema(file))]
            for batch in batches([file], known):
                none = [None] * batch.num_rows
                names = [*ids, *PAIR_MASKS.values()]
                columns = (batch[name].to_pylist() if name in known else none for name in names)
                for pair in itertools.starmap(Pair, zip(*columns, strict=True)):
                    if limit is None or counts.longest(pair) <= limit:
                        yield pair

    def scored(self, step: str, pairs: list[Path], *against: Path) -> Facts:
        """Of log-probabilities of these files' pairs, compared with others where there are any."""
        [file] = self.files.all(step)
        lengths = (length for batch in batches([file], ["num_tokens"]) for length in batch["num_tokens"].to_pylist())
        found: Facts = dict(counts.scored(lengths))
        try:
            return found | counts.preferences(self.pairs(pairs), *map(Logprobs, (file, *against)))
        except KeyError:  # completions by other names than the trainer's: nothing is known of them
            return found


def rows_in(file: Path) -> int:
    """How many rows a Parquet file has."""
    return int(pq.read_metadata(file).num_rows)


def ids_in(file: Path) -> list[str]:
    """The ids of a file's pairs."""
    ids: list[str] = read_table(file, columns=["pair_id"])["pair_id"].to_pylist()
    return ids


def pair_counts(file: Path) -> Facts:
    """Pairs of a file, its groups if any, and their mean lengths in tokens; a batch is in memory at a time."""
    tokens, units = dict.fromkeys(counts.SIDES, 0), Units()
    known = [GROUP] if GROUP in pq.read_schema(file).names else []
    for batch in batches([file], [*known, *(f"{side}_token_ids" for side in counts.SIDES)]):
        units.add(groups_in(batch))
        tokens = {side: tokens[side] + more for side, more in counts.side_lengths(batch).items()}
    groups = {"groups": len(units)} if known else {}
    return {"pairs": units.pairs} | groups | counts.mean_lengths(tokens, units.pairs)


class Logprobs:
    """Summed log-probabilities of a file (schema REFERENCE) by completion key, in nats. A name that no completion key
    is has none."""

    def __init__(self, file: Path) -> None:
        digests, self._values = bytearray(), array("d")
        for batch in batches([file], ["completion_key", "logprob"]):
            for key, value in zip(batch["completion_key"].to_pylist(), batch["logprob"].to_pylist(), strict=True):
                if _KEY.fullmatch(key):
                    digests += bytes.fromhex(key)
                    self._values.append(value)
        self._places = Places(digests)

    def __getitem__(self, key: str) -> float:
        if (place := self._places.of(bytes.fromhex(key))) is None:
            raise KeyError(key)
        return self._values[place]


_KEY = re.compile("[0-9a-f]{32}")


def batches(files: Iterable[Path], columns: list[str] | None = None) -> Iterator[pa.Table]:
    """The rows of Parquet files, of which few are in memory at a time."""
    for file in files:
        with streamed(file) as parquet:
            for batch in parquet.iter_batches(batch_size=1024, columns=columns):
                yield pa.Table.from_batches([batch])
