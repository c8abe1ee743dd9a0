"""Reading samples and verdicts, writing pairs: shard by shard, so that memory does not grow with the round."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq

from orchestrator.errors import RatchetError
from orchestrator.ledger.columns import require_fitting
from orchestrator.ledger.run import Facts
from orchestrator.records import counts
from orchestrator.records.masks import SAMPLE_MASK, fitted, mask_columns, masked
from orchestrator.records.parquet import read_table
from orchestrator.records.rows import SAMPLES, pairs_schema
from orchestrator.rounds.pairing import CORRECT, SCORES, WRONG, Candidate, PairingPlan, pair_prompt, random_subset


class Choice(NamedTuple):
    """A pair by what it is made of; its texts stay in their files until it is written. A `chosen_sample` of None is
    the gold solution, a `rejected_sample` of None that nothing is rejected."""

    pair_id: str
    prompt_id: str
    chosen_sample: int | None
    rejected_sample: int | None


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

    Two passes: the first only chooses, so that a random subset can be drawn from all; the second writes.
    Returns: pairs, before_cap, how many prompts have pairs (before the cap), how many are mixed, all correct, all wrong
    or ungradable only, pass_any, and mean lengths in tokens; `hinted`, the pairs that came from hints, where there are
    any; `pairs_lost` and `prompts_lost`, how many more pairs, and prompts with any, there would have been had
    unreadable answers been wrong (`grade.unreadable: wrong`). With scores instead of verdicts, prompts are mixed, tied
    or ungradable, and there is neither pass_any nor a loss.
    """
    prompts = Prompts(prompts_file)
    choices, facts = choose(prompts, shards, plan, hinted)
    samples = [[wave.samples for wave in shard.waves] for shard in (*shards, *hinted)]
    return _write_chosen(prompts, samples, choices, plan, output) | facts


def choose(
    prompts: Prompts, shards: Sequence[Scored], plan: PairingPlan, hinted: Sequence[Scored] = ()
) -> tuple[list[list[Choice]], Facts]:
    """The pairs of each shard, before a cap, and what `write_pairs` tells of the samples that they were chosen from."""
    has_scores = any("score" in pq.read_schema(shard.scores).names for shard in shards[:1])
    kinds = ("mixed", "tied", "ungradable") if has_scores else ("mixed", "all_correct", "all_wrong", "ungradable")
    of_kind = dict.fromkeys(kinds, 0)
    lost = {"pairs_lost": 0, "prompts_lost": 0}
    choices: list[list[Choice]] = []
    for number, shard in enumerate([*shards, *hinted]):
        chosen: list[Choice] = []
        for prompt_id, found in candidates(shard):
            if number < len(shards):
                of_kind[_kind(found, has_scores)] += 1
            gold = prompts.gold(prompt_id) if plan.gold_as_chosen else []
            pairs = pair_prompt(prompt_id, [*found, *gold], plan)
            more = _pairs_lost(prompt_id, [*found, *gold], plan, len(pairs))
            lost["pairs_lost"] += more
            lost["prompts_lost"] += more > 0 and not pairs
            for pair in pairs:
                rejected = pair.rejected.sample_index if pair.rejected else None
                chosen.append(Choice(pair.pair_id, prompt_id, pair.chosen.sample_index, rejected))
        choices.append(chosen)
    facts: Facts = {f"prompts_{kind}": count for kind, count in of_kind.items()}
    facts["prompts_paired"] = len({choice.prompt_id for chosen in choices for choice in chosen})
    if not has_scores:
        facts["pass_any"] = (of_kind["mixed"] + of_kind["all_correct"]) / max(sum(of_kind.values()), 1)
        facts |= lost
    facts["before_cap"] = sum(map(len, choices))
    return choices, facts | ({"hinted": sum(map(len, choices[len(shards) :]))} if hinted else {})


def _pairs_lost(prompt_id: str, candidates: Sequence[Candidate], plan: PairingPlan, made: int) -> int:
    """How many more pairs a prompt would give if its unreadable answers were wrong."""
    if not any(c.unreadable for c in candidates):
        return 0
    as_wrong = [replace(c, score=WRONG) if c.unreadable else c for c in candidates]
    return max(0, len(pair_prompt(prompt_id, as_wrong, plan)) - made)


def write_gold(prompts_file: Path, plan: PairingPlan, output: Path) -> Facts:
    """One row a prompt that has a gold solution, to be imitated. Returns: pairs, before_cap, chosen_tokens."""
    prompts = Prompts(prompts_file)
    return _write_chosen(prompts, [[]], [choose_gold(prompts)], plan, output)


def choose_gold(prompts: Prompts) -> list[Choice]:
    """One row a prompt that has a gold solution."""
    return [Choice(f"{prompt_id}/0", prompt_id, None, None) for prompt_id in prompts.row if prompts.gold(prompt_id)]


def unsolved(shards: Sequence[Scored]) -> list[str]:
    """Prompts none of whose samples is correct; also where none is wrong either, since all are ungradable."""
    return [
        prompt_id
        for shard in shards
        for prompt_id, found in candidates(shard)
        if all(c.score != CORRECT for c in found)
    ]


def write_replay(earlier: Sequence[Path], share: float, seed: int, output: Path, first: int = 1) -> Facts:
    """Copy a random `share` of each earlier round's pairs, from round `first` on; a pair's id gets its round in front
    ("01:p7/0")."""
    count = 0
    schemas = [pq.read_schema(file) for file in earlier]
    schema = masked(schemas[0]) if any(map(mask_columns, schemas)) else schemas[0]
    with pq.ParquetWriter(output, schema, compression="zstd") as writer:
        for number, file in enumerate(earlier, start=first):
            table = read_table(file)
            require_fitting(file, table)
            table = fitted(table, schema)
            kept = random_subset(table.num_rows, round(share * table.num_rows), seed + number)
            table = table if kept is None else table.take(pa.array(kept, pa.int64()))
            names = pa.array([f"{number:02d}:{name}" for name in table["pair_id"].to_pylist()], pa.string())
            writer.write_table(table.set_column(0, table.schema.field(0), names))
            count += table.num_rows
    return {"pairs": count, "rounds": len(earlier)}


class Prompts:
    """Rows of the prompts file by id."""

    def __init__(self, file: Path) -> None:
        self.table = read_table(file)
        self.row = {prompt_id: i for i, prompt_id in enumerate(self.table["prompt_id"].to_pylist())}
        self.conversational = self.table["messages"].null_count < self.table.num_rows
        self._solutions = self.table["solution"].to_pylist()

    def gold(self, prompt_id: str) -> list[Candidate]:
        """The worked gold solution as a candidate, where there is one."""
        solution = self._solutions[self.row[prompt_id]]
        return [Candidate(None, solution, CORRECT)] if solution else []


def candidates(shard: Scored) -> list[tuple[str, list[Candidate]]]:
    """A shard's samples as candidates with their scores, by prompt and then by sample index, of all its waves.

    Raises:
        RatchetError: not every sample has one verdict, or score.
    """
    rows: list[tuple[str, Candidate]] = []
    for wave in shard.waves:
        left = read_table(wave.samples, columns=["prompt_id", "sample_index", "text", "num_tokens"]).to_pylist()
        right = read_table(wave.scores).to_pylist()
        by_key = {(row["prompt_id"], row["sample_index"]): row for row in right}
        if len(by_key) != len(left):
            raise RatchetError(f"{wave.scores}: not one verdict a sample of {wave.samples}")
        for row in left:
            said = by_key[row["prompt_id"], row["sample_index"]]
            unreadable = said.get("cause") == "unreadable"
            made = Candidate(row["sample_index"], row["text"], _score(said), row["num_tokens"], unreadable)
            rows.append((row["prompt_id"], made))
    rows.sort(key=lambda row: (row[0], row[1].sample_index))
    return [(key, [made for _, made in group]) for key, group in groupby(rows, key=lambda row: row[0])]


def _score(row: dict[str, Any]) -> float | None:
    return row["score"] if "score" in row else SCORES[row["verdict"]]


def _kind(candidates: Sequence[Candidate], has_scores: bool) -> str:
    scores = {c.score for c in candidates} - {None}
    if len(scores) != 1:
        return "mixed" if scores else "ungradable"
    return "tied" if has_scores else "all_wrong" if scores == {WRONG} else "all_correct"


def _write_chosen(
    prompts: Prompts,
    samples: Sequence[Sequence[Path]],
    choices: list[list[Choice]],
    plan: PairingPlan,
    output: Path,
) -> Facts:
    """Write what was chosen from the files of samples of each shard (none: from no sample), cut to the plan's
    `max_pairs`. Returns: pairs, before_cap, and each side's mean tokens.

    Raises:
        Damaged: a mask does not fit its sample.
    """
    before_cap = sum(map(len, choices))
    kept = random_subset(before_cap, plan.max_pairs, plan.seed)
    if kept is not None:
        choices = _only(choices, set(kept))
    tokens = _write(prompts, samples, choices, output)
    num_pairs = sum(map(len, choices))
    return {"pairs": num_pairs, "before_cap": before_cap} | counts.mean_lengths(tokens, num_pairs)


def _only(choices: list[list[Choice]], kept: set[int]) -> list[list[Choice]]:
    number = -1
    result = []
    for shard in choices:
        chosen = []
        for pair in shard:
            number += 1
            if number in kept:
                chosen.append(pair)
        result.append(chosen)
    return result


def _write(
    prompts: Prompts, samples: Sequence[Sequence[Path]], choices: list[list[Choice]], output: Path
) -> dict[str, int]:
    """Write pairs (`pairs_schema`, with masks where a sample has any), a shard of samples at a time. Returns the tokens
    of each side, summed.

    Raises:
        Damaged: a mask does not fit its sample.
    """
    schema = pairs_schema(prompts.conversational)
    sampled_from = [file for files, pairs in zip(samples, choices, strict=True) if pairs for file in files]
    if any(mask_columns(pq.read_schema(file)) for file in sampled_from):
        schema = masked(schema)
    tokens = dict.fromkeys(counts.SIDES, 0)
    with pq.ParquetWriter(output, schema, compression="zstd") as writer:
        for files, pairs in zip(samples, choices, strict=True):
            if not pairs:
                continue
            table = _pairs_table(prompts, _sampled(files), pairs, schema)
            for side, count in counts.side_lengths(table).items():
                tokens[side] += count
            writer.write_table(table)
    return tokens


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
    gold_rows = prompts.table.take(pa.array([prompts.row[prompt_id] for prompt_id in golds], pa.int64()))
    for i, prompt_id in enumerate(golds):
        row[prompt_id, None] = samples.num_rows + i
    texts = pa.concat_arrays([*samples["text"].chunks, *gold_rows["solution"].chunks])
    ids = pa.concat_arrays([*samples["token_ids"].chunks, *gold_rows["solution_token_ids"].chunks])
    # All of a gold solution is scored, as if the model had written it.
    masks = samples[SAMPLE_MASK]
    masks = pa.concat_arrays([*masks.chunks, pa.nulls(gold_rows.num_rows, masks.type)])
    at_prompt = prompts.table.take([prompts.row[pair.prompt_id] for pair in pairs])
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
        "chosen_sample": pa.array([pair.chosen_sample for pair in pairs], pa.int32()),
        "rejected_sample": pa.array([pair.rejected_sample for pair in pairs], pa.int32()),
        "prompt_token_ids": at_prompt["token_ids"],
    }
    for side, places in sides.items():
        rows = pa.array(places, pa.int64())
        columns |= {side: view(places), f"{side}_token_ids": ids.take(rows), f"{side}_mask": masks.take(rows)}
    return pa.table([columns[name] for name in schema.names], schema=schema)
