"""Reading samples and verdicts, writing pairs: shard by shard, so that memory does not grow with the round."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Literal, NamedTuple

import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq

from orchestrator.errors import RatchetError
from orchestrator.pairing import Candidate, pair_prompt, random_subset
from orchestrator.records import pairs_schema
from orchestrator.run import Facts


@dataclass(frozen=True)
class PairingPlan:
    """How a round's pairs are made; see config.Pairs."""

    per_prompt: int
    gold_as_chosen: bool | Literal["only"]
    max_pairs: int | None
    seed: int


class Choice(NamedTuple):
    """A pair by what it is made of; its texts stay in their files until it is written."""

    pair_id: str
    prompt_id: str
    chosen_sample: int | None
    rejected_sample: int | None


def write_pairs(
    prompts_file: Path, samples: Sequence[Path], verdicts: Sequence[Path], plan: PairingPlan, output: Path
) -> Facts:
    """Pair each prompt's correct and wrong samples, and write the pairs (schema `pairs_schema`).

    Two passes: the first only chooses, so that a random subset can be drawn from all; the second writes.
    Returns: pairs, before_cap, how many prompts are mixed, all correct, all wrong or ungradable only,
    pass_any, and mean lengths in tokens.
    """
    prompts = _Prompts(prompts_file, bool(plan.gold_as_chosen))
    counts = {"mixed": 0, "all_correct": 0, "all_wrong": 0, "ungradable": 0}
    choices: list[list[Choice]] = []
    for sample_file, verdict_file in zip(samples, verdicts, strict=True):
        shard: list[Choice] = []
        for prompt_id, candidates in _candidates(sample_file, verdict_file):
            counts[_kind(candidates)] += 1
            pairs = pair_prompt(prompt_id, [*candidates, *prompts.gold(prompt_id)], plan.per_prompt)
            shard += [Choice(p.pair_id, prompt_id, p.chosen.sample_index, p.rejected.sample_index) for p in pairs]
        choices.append(shard)
    before_cap = sum(map(len, choices))
    kept = random_subset(before_cap, plan.max_pairs, plan.seed)
    if kept is not None:
        choices = _only(choices, set(kept))
    tokens = _write(prompts, samples, choices, output)
    num_pairs = sum(map(len, choices))
    num_prompts = sum(counts.values())
    return {
        "pairs": num_pairs,
        "before_cap": before_cap,
        **{f"prompts_{kind}": count for kind, count in counts.items()},
        "pass_any": (counts["mixed"] + counts["all_correct"]) / max(num_prompts, 1),
        "chosen_tokens": tokens["chosen"] / max(num_pairs, 1),
        "rejected_tokens": tokens["rejected"] / max(num_pairs, 1),
    }


def write_replay(earlier: Sequence[Path], share: float, seed: int, output: Path) -> Facts:
    """Copy a random `share` of each earlier round's pairs; a pair's id gets its round in front ("01:p7/0")."""
    count = 0
    with pq.ParquetWriter(output, pq.read_schema(earlier[0]), compression="zstd") as writer:
        for number, file in enumerate(earlier, start=1):
            table = pq.read_table(file)
            kept = random_subset(table.num_rows, round(share * table.num_rows), seed + number)
            table = table if kept is None else table.take(pa.array(kept, pa.int64()))
            names = pa.array([f"{number:02d}:{name}" for name in table["pair_id"].to_pylist()], pa.string())
            writer.write_table(table.set_column(0, table.schema.field(0), names))
            count += table.num_rows
    return {"pairs": count, "rounds": len(earlier)}


class _Prompts:
    """Rows of the prompts file by id."""

    def __init__(self, file: Path, with_gold: bool) -> None:
        self.table = pq.read_table(file)
        self.row = {prompt_id: i for i, prompt_id in enumerate(self.table["prompt_id"].to_pylist())}
        self.conversational = self.table["messages"].null_count < self.table.num_rows
        self._solutions = self.table["solution"].to_pylist() if with_gold else None

    def gold(self, prompt_id: str) -> list[Candidate]:
        """The worked gold solution as a candidate, where it is wanted and there is one."""
        solution = self._solutions and self._solutions[self.row[prompt_id]]
        return [Candidate(None, solution, "correct")] if solution else []


def _candidates(samples: Path, verdicts: Path) -> list[tuple[str, list[Candidate]]]:
    left = pq.read_table(samples, columns=["prompt_id", "sample_index", "text"]).to_pylist()
    right = pq.read_table(verdicts, columns=["prompt_id", "sample_index", "verdict"]).to_pylist()
    by_key = {(row["prompt_id"], row["sample_index"]): row["verdict"] for row in right}
    if len(by_key) != len(left):
        raise RatchetError(f"{verdicts}: not one verdict a sample of {samples}")
    rows = sorted(left, key=lambda row: (row["prompt_id"], row["sample_index"]))
    return [
        (key, [Candidate(r["sample_index"], r["text"], by_key[key, r["sample_index"]]) for r in group])
        for key, group in groupby(rows, key=lambda row: row["prompt_id"])
    ]


def _kind(candidates: Sequence[Candidate]) -> str:
    verdicts = {c.verdict for c in candidates}
    if {"correct", "wrong"} <= verdicts:
        return "mixed"
    return "all_correct" if "correct" in verdicts else "all_wrong" if "wrong" in verdicts else "ungradable"


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


def _write(prompts: _Prompts, samples: Sequence[Path], choices: list[list[Choice]], output: Path) -> dict[str, int]:
    schema = pairs_schema(prompts.conversational)
    tokens = {"chosen": 0, "rejected": 0}
    with pq.ParquetWriter(output, schema, compression="zstd") as writer:
        for sample_file, pairs in zip(samples, choices, strict=True):
            if not pairs:
                continue
            table = _pairs_table(prompts, pq.read_table(sample_file), pairs, schema)
            for side in tokens:
                lengths = pa.compute.list_value_length(table[f"{side}_token_ids"])
                tokens[side] += pa.compute.sum(lengths).as_py()
            writer.write_table(table)
    return tokens


def _pairs_table(prompts: _Prompts, samples: pa.Table, pairs: list[Choice], schema: pa.Schema) -> pa.Table:
    """Pairs with text and ids copied column by column from where they stand: ids are never made from text."""
    keys = zip(samples["prompt_id"].to_pylist(), samples["sample_index"].to_pylist(), strict=True)
    row: dict[tuple[str, int | None], int] = {key: i for i, key in enumerate(keys)}
    golds = sorted({pair.prompt_id for pair in pairs if pair.chosen_sample is None})
    gold_rows = prompts.table.take(pa.array([prompts.row[prompt_id] for prompt_id in golds], pa.int64()))
    for i, prompt_id in enumerate(golds):
        row[prompt_id, None] = samples.num_rows + i
    texts = pa.concat_arrays([*samples["text"].chunks, *gold_rows["solution"].chunks])
    ids = pa.concat_arrays([*samples["token_ids"].chunks, *gold_rows["solution_token_ids"].chunks])
    at_prompt = prompts.table.take([prompts.row[pair.prompt_id] for pair in pairs])
    chosen = [row[pair.prompt_id, pair.chosen_sample] for pair in pairs]
    rejected = [row[pair.prompt_id, pair.rejected_sample] for pair in pairs]

    def view(rows: list[int]) -> pa.Array:
        if not prompts.conversational:
            return texts.take(pa.array(rows))
        said = [[{"role": "assistant", "content": texts[i].as_py()}] for i in rows]
        return pa.array(said, type=schema.field("chosen").type)

    columns = {
        "pair_id": [pair.pair_id for pair in pairs],
        "prompt_id": [pair.prompt_id for pair in pairs],
        "prompt": at_prompt["messages" if prompts.conversational else "text"],
        "chosen": view(chosen),
        "rejected": view(rejected),
        "chosen_sample": pa.array([pair.chosen_sample for pair in pairs], pa.int32()),
        "rejected_sample": pa.array([pair.rejected_sample for pair in pairs], pa.int32()),
        "prompt_token_ids": at_prompt["token_ids"],
        "chosen_token_ids": ids.take(pa.array(chosen)),
        "rejected_token_ids": ids.take(pa.array(rejected)),
    }
    return pa.table([columns[name] for name in schema.names], schema=schema)
