"""Reading a Parquet file of a run: what pyarrow's `read_table` gives, the columns in the order that was asked for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from orchestrator.records.parquet import Rows, read_table


@pytest.mark.parametrize("columns", [None, ["c", "a"], ["b"], []])
def test_it_is_the_table_that_pyarrow_reads(tmp_path: Path, columns: list[str] | None) -> None:
    schema = pa.schema({"a": pa.string(), "b": pa.list_(pa.int32()), "c": pa.dictionary(pa.int32(), pa.string())})
    rows = [{"a": str(n), "b": list(range(n)), "c": None if n % 3 else "x"} for n in range(10)]
    folder = tmp_path / "d=1"  # which a data set could take for a column
    folder.mkdir()
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), folder / "file.parquet", row_group_size=4)
    found = read_table(folder / "file.parquet", columns=columns)
    assert found.equals(pq.read_table(folder / "file.parquet", columns=columns))
    assert found.num_rows == 10 and found.column_names == (["a", "b", "c"] if columns is None else columns)


def test_what_cannot_be_read_is_told(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": [1]}), tmp_path / "file")
    with pytest.raises(pa.ArrowInvalid, match="file: no column b, z"):
        read_table(tmp_path / "file", columns=["a", "z", "b"])
    with pytest.raises(FileNotFoundError):
        read_table(tmp_path / "none")
    (tmp_path / "file").write_bytes(b"no such thing")
    with pytest.raises(pa.ArrowInvalid):
        read_table(tmp_path / "file")


@pytest.mark.parametrize("size", [3, 4, 100])
def test_some_rows_are_those_of_the_whole(tmp_path: Path, size: int) -> None:
    """In groups of several rows, of which the last may be shorter, and in one."""
    table = pa.table({"a": [f"{n}" for n in range(10)], "b": [[n] * n for n in range(10)], "c": range(10)})
    pq.write_table(table, tmp_path / "file", row_group_size=size)
    rows, whole = Rows(tmp_path / "file", ["b", "a"]), table.select(["b", "a"])
    assert len(rows) == 10
    for start in range(11):
        for stop in range(start, 12):
            assert rows.between(start, stop).equals(whole.slice(start, stop - start)), (start, stop)
    for places in ([], [4], [9, 0, 3, 3, 8, 1], list(range(10))):
        assert rows.take(np.array(places, np.int64)).equals(whole.take(pa.array(places, pa.int64())).combine_chunks())
    with pytest.raises(pa.ArrowInvalid, match="file: no column z"):
        Rows(tmp_path / "file", ["z"])
    pq.write_table(table.slice(0, 0), tmp_path / "none")
    assert len(none := Rows(tmp_path / "none", ["a"])) == none.between(0, 5).num_rows == 0
