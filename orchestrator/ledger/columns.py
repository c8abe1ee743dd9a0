"""Whether a committed Parquet file has the columns that its readers take it to have. A hash says that it is what was
committed, which somebody else may have made up. The schema is read, and no row but of masks, and where a file may be
made to fill the memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.types as of

from orchestrator.errors import Damaged, first_line
from orchestrator.files.identity import look_once
from orchestrator.files.inside import regular_size
from orchestrator.records.drawn import CURRICULUM
from orchestrator.records.groups import FURTHER, further
from orchestrator.records.harness import HARNESS
from orchestrator.records.masks import ALL_MASKS, mask_columns, masked, misfits
from orchestrator.records.parquet import streamed
from orchestrator.records.rows import (
    DECODED,
    DRIFT,
    EVALUATION,
    PROBE,
    PROMPTS,
    REFERENCE,
    REPEATED,
    SELF_SCORES,
    pairs_schema,
    step_pairs_schema,
)
from orchestrator.records.shards import SHARDS
from orchestrator.records.unpacked import most_bytes, packed_bytes, texts_in

_MOST_ROWS_A_BYTE = 4
_MANY_VALUES = 1 << 26
_MOST_VALUES_A_BYTE = 256
_PAIR_COLUMNS = ("pair_id", "prompt_id", "prompt_token_ids", "chosen_token_ids", "rejected_token_ids")
_NEEDED: Mapping[str, Sequence[str]] = {
    "prompts": ("prompt_id", "text", "token_ids", "messages", "gold", "solution", "solution_token_ids"),
    **{kind.name: kind.needed for kind in SHARDS.values()},
    "step_rewards": ("prompt_id", "sample_index", "step_rewards", "cause"),
    "scores": ("prompt_id", "sample_index", "score", "judgements"),
    "pairs": _PAIR_COLUMNS,
    "replay": _PAIR_COLUMNS,
    "chunks": _PAIR_COLUMNS,
    "repeated": ("prompt_id", "sample_index", "num_tokens", "finish_reason", "verdict", "extracted", "answer"),
    "harness": ("task", "doc_id", "filter", "prompt", "target", "answers", "figures"),
    "drift": ("prompt_id", "sample_index", "num_tokens", "logprob"),
    "curriculum": ("number", "prompt_id", "round", "samples", "correct", "place"),
    "evaluation": ("prompt_id", "text", "token_ids", "finish_reason", "verdict", "extracted"),
}
"""Columns that every version has written, by the folder that a file is in. No schema's names: what is added to one is
not in the runs of before."""


def require_bounded(file: Path, run_dir: Path) -> None:
    """Refuse a Parquet file that is made to fill the memory; what is none, or damaged, is left to its readers.

    Raises:
        Damaged: it unpacks to far more than a file of its size that a step has written.
    """
    size = regular_size(file, run_dir)
    try:
        _refuse_a_bomb(file, pq.read_metadata(file), size)
    except MemoryError:  # which is one of Arrow's exceptions, too, and no word about the file
        raise
    except (pa.ArrowException, ValueError):
        pass
    except OSError as error:  # Arrow's word for what cannot be unpacked; one of the system has a number
        if error.errno is not None:
            raise


def _refuse_a_bomb(file: Path, metadata: pq.FileMetaData, size: int) -> None:
    """Rows have an id or a number of their own, which takes about a byte; values, such as the tokens of a model that
    repeats itself, may take less, but not in such numbers."""
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    values = sum(group.column(number).num_values for group in groups for number in range(group.num_columns))
    if metadata.num_rows > _MOST_ROWS_A_BYTE * size or values > max(_MANY_VALUES, _MOST_VALUES_A_BYTE * size):
        raise Damaged(
            f"{file}: {metadata.num_rows:,} rows and {values:,} values in {size:,} bytes are no table that a step has "
            f"written. {_CURE}"
        )
    most = most_bytes(size)
    unpacked = packed_bytes(metadata)
    if unpacked <= most:
        unpacked = texts_in(file, metadata, most).total
    if unpacked > most:
        raise Damaged(
            f"{file}: {size:,} bytes that unpack to {unpacked:,} are no table that a step has written. {_CURE}"
        )


def require_columns(file: Path, run_dir: Path) -> None:
    """Look at the schema of a committed Parquet file of a run, once as long as nobody touches it.

    Raises:
        Damaged: it is no regular file inside the run, no Parquet file, lacks a column, or has one of another type.
        OSError: it is not there, or cannot be read.
    """
    size, folder = regular_size(file, run_dir), file.parent.name
    look_once(file, f"columns of {folder}", lambda: _require_columns(file, size, _NEEDED.get(folder, ())))


def _require_columns(file: Path, size: int, needed: Sequence[str]) -> None:
    try:
        metadata = pq.read_metadata(file)
        schema = metadata.schema.to_arrow_schema()
        _refuse_a_bomb(file, metadata, size)
        empty = _with_nulls(file, metadata, schema)
    except MemoryError:
        raise
    except (pa.ArrowException, ValueError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise Damaged(f"{file}: committed, but it is no Parquet file that can be read ({first_line(error)})") from error
    if twice := {name for name in schema.names if schema.names.count(name) > 1}:
        raise Damaged(f"{file}: it has the column {', '.join(map(repr, sorted(twice)))} twice. {_CURE}")
    for name in needed:
        if name not in schema.names:
            raise Damaged(f"{file}: it has no column `{name}`, which such a file has. {_CURE}")
    for field in schema:
        if field.name in _KINDS and (found := _kind(field.type)) not in _KINDS[field.name]:
            wanted = " or ".join(sorted(_KINDS[field.name]))
            raise Damaged(f"{file}: its column `{field.name}` holds {found}, and should hold {wanted}. {_CURE}")
    if empty is not None:
        raise Damaged(f"{file}: its column `{empty}` has rows without a value, and none may be without. {_CURE}")


def _with_nulls(file: Path, metadata: pq.FileMetaData, schema: pa.Schema) -> str | None:
    """A column that has nulls, though by each schema it has none, or nulls among numbers such as token ids. Files of
    ours say themselves that they have none, and the parquet library sees to it: of those no row is read, but where
    some list has no numbers."""
    loose = {field.name for field in schema if field.nullable and field.name in _NEVER_NULL}
    names = loose | {
        field.name for field in schema if _is_numbers(field.type) and _may_have_holes(metadata, field.name)
    }
    if not names:
        return None
    with streamed(file) as parquet:
        for batch in parquet.iter_batches(batch_size=1024, columns=sorted(names)):
            for name, column in zip(batch.schema.names, batch.columns, strict=True):
                if (name in loose and column.null_count) or (_is_numbers(column.type) and column.flatten().null_count):
                    return str(name)
    return None


def _is_numbers(kind: pa.DataType) -> bool:
    return _kind(kind) in ("lists of integers", "lists of numbers")


def _may_have_holes(metadata: pq.FileMetaData, name: str) -> bool:
    """Whether statistics do not rule out a null in the lists of a column; a list without values counts as one there."""
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        for said in (group.column(at) for at in range(group.num_columns)):
            if said.path_in_schema.partition(".")[0] == name and (not said.statistics or said.statistics.null_count):
                return True
    return False


def require_masks(file: Path) -> None:
    """Look whether the masks of a file of samples or pairs fit their tokens, once as long as nobody touches it. No row
    of a file without any is read.

    Raises:
        Damaged: one has another length, or leaves no token to the model.
    """
    look_once(file, "masks", lambda: _require_masks(file))


def _require_masks(file: Path) -> None:
    with streamed(file) as parquet:
        known = parquet.schema_arrow
        if not mask_columns(known):
            return
        columns, before = [name for pair in ALL_MASKS.items() for name in pair if name in known.names], 0
        for batch in parquet.iter_batches(batch_size=1024, columns=columns):
            require_fitting(file, pa.Table.from_batches([batch]), before)
            before += batch.num_rows


def require_fitting(file: Path, table: pa.Table, before: int = 0) -> None:
    """As `require_masks`, of rows that were read from the file, behind so many others."""
    for row, what in misfits(table):
        raise Damaged(f"{file}: row {before + row + 1}, {what}. {_CURE}")


_CURE = "Restore it from a copy, or take the run from somewhere else."


def _kind(kind: pa.DataType) -> str:
    if of.is_dictionary(kind):
        return _kind(kind.value_type)
    if of.is_string(kind) or of.is_large_string(kind):
        return "text"
    if of.is_integer(kind):
        return "integers"
    if of.is_floating(kind):
        return "numbers"
    if of.is_boolean(kind):
        return "truth values"
    if of.is_map(kind):
        return f"maps from {_kind(kind.key_type)} to {_kind(kind.item_type)}"
    if of.is_list(kind) or of.is_large_list(kind):
        return f"lists of {_kind(kind.value_type)}"
    if of.is_struct(kind):
        return "objects with " + ", ".join(
            f"{kind.field(i).name} ({_kind(kind.field(i).type)})" for i in range(kind.num_fields)
        )
    return str(kind)


def _schemas() -> list[pa.Schema]:
    schemas = [PROMPTS, SELF_SCORES, REFERENCE, PROBE, EVALUATION, REPEATED, DRIFT, HARNESS, DECODED, CURRICULUM]
    schemas += [step_pairs_schema(), *(kind.schema for kind in SHARDS.values())]
    schemas += [further(pairs_schema(conversational=False), FURTHER), pairs_schema(conversational=True)]
    return [masked(schema) for schema in schemas]


def _all_kinds() -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for schema in _schemas():
        for field in schema:
            # A column of nothing but nulls may be stored as such.
            found.setdefault(field.name, {"null"} if field.nullable else set()).add(_kind(field.type))
    return found


_KINDS = _all_kinds()
_FIELDS = [field for schema in _schemas() for field in schema]
_NEVER_NULL = {field.name for field in _FIELDS} - {field.name for field in _FIELDS if field.nullable}
