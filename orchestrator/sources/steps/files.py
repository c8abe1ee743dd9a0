"""The files of Step-DPO: wrong answers, prompts that end in a prefix of one, continuations, pairs of reasoning
steps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from orchestrator.files.inside import remove
from orchestrator.ledger.columns import require_fitting
from orchestrator.ledger.run import Facts
from orchestrator.records import counts
from orchestrator.records.golds import best
from orchestrator.records.masks import PAIR_MASKS, SAMPLE_MASK, mask_columns, masked
from orchestrator.records.parquet import TableWriter, read_table, streamed
from orchestrator.records.rows import DECODED, PROMPTS, Problem, step_pairs_schema
from orchestrator.rounds.pair_files import Scored
from orchestrator.sources.steps.answers import Answer
from orchestrator.sources.steps.pairing import Continuation, Error, StepPair

Decode = Callable[[Path, Path], None]
"""Adds the last two columns of schema DECODED to a file of samples, in another file (workers.tokens.ends)."""

LOCATED = pa.schema([pa.field("error_id", pa.string(), nullable=False), pa.field("first_wrong", pa.int32())])
"""One row an error that could be judged: its first wrong step, null where no step is wrong."""

_UNDECODED = pa.schema([DECODED.field(name) for name in DECODED.names[:-2]])


@dataclass(frozen=True)
class Tally:
    """How continuations of a prefix ended. Example: Tally(correct=3, judged=7, drawn=8, tokens=210)"""

    correct: int
    judged: int
    """Those that are correct or wrong."""
    drawn: int
    tokens: int

    def __add__(self, other: Tally) -> Tally:
        return Tally(
            self.correct + other.correct,
            self.judged + other.judged,
            self.drawn + other.drawn,
            self.tokens + other.tokens,
        )


class Sampled(NamedTuple):
    """A pass of sampling and grading: its folder below the run, the file of its prompts, its shards."""

    folder: str
    prompts: Path
    shards: Sequence[Scored]


def tallies(sampled: Sampled) -> dict[str, Tally]:
    """By prompt."""
    found: dict[str, Tally] = {}
    for table in map(_graded, sampled.shards):
        correct = pc.equal(table["verdict"], "correct").cast(pa.int64())
        judged = pc.not_equal(table["verdict"], "ungradable").cast(pa.int64())
        grouped = table.append_column("correct", correct).append_column("judged", judged).group_by("prompt_id")
        sums = [("correct", "sum"), ("judged", "sum"), ("correct", "count"), ("num_tokens", "sum")]
        for row in grouped.aggregate(sums).to_pylist():
            numbers = (row[f"{column}_{how}"] for column, how in sums)
            found[row["prompt_id"]] = Tally(*numbers)
    return found


def prompt_kinds(sampled: Sampled) -> Facts:
    """How many prompts have right and wrong samples, right ones only, wrong ones only, and none with a verdict, as
    pair_files counts."""
    found = tallies(sampled).values()
    of_kind = {
        "prompts_mixed": sum(0 < tally.correct < tally.judged for tally in found),
        "prompts_all_correct": sum(0 < tally.correct == tally.judged for tally in found),
        "prompts_all_wrong": sum(tally.correct == 0 < tally.judged for tally in found),
        "prompts_ungradable": sum(tally.judged == 0 for tally in found),
    }
    solved = of_kind["prompts_mixed"] + of_kind["prompts_all_correct"]
    return of_kind | {"pass_any": solved / max(len(found), 1)}


def write_errors(sampled: Sampled, decode: Decode, folder: Path) -> Facts:
    """Write the wrong answers among a pass's samples (schema DECODED), each once however often it was sampled.

    Returns: errors, and `repeated`, those that were left out for that.
    """
    seen: set[tuple[str, tuple[int, ...], tuple[bool, ...]]] = set()

    def fresh(row: Mapping[str, Any]) -> bool:
        before = len(seen)
        seen.add((row["prompt_id"], tuple(row["token_ids"]), tuple(row.get(SAMPLE_MASK) or ())))
        return len(seen) > before

    _write_decoded([sampled], "wrong", None, fresh, decode, folder)
    return error_facts(folder / "00000.parquet", [shard.scores for shard in sampled.shards])


def error_facts(errors: Path, verdicts: Sequence[Path]) -> Facts:
    """What `write_errors` tells, of its file and those of the verdicts."""
    number = pq.read_metadata(errors).num_rows
    wrong = (pc.sum(pc.equal(read_table(file, columns=["verdict"])["verdict"], "wrong")).as_py() for file in verdicts)
    return {"errors": number, "repeated": sum(count or 0 for count in wrong) - number}


def write_continuations(passes: Sequence[Sampled], prefixes: Collection[str], decode: Decode, folder: Path) -> None:
    """Write the right continuations of prefixes, of all passes (schema DECODED)."""
    _write_decoded(passes, "correct", set(prefixes), lambda row: True, decode, folder)


def continuation_facts(file: Path, prefixes: Collection[str], tallies: Mapping[str, Tally]) -> Facts:
    """How many right continuations stand in a file, of how many that were drawn from how many prefixes."""
    drawn = sum(tallies[name].drawn for name in prefixes if name in tallies)
    return {"continuations": pq.read_metadata(file).num_rows, "prefixes": len(prefixes), "drawn": drawn}


def _write_decoded(
    passes: Sequence[Sampled],
    verdict: str,
    only: Collection[str] | None,
    keep: Callable[[Mapping[str, Any]], bool],
    decode: Decode,
    folder: Path,
) -> None:
    folder.mkdir()
    undecoded = folder / "undecoded.parquet"
    schemas = (pq.read_schema(shard.samples) for sampled in passes for shard in sampled.shards)
    schema = masked(_UNDECODED) if any(map(mask_columns, schemas)) else _UNDECODED
    with TableWriter(undecoded, schema) as writer:
        for sampled in passes:
            prompts = prompt_ids(sampled.prompts)
            for shard in sampled.shards:
                table = _graded(shard)
                mask = pc.equal(table["verdict"], verdict)
                if only is not None:
                    mask = pc.and_(mask, pc.is_in(table["prompt_id"], pa.array(sorted(only), pa.string())))
                rows = sorted(table.filter(mask).to_pylist(), key=lambda row: (row["prompt_id"], row["sample_index"]))
                kept = [
                    {name: row.get(name) for name in ("prompt_id", "sample_index", "token_ids", SAMPLE_MASK)}
                    | {"source": sampled.folder, "prompt_token_ids": prompts[row["prompt_id"]]}
                    for row in rows
                    if keep(row)
                ]
                writer.write(pa.Table.from_pylist(kept, schema))
    decode(undecoded, folder / "00000.parquet")
    remove(folder, undecoded)


def _graded(shard: Scored) -> pa.Table:
    """A shard's samples with their verdicts, which stand in the same order or in another."""
    columns = ["prompt_id", "sample_index", "token_ids", "num_tokens"]
    samples = read_table(shard.samples, columns=[*columns, *mask_columns(pq.read_schema(shard.samples))])
    require_fitting(shard.samples, samples)
    verdicts = read_table(shard.scores, columns=["prompt_id", "sample_index", "verdict"]).to_pylist()
    verdict = {(row["prompt_id"], row["sample_index"]): row["verdict"] for row in verdicts}
    keys = zip(samples["prompt_id"].to_pylist(), samples["sample_index"].to_pylist(), strict=True)
    return samples.append_column("verdict", pa.array([verdict[key] for key in keys], pa.string()))


def prompt_ids(file: Path) -> dict[str, list[int]]:
    """Token ids of a file's prompts, by id."""
    table = read_table(file, columns=["prompt_id", "token_ids"])
    return dict(zip(table["prompt_id"].to_pylist(), table["token_ids"].to_pylist(), strict=True))


def read_errors(file: Path, opening: str, how: str) -> list[Error]:
    """The wrong answers of a round, in reasoning steps; `how` is config.Steps.split."""
    return [
        Error(
            row["prompt_id"],
            row["sample_index"],
            row["prompt_token_ids"],
            row["token_ids"],
            Answer(opening, row["text"], row["token_ends"], how),
            row.get(SAMPLE_MASK),
        )
        for row in _rows(file)
    ]


def write_located(first_wrong: Mapping[str, int | None], file: Path) -> None:
    """Write the first wrong step by error (None: no step is wrong), in the order of their ids."""
    rows = [{"error_id": error_id, "first_wrong": step} for error_id, step in sorted(first_wrong.items())]
    pq.write_table(pa.Table.from_pylist(rows, LOCATED), file, compression="zstd")


def read_located(file: Path) -> dict[str, int | None]:
    """The first wrong step by error; None where no step is wrong."""
    table = read_table(file)
    return dict(zip(table["error_id"].to_pylist(), table["first_wrong"].to_pylist(), strict=True))


def read_continuations(file: Path) -> dict[str, list[Continuation]]:
    """The right continuations by the name of their prefix."""
    names = ("source", "sample_index", "prompt_token_ids", "token_ids", "text", "token_ends")
    found: dict[str, list[Continuation]] = {}
    for row in _rows(file):
        columns = [*(row[name] for name in names), row.get(SAMPLE_MASK)]
        found.setdefault(row["prompt_id"], []).append(Continuation(*columns))
    return found


def _rows(file: Path) -> Iterator[dict[str, Any]]:
    with streamed(file) as parquet:
        for batch in parquet.iter_batches(batch_size=256):
            yield from batch.to_pylist()


def write_prefixes(prefixes: Mapping[str, tuple[Error, int]], prompts: Path, file: Path) -> Facts:
    """Write prompts (schema PROMPTS) that end in a prefix of a wrong answer: an error and its number of right steps, by
    the prefix's name. `prompts` are those that the errors answer."""
    table = read_table(prompts, columns=["prompt_id", "text", "gold"])
    asked = {row["prompt_id"]: row for row in table.to_pylist()}
    rows = [
        {
            "prompt_id": name,
            "text": asked[error.prompt_id]["text"] + error.answer.prefix_text(right),
            "token_ids": error.prefix(right),
            "gold": asked[error.prompt_id]["gold"],
        }
        for name, (error, right) in sorted(prefixes.items())
    ]
    pq.write_table(pa.Table.from_pylist(rows, PROMPTS), file, compression="zstd")
    return {"prompts": len(rows)}


def write_step_pairs(pairs: Sequence[StepPair], problems: Mapping[str, Problem], dataset: str, file: Path) -> Facts:
    """Write pairs (schema `step_pairs_schema`), a problem's beside one another. Returns what `pair_facts` does."""
    numbers: Counter[str] = Counter()
    rows: list[dict[str, Any]] = []
    for pair in pairs:
        error, problem = pair.error, problems[pair.error.prompt_id]
        rows.append(
            {
                "pair_id": f"{error.prompt_id}/{numbers[error.prompt_id]}",
                "prompt_id": error.prompt_id,
                "prompt": problem.text,
                "chosen": pair.chosen,
                "rejected": pair.rejected,
                "chosen_sample": pair.continuation.sample_index,
                "rejected_sample": error.sample_index,
                "prompt_token_ids": pair.prompt_ids,
                "chosen_token_ids": pair.chosen_ids,
                "rejected_token_ids": pair.rejected_ids,
                "chosen_mask": pair.chosen_mask,
                "rejected_mask": pair.rejected_mask,
                "chosen_source": pair.continuation.source,
                "step": pair.first_wrong,
                "dataset": dataset,
                "initial_reason_steps": pair.reason_steps,
                "full_chosen": pair.continuation.text,
                "full_rejected": pair.full_rejected,
                "answer": best(problem.gold),
            }
        )
        numbers[error.prompt_id] += 1
    schema = step_pairs_schema()
    if any(row[mask] for row in rows for mask in PAIR_MASKS.values()):
        schema = masked(schema)
    pq.write_table(pa.Table.from_pylist(rows, schema), file, compression="zstd")
    return pair_facts(read_table(file, columns=[f"{side}_token_ids" for side in counts.SIDES]))


def pair_facts(table: pa.Table) -> Facts:
    """Pairs of steps, and their mean lengths in tokens."""
    tokens = counts.side_lengths(table)
    means = {f"{side}_tokens": tokens[side] / max(table.num_rows, 1) for side in counts.SIDES}
    return {"pairs": table.num_rows} | means
