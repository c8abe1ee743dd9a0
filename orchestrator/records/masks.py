"""Which tokens of a completion are the model's own, and so are scored.

Others, such as what a tool has answered or what a user says between two turns, are attended to like any token, and
count in lengths and costs (`num_tokens`, `tokens`), since they take room and are computed. But their log-probabilities
are in no sum, and no mean is taken over them (`completion_tokens`, a loss that is divided by its tokens).

A mask is one truth value a token. None, a null in a column of masks, a column that is not there: all tokens are the
model's own. Files without any mask have no such column, and are those of versions that knew none. As a Parquet column
a mask takes next to nothing, since equal values in a row are stored as their number.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Mask = npt.NDArray[np.bool_]

SAMPLE_MASK = "mask"
PAIR_MASKS = {"chosen_token_ids": "chosen_mask", "rejected_token_ids": "rejected_mask"}
"""The column of masks of each column of token ids in a file of pairs."""
ALL_MASKS = {"token_ids": SAMPLE_MASK, **PAIR_MASKS}


def masked(schema: pa.Schema) -> pa.Schema:
    """A schema of samples or pairs with the columns of masks that it lacks, behind the others."""
    lacking = [mask for ids, mask in ALL_MASKS.items() if ids in schema.names and mask not in schema.names]
    return pa.schema([*schema, *(pa.field(name, pa.list_(pa.bool_())) for name in lacking)], schema.metadata)


def mask_columns(schema: pa.Schema) -> list[str]:
    """Those that a file has."""
    return [name for name in ALL_MASKS.values() if name in schema.names]


def fitted(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The table with the columns of `schema` in their order; a column of masks that it lacks becomes one of nulls."""
    columns = [
        table[field.name].cast(field.type) if field.name in table.column_names else pa.nulls(table.num_rows, field.type)
        for field in schema
    ]
    return pa.table(columns, schema=schema)


def as_mask(values: Sequence[bool] | Mask | None, num_tokens: int) -> Mask | None:
    """A completion's mask; None where all `num_tokens` tokens are the model's own, so that one thing has one name.

    Raises:
        ValueError: it is none for so many tokens, or none of these is the model's own.
    """
    if values is None:
        return None
    mask = np.asarray(values)
    mask = mask.astype(np.bool_) if mask.size == 0 else mask  # of no token, whatever numpy takes its type for
    if mask.ndim == 1 and len(mask) != num_tokens:
        raise ValueError(f"{len(mask)} truth values for {num_tokens} tokens")
    if mask.ndim != 1 or mask.dtype != np.bool_:
        raise ValueError("this is no list of truth values")
    if num_tokens and not mask.any():
        raise ValueError("no token is the model's own")
    return None if mask.all() else mask


def num_own(num_tokens: int, mask: Mask | None) -> int:
    """How many of a completion's tokens are the model's own."""
    return num_tokens if mask is None else int(np.count_nonzero(mask))


def misfits(table: pa.Table) -> Iterator[tuple[int, str]]:
    """Of a table of samples or pairs, the rows with a mask that does not fit its tokens, and what is wrong there.
    Costs nothing where there is no mask."""
    for ids, name in ALL_MASKS.items():
        if not {ids, name} <= set(table.column_names) or table[name].null_count == table.num_rows:
            continue
        lengths = pc.fill_null(pc.list_value_length(table[ids]), 0).to_pylist()
        for row, (mask, num_tokens) in enumerate(zip(table[name].to_pylist(), lengths, strict=True)):
            try:
                as_mask(mask, num_tokens)
            except ValueError as error:
                yield row, f"`{name}`: {error}"
