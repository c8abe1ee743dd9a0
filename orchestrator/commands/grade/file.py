"""`ratchet grade`: a file of gold answers and completions, with verdicts beside them."""

from __future__ import annotations

import contextlib
import errno
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from orchestrator.errors import BadInput, first_line
from orchestrator.files import durable, unfinished
from orchestrator.files.disk import one_message
from orchestrator.files.named import is_there
from orchestrator.files.rights import reason
from orchestrator.inputs.fields import gold_of, written
from orchestrator.inputs.rows import is_array, rows_of
from orchestrator.models.files import enclosing_run

CHUNK = 2000
"""Rows that are graded together."""
COLUMNS = ("verdict", "extracted", "rule", "reason", "cause")
"""What is written beside a row; fields of these names that it has already are replaced."""
_TEXTS = pa.schema([(name, pa.string()) for name in COLUMNS])


class Graded(Protocol):
    """One verdict: see `COLUMNS`."""

    verdict: Any
    extracted: str | None
    rule: str | None
    reason: str | None
    cause: Any


Grading = Callable[[list[tuple[str, str, str]]], Sequence[Graded]]
"""(gold answer, completion, finish reason) of each row to its verdict."""


@dataclass(frozen=True)
class Fields:
    """Which fields of a row hold what."""

    gold: str = "gold"
    text: str = "text"
    gold_marker: str | None = None
    """The gold answer is what follows the last such marker in its field."""


@dataclass
class Summary:
    """How many rows had which verdict, and why not, and their answer by which rule ("none")."""

    verdicts: Counter[str]
    rules: Counter[str]
    causes: Counter[str]
    """Why rows are ungradable (records.Cause)."""

    @property
    def rows(self) -> int:
        return self.verdicts.total()

    @property
    def accuracy(self) -> float:
        """Share of rows that are correct; what is ungradable is not."""
        return self.verdicts["correct"] / max(1, self.rows)


def number_of_rows(file: Path) -> int | None:
    """About how many rows a file has; None where it cannot be told."""
    try:
        if not file.is_file():
            return None
        if file.suffix == ".parquet":
            return int(pq.read_metadata(file.absolute()).num_rows)
        with open(file, "rb") as stream:
            if is_array(stream):
                return None
            return sum(1 for line in stream if line.strip())
    except (OSError, pa.ArrowInvalid):
        return None


def grade_file(
    file: Path, output: Path, fields: Fields, grading: Grading, progress: Callable[[int], None] = lambda rows: None
) -> Summary:
    """Grade the rows of a file in order, and write them with their verdicts to another one, `.jsonl` or `.parquet`.

    A row is a completion that was cut, and so ungradable, where its field `finish_reason` is "length".
    `progress` is told how many rows are done since the last time. The output appears when it is complete.

    Raises:
        BadInput: the file cannot be read, or a row lacks a field or has something else in it; the message names
            file and line. Or the output cannot be written.
    """
    if fields.gold_marker == "":
        raise BadInput("--gold-marker is empty: give the text that stands before the gold answer, such as '####'")
    summary = Summary(Counter(), Counter(), Counter())
    with _writer(file, output) as write:
        rows = rows_of(file, "FILE")
        while chunk := list(islice(rows, CHUNK)):
            graded = grading([_item(row, place, fields) for place, row in chunk])
            write([dict(row) | _verdict(one) for (_, row), one in zip(chunk, graded, strict=True)])
            summary.verdicts.update(one.verdict for one in graded)
            summary.rules.update(one.rule or "none" for one in graded)
            summary.causes.update(one.cause for one in graded if one.cause)
            progress(len(chunk))
        if not summary.rows:
            raise BadInput(f"{file} has no rows")
    return summary


def _item(row: Mapping[str, Any], place: str, fields: Fields) -> tuple[str, str, str]:
    what = f"{place}: field {fields.gold!r}"
    gold = gold_of(_value(row, fields.gold, "--gold", place), what, fields.gold_marker, "--gold-marker")
    text = written(_value(row, fields.text, "--text", place), f"{place}: field {fields.text!r}")
    return gold, text, "length" if row.get("finish_reason") == "length" else "stop"


def _value(row: Mapping[str, Any], field: str, option: str, place: str) -> Any:
    if field not in row:
        raise BadInput(f"{place}: no field {field!r}; the row has {', '.join(map(repr, row)) or 'none'}. See {option}.")
    return row[field]


def _verdict(graded: Graded) -> dict[str, str | None]:
    return {name: getattr(graded, name) for name in COLUMNS}


@contextlib.contextmanager
def _writer(file: Path, output: Path) -> Iterator[Callable[[list[dict[str, Any]]], None]]:
    """A function that writes rows to a hidden file, which gets its name at the end."""
    if output.suffix not in (".jsonl", ".parquet"):
        raise BadInput(f"-o {output}: the name must end in .jsonl or .parquet")
    if is_there(output) and is_there(file) and os.path.samefile(file, output):
        raise BadInput(f"-o {output}: is {file}, the file that is graded. Give the verdicts another name.")
    label = f"{output.name}.grade"
    if (run := enclosing_run(output)) is not None:
        raise BadInput(f"-o {output}: lies in the run {run}, among files that it counts. Choose another place.")
    with _telling(output):
        if output.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        output.parent.mkdir(parents=True, exist_ok=True)
        unfinished.tidy(output.parent, label)
    hidden = unfinished.hidden(output.parent, label)
    try:
        with _telling(output):
            rows = _JsonRows(hidden) if output.suffix == ".jsonl" else _ParquetRows(file, hidden)

        def write(some: list[dict[str, Any]]) -> None:
            with _telling(output):
                rows.write(some)

        with contextlib.closing(rows):
            yield write
            with _telling(output):
                rows.finish()
                durable.sync(hidden)
                os.replace(hidden, output)
                durable.sync(output.parent)
    finally:
        with contextlib.suppress(OSError):  # where it could not be made, it cannot be looked for either
            hidden.unlink(missing_ok=True)


@contextlib.contextmanager
def _telling(output: Path) -> Iterator[None]:
    """Errors of the output, in words: a bad choice of a place, or a disk that is full."""
    again = "Nothing is left of it: see to the disk, and give the same command again."
    try:
        with one_message(f"-o {output}", again):
            yield
    except OSError as error:
        in_the_way = isinstance(error, FileExistsError)
        why = f"{error.filename} is no folder" if in_the_way else reason(error)
        raise BadInput(f"-o {output}: cannot be written ({why})") from error


class _JsonRows:
    """Writes as rows come."""

    def __init__(self, path: Path) -> None:
        self._stream = open(path, "x", encoding="ascii")  # noqa: SIM115

    def write(self, rows: list[dict[str, Any]]) -> None:
        # What JSON has no form for, such as a date in Parquet, is written as text.
        self._stream.writelines(json.dumps(row, default=str) + "\n" for row in rows)

    def finish(self) -> None:
        self._stream.close()

    def close(self) -> None:
        with contextlib.suppress(OSError):  # it has been told, or nobody wants the rest
            self._stream.close()


class _ParquetRows:
    """Writes at the end: which fields rows of JSON have, and of which type, is known when all are there."""

    def __init__(self, file: Path, path: Path) -> None:
        self._file, self._path = file, path
        self._rows: list[dict[str, Any]] = []
        path.touch(exist_ok=False)  # that there can be one is known before the work

    def write(self, rows: list[dict[str, Any]]) -> None:
        self._rows += rows

    def finish(self) -> None:
        try:
            pq.write_table(_table(self._rows, self._file), self._path.absolute(), compression="zstd")
        except (pa.ArrowException, UnicodeEncodeError, OverflowError) as error:
            raise BadInput(
                f"{self._file}: its fields do not fit into Parquet ({first_line(error)}); choose an output in .jsonl"
            ) from error

    def close(self) -> None:
        pass


def _table(rows: list[dict[str, Any]], file: Path) -> pa.Table:
    texts = [{name: _clean(row[name]) for name in COLUMNS} for row in rows]
    if file.suffix == ".parquet":
        schema = pq.read_schema(file.absolute())
        kept = pa.schema([field for field in schema if field.name not in COLUMNS], schema.metadata)
        table = pa.Table.from_pylist(rows, kept)
    else:
        names = [name for name in dict.fromkeys(name for row in rows for name in row) if name not in COLUMNS]
        table = pa.table({name: [row.get(name) for row in rows] for name in names})
    for name in COLUMNS:
        table = table.append_column(_TEXTS.field(name), pa.array([text[name] for text in texts], pa.string()))
    return table


def _clean(text: str | None) -> str | None:
    """Text that UTF-8 has a form for: half a surrogate pair, which a model may write, is replaced."""
    return None if text is None else text.encode("utf-8", "replace").decode("utf-8")
