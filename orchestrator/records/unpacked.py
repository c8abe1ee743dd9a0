"""How much text a Parquet file unpacks to. A text of a megabyte that stands in a dictionary once may be the value of a
million rows, and a file of that has two kilobytes: whoever reads a stranger's file looks first."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pyarrow.types as of

from orchestrator.records.parquet import streamed

_TEXT = "BYTE_ARRAY"
_BATCH = 8192
_MANY_BYTES = 1 << 28
_MOST_A_BYTE = 256


class Texts(NamedTuple):
    """Bytes of all texts of a file, each counted as often as it is a value, and of the longest one; or more than that
    where it is little in any case."""

    total: int
    longest: int


def most_bytes(size: int) -> int:
    """How many bytes a file of that size may unpack to: text that compresses better was made for that."""
    return max(_MANY_BYTES, _MOST_A_BYTE * size)


def packed_bytes(metadata: pq.FileMetaData) -> int:
    """Bytes of a file's pages once they are decompressed, its dictionaries counted once."""
    return sum(chunk.total_uncompressed_size for chunk in _chunks(metadata))


def texts_in(path: Path, metadata: pq.FileMetaData, little: int, names: Collection[str] | None = None) -> Texts:
    """The texts of a file, or of these of its columns. Nothing is read where there cannot be more than `little` bytes
    of them; else its dictionaries and the numbers of their values, a batch at a time.

    Raises:
        OSError, pyarrow.ArrowException: it cannot be read.
    """
    texts, most, largest = set[str](), 0, 0
    tops = {name.partition(".")[0] for name in names or ()}  # a column of the name `a.b` is taken for one below `a`
    for chunk in _chunks(metadata):
        if chunk.physical_type == _TEXT and (names is None or chunk.path_in_schema.partition(".")[0] in tops):
            size = chunk.total_uncompressed_size
            most, largest = most + chunk.num_values * size, max(largest, size)
            texts.add(chunk.path_in_schema)
    if most <= little:
        return Texts(most, largest)
    total = longest = 0
    columns = sorted(texts)
    with streamed(path, read_dictionary=columns) as file:
        for batch in file.iter_batches(_BATCH, columns=columns, use_threads=False):
            for one in map(_texts_of, batch.columns):
                total, longest = total + one.total, max(longest, one.longest)
    return Texts(total, longest)


def _chunks(metadata: pq.FileMetaData) -> Iterator[pq.ColumnChunkMetaData]:
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        yield from (group.column(column) for column in range(group.num_columns))


def _texts_of(array: pa.Array) -> Texts:
    kind = array.type
    if of.is_dictionary(kind):
        lengths = pc.take(_lengths(array.dictionary), array.indices)
    elif of.is_map(kind):
        return _together([_texts_of(array.keys), _texts_of(array.items)])
    elif of.is_struct(kind):
        return _together([_texts_of(part) for part in array.flatten()])
    elif of.is_list(kind) or of.is_large_list(kind) or of.is_fixed_size_list(kind):
        return _texts_of(array.flatten())
    else:
        lengths = _lengths(array)
    return Texts(pc.sum(lengths).as_py() or 0, pc.max(lengths).as_py() or 0)


def _lengths(array: pa.Array) -> pa.Array:
    kind = array.type
    if of.is_string(kind) or of.is_binary(kind) or of.is_large_string(kind) or of.is_large_binary(kind):
        return pc.cast(pc.binary_length(array), pa.int64())
    return pa.array([], pa.int64())


def _together(parts: list[Texts]) -> Texts:
    return Texts(sum(part.total for part in parts), max((part.longest for part in parts), default=0))
