"""Reading samples and verdicts, writing pairs: shard by shard, so that memory does not grow with the round."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq

from orchestrator.config.learning import GROUPING
from orchestrator.errors import RatchetError
from orchestrator.ledger.columns import require_fitting
from orchestrator.ledger.run import Facts
from orchestrator.records import counts
from orchestrator.records.groups import FURTHER, GROUP, SCORES, Units, further, further_columns, groups_in
from orchestrator.records.masks import SAMPLE_MASK, fitted, mask_columns, masked
from orchestrator.records.parquet import TableWriter, read_table
from orchestrator.records.rows import SAMPLES, pairs_schema
from orchestrator.rounds import pairing
from orchestrator.rounds.pairing import CORRECT, WRONG, Candidate, PairingPlan, pair_prompt, random_subset
from orchestrator.rounds.prompt_rows import Prompts


class Choice(NamedTuple):
    """A pair by what it is made of; its texts stay in their files until it is written. A `chosen_sample` of None is
    the gold solution, a `rejected_sample` of None that nothing is rejected. `group` and the scores are those of
    records/groups.py."""

    pair_id: str
    prompt_id: str
    chosen_sample: int | None
    rejected_sample: int | None
    group: str | None = None
    chosen_score: float | None = None
    rejected_score: float | None = None


Choices = Iterator[tuple[Sequence[Path], list[Choice]]]
"""What is chosen from the files of samples of each shard; of none: from no sample."""


class Scored(NamedTuple):
    """A shard's samples, and their verdicts (schema VERDICTS) or scores (schema SELF_SCORES)."""

    samples: Path
    scores: Path
    more: tuple[Scored, ...] = ()
    """Further samples of prompts of the shard, which were drawn in later waves."""

    @property
    def waves(self) -> tuple[Scored, ...]:
        """All files of the shard's prompts."""
        return (self, *self.more)


def write_pairs(
    prompts_file: Path, shards: Sequence[Scored], plan: PairingPlan, output: Path, hinted: Sequence[Scored] = ()
) -> Facts:
    """Pair each prompt's better and worse samples, and write the pairs (schema `pairs_schema`). `hinted` are further
    samples of prompts that have no correct one.

    Where a random subset is drawn from all pairs, they are chosen twice, the first time to count them.
    Returns: pairs, before_cap, how many prompts have pairs (before the cap), how many are mixed, all correct, all wrong
    or ungradable only, pass_any, and mean lengths in tokens; `hinted`, the pairs that came from hints, where there are
    any; `pairs_lost` and `prompts_lost`, how many more pairs, and prompts with any, there would have been had
    unreadable answers been wrong (`grade.unreadable: wrong`). With scores instead of verdicts, prompts are mixed, tied
    or ungradable, and there is neither pass_any nor a loss.
    """
    prompts = Prompts(prompts_file)
    choosing = Choosing(prompts, shards, plan, hinted)
    return _write_chosen(prompts, choosing.choices, choosing.files, plan, output) | choosing.facts()


class Choosing:
    """Which pairs are made of the samples of `shards` and `hinted`, and what there is to tell of it."""

    def __init__(
        self, prompts: Prompts, shards: Sequence[Scored], plan: PairingPlan, hinted: Sequence[Scored] = ()
    ) -> None:
        self._prompts, self._shards, self._plan, self._hinted = prompts, shards, plan, hinted
        self.files = [wave.samples for shard in (*shards, *hinted) for wave in shard.waves]
        self._scores = any("score" in pq.read_schema(shard.scores).names for shard in shards[:1])
        self._begin()

    def _begin(self) -> None:
        of_verdicts = ("mixed", "all_correct", "all_wrong", "ungradable")
        self._of_kind = dict.fromkeys(("mixed", "tied", "ungradable") if self._scores else of_verdicts, 0)
        self._lost = {"pairs_lost": 0, "prompts_lost": 0}
        self._pairs = {"of_samples": 0, "of_hints": 0}
        self._paired = np.zeros(max(1, len(self._prompts)), bool)
        """Whether the prompt at each place has pairs; of a file without any, the place of all is 0."""

    def choices(self) -> Choices:
        """The pairs of each shard, before a cap; each time anew."""
        self._begin()
        for number, shard in enumerate([*self._shards, *self._hinted]):
            first = number < len(self._shards)
            chosen = [choice for prompt in self._prompts_of(shard) for choice in self._of(*prompt, first)]
            self._pairs["of_samples" if first else "of_hints"] += len(chosen)
            self._paired[self._prompts.places(list(dict.fromkeys(choice.prompt_id for choice in chosen)))] = True
            yield [wave.samples for wave in shard.waves], chosen

    def _prompts_of(self, shard: Scored) -> Iterator[tuple[str, list[Candidate], list[Candidate]]]:
        """Each prompt with its samples, and with its gold solution where that may be chosen."""
        found = candidates(shard)
        golds = golds_of(self._prompts, [prompt_id for prompt_id, _ in found]) if self._plan.gold_as_chosen else {}
        return ((prompt_id, candidates, golds.get(prompt_id, [])) for prompt_id, candidates in found)

    def _of(self, prompt_id: str, samples: list[Candidate], gold: list[Candidate], first: bool) -> Iterator[Choice]:
        if first:
            self._of_kind[_kind(samples, self._scores)] += 1
        pairs = pair_prompt(prompt_id, [*samples, *gold], self._plan)
        more = _pairs_lost(prompt_id, [*samples, *gold], self._plan, len(pairs))
        self._lost["pairs_lost"] += more
        self._lost["prompts_lost"] += more > 0 and not pairs
        for pair in pairs:
            rejected = pair.rejected.sample_index if pair.rejected else None
            scores = (pair.chosen.score, pair.rejected.score if pair.rejected else None)
            kept = scores if self._plan.scores else ()
            yield Choice(pair.pair_id, prompt_id, pair.chosen.sample_index, rejected, pair.group, *kept)

    def facts(self) -> Facts:
        """What `write_pairs` tells of the samples, once all `choices` were gone through."""
        of_kind = self._of_kind
        facts: Facts = {f"prompts_{kind}": count for kind, count in of_kind.items()}
        facts["prompts_paired"] = int(np.count_nonzero(self._paired))
        if not self._scores:
            facts["pass_any"] = (of_kind["mixed"] + of_kind["all_correct"]) / max(sum(of_kind.values()), 1)
            facts |= self._lost
        facts["before_cap"] = sum(self._pairs.values())
        return facts | ({"hinted": self._pairs["of_hints"]} if self._hinted else {})


def _pairs_lost(prompt_id: str, candidates: Sequence[Candidate], plan: PairingPlan, made: int) -> int:
    """How many more pairs a prompt would give if its unreadable answers were wrong."""
    if not any(c.unreadable for c in candidates):
        return 0
    as_wrong = [replace(c, score=WRONG) if c.unreadable else c for c in candidates]
    return max(0, len(pair_prompt(prompt_id, as_wrong, plan)) - made)


def write_gold(prompts_file: Path, plan: PairingPlan, output: Path) -> Facts:
    """One row a prompt that has a gold solution, to be imitated. Returns: pairs, before_cap, chosen_tokens."""
    prompts = Prompts(prompts_file)
    return _write_chosen(prompts, lambda: gold_choices(prompts), [], plan, output)


def gold_choices(prompts: Prompts) -> Choices:
    """One row a prompt that has a gold solution."""
    for ids in prompts.ids():
        golds = golds_of(prompts, ids)
        yield [], [Choice(f"{name}/0", name, None, None) for name in ids if name in golds]


def golds_of(prompts: Prompts, ids: Sequence[str]) -> dict[str, list[Candidate]]:
    """The worked gold solutions as candidates, of prompts that have one."""
    solutions = prompts.rows(ids)["solution"].to_pylist()
    return {name: [Candidate(None, said, CORRECT)] for name, said in zip(ids, solutions, strict=True) if said}


def unsolved(shards: Sequence[Scored]) -> list[str]:
    """Prompts none of whose samples is correct; also where none is wrong either, since all are ungradable."""
    return [
        prompt_id
        for shard in shards
        for prompt_id, found in candidates(shard)
        if all(c.score != CORRECT for c in found)
    ]


def write_replay(earlier: Sequence[Path], share: float, seed: int, output: Path, first: int = 1) -> Facts:
    """Copy a random `share` of each earlier round's pairs, or groups, from round `first` on; a pair's id, and its
    group's, gets its round in front ("01:p7/0")."""
    count = 0
    schemas = [pq.read_schema(file) for file in earlier]
    schema = masked(schemas[0]) if any(map(mask_columns, schemas)) else schemas[0]
    schema = further(schema, {name for each in schemas for name in further_columns(each)})
    with pq.ParquetWriter(output, schema, compression="zstd") as writer:
        for number, file in enumerate(earlier, start=first):
            table = read_table(file)
            require_fitting(file, table)
            table = fitted(table, schema)
            units = Units().add(groups_in(table))
            kept = random_subset(len(units), round(share * len(units)), seed + number)
            table = table if kept is None else table.take(pa.array(units.pairs_of(kept), pa.int64()))
            for name in {"pair_id", GROUP} & {*schema.names}:
                known = (None if id_ is None else f"{number:02d}:{id_}" for id_ in table[name].to_pylist())
                at = schema.get_field_index(name)
                table = table.set_column(at, schema.field(at), pa.array(known, pa.string()))
            writer.write_table(table)
            count += table.num_rows
    return {"pairs": count, "rounds": len(earlier)}


_OF_A_CANDIDATE = ["prompt_id", "sample_index", "text", "num_tokens", "finish_reason"]


def candidates(shard: Scored) -> list[tuple[str, list[Candidate]]]:
    """A shard's samples as candidates with their scores, by prompt and then by sample index, of all its waves.

    Raises:
        RatchetError: not every sample has one verdict, or score.
    """
    rows: list[tuple[str, Candidate]] = []
    for wave in shard.waves:
        left = read_table(wave.samples, columns=_OF_A_CANDIDATE).to_pylist()
        right = read_table(wave.scores).to_pylist()
        by_key = {(row["prompt_id"], row["sample_index"]): row for row in right}
        if len(by_key) != len(left) or by_key.keys() != {(row["prompt_id"], row["sample_index"]) for row in left}:
            raise RatchetError(f"{wave.scores}: not one verdict or score a sample of {wave.samples}")
        for row in left:
            said = by_key[row["prompt_id"], row["sample_index"]]
            unreadable = said.get("cause") == "unreadable"
            ended = row["finish_reason"] != "length"
            made = Candidate(row["sample_index"], row["text"], _score(said), row["num_tokens"], unreadable, ended)
            rows.append((row["prompt_id"], made))
    rows.sort(key=lambda row: (row[0], row[1].sample_index))
    return [(key, [made for _, made in group]) for key, group in groupby(rows, key=lambda row: row[0])]


def _score(row: dict[str, Any]) -> float | None:
    return row["score"] if "score" in row else pairing.SCORES[row["verdict"]]


def _kind(candidates: Sequence[Candidate], has_scores: bool) -> str:
    scores = {c.score for c in candidates} - {None}
    if len(scores) != 1:
        return "mixed" if scores else "ungradable"
    return "tied" if has_scores else "all_wrong" if scores == {WRONG} else "all_correct"


def _write_chosen(
    prompts: Prompts, chosen: Callable[[], Choices], files: Sequence[Path], plan: PairingPlan, output: Path
) -> Facts:
    """Write what is chosen from the samples of each shard, cut to the plan's `max_pairs`. `files` are all
    of these. Returns: pairs, before_cap, groups where there are any, and each side's mean tokens.

    Raises:
        Damaged: a mask does not fit its sample.
    """
    before_cap, kept = capped(chosen, plan.max_pairs, plan.seed)
    grouping = plan.rule in GROUPING
    schema = further(pairs_schema(prompts.conversational), [GROUP] * grouping + [*SCORES] * plan.scores)
    with_masks = {file for file in files if mask_columns(pq.read_schema(file))}
    if with_masks and any(pairs and with_masks & {*shard} for shard, pairs in only(chosen(), kept)):
        schema = masked(schema)
    tokens, units = dict.fromkeys(counts.SIDES, 0), Units()
    with TableWriter(output, schema) as writer:
        for sampled, pairs in only(chosen(), kept):
            if not pairs:
                continue
            table = _pairs_table(prompts, _sampled(sampled), pairs, schema)
            for side, count in counts.side_lengths(table).items():
                tokens[side] += count
            units.add(pair.group for pair in pairs)
            writer.write(table)
    facts = {"pairs": units.pairs, "before_cap": units.pairs if before_cap is None else before_cap}
    return facts | ({"groups": len(units)} if grouping else {}) | counts.mean_lengths(tokens, units.pairs)


def capped(chosen: Callable[[], Choices], cap: int | None, seed: int) -> tuple[int | None, list[int] | None]:
    """How many pairs are chosen, and the numbers of those that a cap leaves, counted through all shards. Both are None
    without a cap, the second also where it leaves all. A group is kept or left out as a whole, and counts as one."""
    if cap is None:
        return None, None
    units = Units()
    for _, pairs in chosen():
        units.add(pair.group for pair in pairs)
    kept = random_subset(len(units), cap, seed)
    return units.pairs, None if kept is None else units.pairs_of(kept)


def only(chosen: Choices, kept: Sequence[int] | None) -> Choices:
    """Of what is chosen from each shard, the pairs of these numbers, counted from 0 through all shards; None: all."""
    if kept is None:
        yield from chosen
        return
    numbers, start = np.array(kept, np.int64), 0
    for files, pairs in chosen:
        first, last = np.searchsorted(numbers, (start, start + len(pairs)))
        yield files, [pairs[number - start] for number in numbers[first:last].tolist()]
        start += len(pairs)


def _sampled(files: Sequence[Path]) -> pa.Table:
    """The samples of a shard, of all its waves; none of no file."""
    tables = []
    for file in files:
        tables.append(table := read_table(file))
        require_fitting(file, table)
    return pa.concat_tables([fitted(table, masked(SAMPLES)) for table in (*tables, SAMPLES.empty_table())])


def _pairs_table(prompts: Prompts, samples: pa.Table, pairs: list[Choice], schema: pa.Schema) -> pa.Table:
    """Pairs with text, ids and masks copied column by column from where they stand: ids are never made from text."""
    keys = zip(samples["prompt_id"].to_pylist(), samples["sample_index"].to_pylist(), strict=True)
    row: dict[tuple[str, int | None], int] = {key: i for i, key in enumerate(keys)}
    golds = sorted({pair.prompt_id for pair in pairs if pair.chosen_sample is None})
    gold_rows = prompts.rows(golds)
    for i, prompt_id in enumerate(golds):
        row[prompt_id, None] = samples.num_rows + i
    texts = pa.concat_arrays([*samples["text"].chunks, *gold_rows["solution"].chunks])
    ids = pa.concat_arrays([*samples["token_ids"].chunks, *gold_rows["solution_token_ids"].chunks])
    # All of a gold solution is scored, as if the model had written it.
    masks = samples[SAMPLE_MASK]
    masks = pa.concat_arrays([*masks.chunks, pa.nulls(gold_rows.num_rows, masks.type)])
    at_prompt = prompts.rows([pair.prompt_id for pair in pairs])
    sides: dict[str, list[int | None]] = {
        "chosen": [row[pair.prompt_id, pair.chosen_sample] for pair in pairs],
        "rejected": [
            None if pair.rejected_sample is None else row[pair.prompt_id, pair.rejected_sample] for pair in pairs
        ],
    }

    def view(rows: list[int | None]) -> pa.Array:
        if not prompts.conversational:
            return texts.take(pa.array(rows, pa.int64()))
        said = [None if i is None else [{"role": "assistant", "content": texts[i].as_py()}] for i in rows]
        return pa.array(said, type=schema.field("chosen").type)

    columns = {
        "pair_id": [pair.pair_id for pair in pairs],
        "prompt_id": [pair.prompt_id for pair in pairs],
        "prompt": at_prompt["messages" if prompts.conversational else "text"],
        **{name: [getattr(pair, name) for pair in pairs] for name in FURTHER},
        "chosen_sample": pa.array([pair.chosen_sample for pair in pairs], pa.int32()),
        "rejected_sample": pa.array([pair.rejected_sample for pair in pairs], pa.int32()),
        "prompt_token_ids": at_prompt["token_ids"],
    }
    for side, places in sides.items():
        rows = pa.array(places, pa.int64())
        columns |= {side: view(places), f"{side}_token_ids": ids.take(rows), f"{side}_mask": masks.take(rows)}
    return pa.table([columns[name] for name in schema.names], schema=schema)
