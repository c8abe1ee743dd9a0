"""Parquet files of a run, read whole. A run has thousands of small ones."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq


def read_table(file: str | Path, columns: Sequence[str] | None = None) -> pa.Table:
    """A file, or these columns of it in this order. Of a small file `pyarrow.parquet.read_table`, which plans a scan
    of a data set, takes three times as long for the same.

    Raises:
        OSError, pyarrow.ArrowException: it cannot be read, or has no such column.
    """
    with pq.ParquetFile(file, pre_buffer=True) as parquet:
        if columns is None:
            return parquet.read()
        if missing := set(columns) - set(parquet.schema_arrow.names):
            raise pa.ArrowInvalid(f"{file}: no column {', '.join(sorted(missing))}")
        return parquet.read(columns=columns).select(columns)
