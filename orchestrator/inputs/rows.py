"""The rows of a file of data, each with its place in words."""

from __future__ import annotations

import json
from codecs import BOM_UTF8
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import pyarrow as pa

from orchestrator.errors import BadInput, Damaged, first_line
from orchestrator.files.inside import regular_size
from orchestrator.files.rights import reason
from orchestrator.files.strict_json import no_repeated
from orchestrator.inputs.digits import Columns, Written
from orchestrator.records.parquet import streamed
from orchestrator.records.unpacked import most_bytes, packed_bytes, texts_in

LONGEST_LINE = 16 * 2**20  # bytes; of a field too, where rows do not come in lines
_MIB = f"{LONGEST_LINE >> 20} MiB"
_LITTLE = 2**26  # bytes of texts that are in memory at a time
_CURES = {
    ".csv": "a table of texts has no types: write its rows as JSON, one a line",
    ".tsv": "a table of texts has no types: write its rows as JSON, one a line",
    ".gz": "unpack it first",
    ".zst": "unpack it first",
    ".bz2": "unpack it first",
    ".xz": "unpack it first",
    ".zip": "unpack it first",
    ".arrow": "write it as Parquet (`to_parquet` of the `datasets` library)",
    ".feather": "write it as Parquet",
}


Choose = Callable[[pa.Schema], Collection[str]]
"""The columns of a table that are read."""


def these(names: Collection[str]) -> Choose:
    """These columns; all where one of them is not there, which whoever looks for it tells with those that are."""
    return lambda schema: names if {*names} <= {*schema.names} else schema.names


def every(schema: pa.Schema) -> Collection[str]:
    """All columns."""
    return list(schema.names)


def rows_of(path: Path, key: str, choose: Choose = every) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The rows of a file, each with its place in words; `key` is where the job names the file. A number with a point
    or an exponent is a `Written`. Of a Parquet file no other columns are read than `choose` names.

    Raises:
        BadInput: the file cannot be read, or is no such file.
    """
    try:
        regular_size(path)
        if path.suffix == ".parquet":
            yield from _parquet_rows(path, choose)
        elif path.suffix in (".jsonl", ".json", ".ndjson"):
            yield from _json_rows(path)
        else:
            cure = f"; {_CURES[path.suffix]}" if path.suffix in _CURES else ""
            raise BadInput(f"{key}: {path}: give a .jsonl, .json or .parquet file{cure}")
    except Damaged as error:
        raise BadInput(f"{key}: {error}: a device may have no end, and a pipe no beginning; give a file") from error
    except OSError as error:
        raise BadInput(f"{key}: cannot read {path} ({reason(error)})") from error


def _parquet_rows(path: Path, choose: Choose) -> Iterator[tuple[str, Mapping[str, Any]]]:
    number = 0
    try:
        file = streamed(path.absolute())  # Arrow reads a `~` or an address into others
        schema = file.schema_arrow
        names = choose(schema)
        schema = pa.schema([field for field in schema if field.name in names], schema.metadata)
        columns = Columns(schema)
        if (unpacked := packed_bytes(file.metadata)) > most_bytes(size := path.stat().st_size):
            raise BadInput(f"{path}: {size:,} bytes that unpack to {unpacked:,} are no file of data")
        if twice := sorted(name for name, times in Counter(file.schema_arrow.names).items() if times > 1):
            raise BadInput(f"{path}: the column {twice[0]!r} stands there twice: leave one of them out of the file")
        texts, longest = texts_in(path.absolute(), file.metadata, LONGEST_LINE, schema.names)
        if longest > _LITTLE:
            raise BadInput(f"{path}: one of its fields has {longest:,} bytes; leave such a column out of the file")
        if texts > most_bytes(size):
            raise BadInput(f"{path}: {size:,} bytes whose texts unpack to {texts:,} are no file of data")
        # Few rows at a time: one of them may be huge.
        for batch in file.iter_batches(max(1, min(64, _LITTLE // max(1, longest))), columns=schema.names):
            for row in _values(batch, path):
                number += 1
                yield f"{path}, row {number}", columns.row(row)
    except pa.ArrowInvalid as error:
        raise BadInput(f"{path}: not a Parquet file, or a damaged one ({first_line(error)})") from error
    except UnicodeDecodeError as error:
        raise BadInput(f"{path}, after row {number}: not UTF-8 (byte {error.start})") from error


def _values(batch: pa.RecordBatch, path: Path) -> list[dict[str, Any]]:
    """The rows of a batch as Python's values.

    Raises:
        BadInput: a column has days, times or durations that Python has none for.
    """
    try:
        rows: list[dict[str, Any]] = batch.to_pylist()
    except OverflowError as error:
        kinds = (pa.types.is_temporal, pa.types.is_nested)
        odd = [field.name for field in batch.schema if any(is_kind(field.type) for is_kind in kinds)]
        raise BadInput(
            f"{path}: a day, time or duration is out of range ({first_line(error)}), in one of the columns "
            f"{', '.join(map(repr, odd))}: leave it out of the file, or write it as text"
        ) from error
    return rows


def _json_rows(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    with open(path, "rb") as file:
        if is_array(file):
            yield from _array_rows(path, file)
            return
        number = 0
        while line := file.readline(LONGEST_LINE + 1):
            number += 1
            if len(line) > LONGEST_LINE:
                raise BadInput(f"{path}, line {number}: longer than {_MIB}; no prompt is")
            if line.strip():
                place = f"{path}, line {number}"
                yield place, _object(_parsed(line, path, number), place)


def is_array(file: IO[bytes]) -> bool:
    """Whether the file is one JSON array, and not one object a line; it is at its start afterwards."""
    start = file.read(1 << 12).removeprefix(BOM_UTF8).lstrip()
    file.seek(0)
    return start.startswith(b"[")


def _array_rows(path: Path, file: IO[bytes]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for number, row in enumerate(_parsed(file.read(), path, 1), 1):
        place = f"{path}, entry {number}"
        yield place, _object(row, place)


def _object(row: Any, place: str) -> Mapping[str, Any]:
    if not isinstance(row, dict):
        raise BadInput(f"{place}: an object is needed, not {type(row).__name__}")
    return row


def _parsed(text: bytes, path: Path, number: int) -> Any:
    """What stands in a text that begins at that line of a file, where a byte order mark may stand. Of a key that stands
    twice Python would take the last, and another reader the first."""
    place = f"{path}, line {number}"
    try:
        decoded = text.decode("utf-8-sig" if number == 1 else "utf-8")
        return json.loads(decoded, parse_float=Written, object_pairs_hook=no_repeated)
    except UnicodeDecodeError as error:
        raise BadInput(f"{place}: not UTF-8 (byte {error.start})") from error
    except json.JSONDecodeError as error:
        cure = ""
        if "escape" in error.msg:
            cure = "; in JSON a backslash, such as one of LaTeX, is written twice"
        elif error.pos >= len(text.rstrip()) or error.msg == "Extra data":
            cure = "; write one object a line, or one array of objects"
        line = number + min(error.lineno - 1, text.rstrip().count(b"\n"))
        raise BadInput(f"{path}, line {line}: not JSON ({first_line(error)}){cure}") from error
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{place}: not JSON ({first_line(error)})") from error
