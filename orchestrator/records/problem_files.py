"""Problems as a Parquet file, written and read a part at a time: there may be millions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from orchestrator.records.parquet import streamed
from orchestrator.records.rows import Problem

PROBLEMS = pa.schema([(name, pa.string()) for name in ("prompt_id", "text", "gold", "solution", "hint")])
_AT_A_TIME = 4096


def write_problem_file(problems: Iterable[Problem], file: Path) -> None:
    """Write problems (schema PROBLEMS), in their order."""
    rest = iter(problems)
    with pq.ParquetWriter(file, PROBLEMS, compression="zstd") as writer:
        while part := list(islice(rest, _AT_A_TIME)):
            columns = [[getattr(problem, name) for problem in part] for name in PROBLEMS.names]
            writer.write_table(pa.table(columns, schema=PROBLEMS))


def read_problem_file(file: str | Path) -> Iterator[Problem]:
    """What `write_problem_file` wrote. A column that an earlier version did not know is null."""
    with streamed(file) as parquet:
        known = [name for name in PROBLEMS.names if name in parquet.schema_arrow.names]
        for batch in parquet.iter_batches(batch_size=_AT_A_TIME, columns=known):
            none = [None] * batch.num_rows
            columns = (batch[name].to_pylist() if name in known else none for name in PROBLEMS.names)
            yield from (Problem(*values) for values in zip(*columns, strict=True))


@contextmanager
def handed_over(problems: Iterable[Problem], output: Path) -> Iterator[Path]:
    """Problems in a file beside the one that is to be made of them. Whoever commits that takes a file of this name for
    one that somebody has left unfinished, and passes it over."""
    file = output.with_name(f".{output.name}.problems-e0")
    try:
        write_problem_file(problems, file)
        yield file
    finally:
        file.unlink(missing_ok=True)
