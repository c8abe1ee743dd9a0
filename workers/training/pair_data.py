"""Reading the trainer's inputs, pairs and reference log-probabilities, and writing its small outputs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from orchestrator.errors import first_line
from orchestrator.records import counts, pair_ids
from orchestrator.records.groups import GROUP, SCORES, further_columns
from orchestrator.records.masks import PAIR_MASKS, Mask, mask_columns
from orchestrator.records.parquet import read_table
from orchestrator.records.rows import PROBE, REFERENCE
from workers.files import write_table
from workers.numerics import batching
from workers.numerics.batching import PairTokens, Tokens

_IDS = ("prompt_token_ids", "chosen_token_ids", "rejected_token_ids")


class TrainingDataError(ValueError):
    """The pairs or the reference file cannot be trained on; the message names file, row and cure."""


def _token_lists(table: pa.Table, name: str) -> list[Tokens | None]:
    column = table.column(name).combine_chunks()
    column = column.chunk(0) if isinstance(column, pa.ChunkedArray) else column
    values = column.values.to_numpy(zero_copy_only=False).astype(np.int32, copy=False)
    offsets = column.offsets.to_numpy()
    rows = zip(column.is_valid().to_pylist(), pairwise(offsets), strict=True)
    return [values[start:stop] if there else None for there, (start, stop) in rows]


def _masks(table: pa.Table, name: str) -> list[Mask | None]:
    if name not in table.column_names:
        return [None] * table.num_rows
    return [None if mask is None else np.asarray(mask) for mask in table.column(name).to_pylist()]


def _plain(table: pa.Table, name: str) -> list[Any]:
    return table.column(name).to_pylist() if name in table.column_names else [None] * table.num_rows


def _read(file: str) -> pa.Table:
    try:
        schema = pq.read_schema(file)
        return read_table(file, columns=["pair_id", *_IDS, *mask_columns(schema), *further_columns(schema)])
    except (OSError, pa.ArrowInvalid) as error:
        raise TrainingDataError(f"{file}: cannot be read as a Parquet file of pairs ({first_line(error)})") from error


def read_pairs(files: Sequence[str], vocab_size: int) -> list[PairTokens]:
    """All pairs of the Parquet files, in order.

    Raises TrainingDataError for an unreadable file, an empty side, a mask that does not fit its side, or a token id
    outside the vocabulary.
    """
    pairs: list[PairTokens] = []
    for number, file in enumerate(files):
        table = _read(file)
        if table.num_rows == 0:
            continue
        columns: list[list[Any]] = [
            *(_token_lists(table, name) for name in _IDS),
            *(_masks(table, name) for name in PAIR_MASKS.values()),
            [None if group is None else (number, group) for group in _plain(table, GROUP)],
            [_gap(*scores) for scores in zip(*(_plain(table, name) for name in SCORES), strict=True)],
        ]
        for pair_id, *known in zip(table.column("pair_id").to_pylist(), *columns, strict=True):
            try:
                pair = PairTokens(pair_id, *known)
            except ValueError as error:
                raise TrainingDataError(f"{file}: {error}; leave it out when pairs are made") from error
            tokens = [pair.prompt, *(side.tokens for side in pair.sides)]
            low, high = min(int(ids.min()) for ids in tokens), max(int(ids.max()) for ids in tokens)
            if low < 0 or high >= vocab_size:
                raise TrainingDataError(
                    f"{file}: pair {pair_id} has token id {low if low < 0 else high}, but the model's "
                    f"vocabulary has {vocab_size}; make the pairs with the trained model's tokenizer"
                )
            pairs.append(pair)
    return pairs


def _gap(chosen: float | None, rejected: float | None) -> float | None:
    """By how much the chosen one's score is above the rejected one's."""
    return None if chosen is None or rejected is None else chosen - rejected


def grouped(pairs: list[PairTokens]) -> list[PairTokens]:
    """One row a group (`batching.grouped`).

    Raises TrainingDataError where pairs of a group have not the same chosen completion.
    """
    try:
        return batching.grouped(pairs)
    except ValueError as error:
        raise TrainingDataError(f"{error}; make the pairs anew") from error


def score_gaps(pairs: Sequence[PairTokens]) -> list[float]:
    """By how much each chosen completion's score is above the rejected one's.

    Raises TrainingDataError where that is not known, or not more than 0 and finite.
    """
    gaps = []
    for pair in pairs:
        if pair.score_gap is None:
            raise TrainingDataError(
                f"pair {pair.pair_id} has no scores, by which this `loss.form` goes: make the pairs anew, or take "
                "another form"
            )
        if not 0 < pair.score_gap < math.inf:
            raise TrainingDataError(
                f"pair {pair.pair_id}: the chosen score less the rejected one is {pair.score_gap:g}, and must be above "
                "0; leave it out when pairs are made"
            )
        gaps.append(pair.score_gap)
    return gaps


def drop_long(pairs: list[PairTokens], max_tokens: int | None) -> list[PairTokens]:
    """Pairs of which no side, prompt included, is longer than `max_tokens`.

    Raises TrainingDataError when none is left.
    """
    kept = [pair for pair in pairs if max_tokens is None or pair.longest <= max_tokens]
    if not pairs:
        raise TrainingDataError("no pairs to train on: the files of pairs are empty")
    if not kept:
        shortest = min(pair.longest for pair in pairs)
        raise TrainingDataError(
            f"no pairs left to train on: all {len(pairs)} are longer than train.max_tokens = {max_tokens}; "
            f"the shortest has {shortest} tokens, so raise train.max_tokens at least to that"
        )
    return kept


def read_reference(file: str) -> dict[str, float]:
    """Reference log-probabilities by completion key."""
    try:
        table = pq.read_table(file, schema=REFERENCE)
    except (OSError, pa.ArrowInvalid) as error:
        raise TrainingDataError(f"{file}: cannot be read as a reference file ({first_line(error)})") from error
    keys, logprobs = table.column("completion_key").to_pylist(), table.column("logprob").to_pylist()
    return dict(zip(keys, logprobs, strict=True))


def require_scored(pairs: Sequence[PairTokens], reference: dict[str, float], file: str) -> None:
    """Raise TrainingDataError unless the reference covers both sides of every pair."""
    for pair in pairs:
        if any(key not in reference for key in pair_ids.completion_keys(pair)):
            raise TrainingDataError(
                f"{file}: lacks a completion of pair {pair.pair_id}: it was made for other pairs, so run the "
                "reference pass again"
            )


def write_probe(file: str, rows: Sequence[tuple[Tokens, Tokens, float, float | None]]) -> None:
    """Write (prompt ids, completion ids, logprob, reference's logprob) rows as Parquet."""
    prompts, completions, logprobs, reference = zip(*rows, strict=True)
    columns = [[p.tolist() for p in prompts], [c.tolist() for c in completions], list(logprobs), list(reference)]
    write_table(pa.table(columns, schema=PROBE), file)


def write_metrics(file: str, rows: Sequence[dict[str, float]]) -> None:
    """Write one row an update as Parquet; what an update lacks is null."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    write_table(pa.table({name: [row.get(name) for row in rows] for name in names}), file)


def training_facts(metrics: Sequence[Mapping[str, Any]], pairs: Sequence[PairTokens], dropped: int) -> dict[str, Any]:
    """What is known of a training at its end: `metrics` has a row an update, and `dropped` pairs were too long."""
    found = counts.metrics(metrics) | counts.trained_pairs(lambda: pairs, dropped)
    seconds = sum(row["seconds"] for row in metrics)
    return found | {"seconds": seconds, "tokens_per_second": found["tokens"] / seconds}
