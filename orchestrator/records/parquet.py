"""Parquet files of a run, read whole or some rows at a time. A run has thousands of small ones, and some large ones."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

ROWS_A_GROUP = 4096
"""Rows of a large file that are written, and so read, together."""

GROUPS_OF_A_TABLE = 256
"""So many groups of a file are a table each, as they came."""
BYTES_A_GROUP = 2**23
"""In memory, of the tables that are written together behind those, or a little more."""


def read_table(file: str | Path, columns: Sequence[str] | None = None) -> pa.Table:
    """A file, or these columns of it in this order. Of a small file `pyarrow.parquet.read_table`, which plans a scan
    of a data set, takes three times as long for the same.

    Raises:
        OSError, pyarrow.ArrowException: it cannot be read, or has no such column.
    """
    with pq.ParquetFile(file, pre_buffer=True) as parquet:
        if columns is None:
            return parquet.read()
        _require(columns, parquet, file)
        return parquet.read(columns=columns).select(columns)


def _require(columns: Sequence[str], parquet: pq.ParquetFile, file: str | Path) -> None:
    if missing := set(columns) - set(parquet.schema_arrow.names):
        raise pa.ArrowInvalid(f"{file}: no column {', '.join(sorted(missing))}")


def streamed(file: str | Path, read_dictionary: list[str] | None = None) -> pq.ParquetFile:
    """A file to be read by `iter_batches`. Arrow's default holds whatever was read of it until it is closed.

    Raises:
        OSError, pyarrow.ArrowException: it cannot be read.
    """
    return pq.ParquetFile(file, read_dictionary=read_dictionary, pre_buffer=False)


class TableWriter:
    """A file that grows by tables. Each group of rows has some 2 KB a column in the file's footer, which the writer
    holds to the end, and whoever opens the file: after the first groups, which are a table each as in files of earlier
    versions, small tables are written together. Of a file whose writing has failed nothing is promised."""

    def __init__(self, file: Path, schema: pa.Schema) -> None:
        self._writer = pq.ParquetWriter(file, schema, compression="zstd")
        self._waiting, self._bytes, self._groups = list[pa.Table](), 0, 0

    def __enter__(self) -> TableWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None and self._waiting:
                self._write()
        finally:
            self._writer.close()

    def write(self, table: pa.Table) -> None:
        """Add rows of the file's schema behind those before."""
        self._waiting.append(table)
        self._bytes += table.nbytes
        if self._groups < GROUPS_OF_A_TABLE or self._bytes >= BYTES_A_GROUP:
            self._write()

    def _write(self) -> None:
        self._writer.write_table(pa.concat_tables(self._waiting))
        self._waiting, self._bytes, self._groups = [], 0, self._groups + 1


class Rows:
    """A file of which some rows are read at a time. The group of rows that was read last is kept: the next ones are
    likely to be in it. Files that earlier versions wrote are one group.

    Raises:
        OSError, pyarrow.ArrowException: it cannot be read, or has no such column.
    """

    def __init__(self, file: str | Path, columns: Sequence[str]) -> None:
        self._file, self._columns = pq.ParquetFile(file, pre_buffer=True), list(columns)
        _require(columns, self._file, file)
        metadata = self._file.metadata
        sizes = [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)]
        self._starts = [0, *accumulate(sizes)]
        self._read: tuple[int, pa.Table] | None = None

    def __len__(self) -> int:
        return int(self._starts[-1])

    def between(self, start: int, stop: int) -> pa.Table:
        """Rows `start` to `stop`, as far as there are so many."""
        first, last = bisect_right(self._starts, start) - 1, bisect_left(self._starts, stop)
        groups = range(first, min(last, len(self._starts) - 1))
        parts = [self._group(number) for number in groups]
        if not parts:
            return self._file.schema_arrow.empty_table().select(self._columns)
        table = pa.concat_tables(parts)
        return table.slice(start - self._starts[first], stop - start)

    def take(self, places: npt.NDArray[np.int64]) -> pa.Table:
        """The rows at these places, in their order."""
        if not len(places):
            return self.between(0, 0)
        groups = np.searchsorted(self._starts, places, side="right") - 1
        parts, order = list[pa.Table](), list[npt.NDArray[np.int64]]()
        for number in np.unique(groups).tolist():
            order.append(np.flatnonzero(groups == number))
            parts.append(self._group(number).take(pa.array(places[order[-1]] - self._starts[number])))
        return pa.concat_tables(parts).take(pa.array(np.argsort(np.concatenate(order)))).combine_chunks()

    def _group(self, number: int) -> pa.Table:
        if self._read is None or self._read[0] != number:
            self._read = None  # two of them are not held at once
            self._read = number, self._file.read_row_group(number, columns=self._columns).select(self._columns)
        return self._read[1]
