"""A run's committed rows, read a shard at a time and cut down to what is asked for before they
become Python objects."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from orchestrator.errors import BadInput, Damaged, first_line
from orchestrator.ledger import waves
from orchestrator.ledger.ledger import Ledger, State
from orchestrator.records.golds import shown
from orchestrator.records.parquet import read_table
from orchestrator.reports.rounds import round_and_phase
from orchestrator.reports.status import open_run
from orchestrator.reports.tables import parquet_files, round_step, those_there

_VERDICT = ("prompt_id", "sample_index", "verdict", "extracted", "rule", "reason", "cause")
_SAMPLE = ("prompt_id", "sample_index", "text", "finish_reason", "num_tokens")
_PAIR = ("pair_id", "prompt_id", "chosen_sample", "rejected_sample")
_ANSWER = ("prompt_id", "text", "finish_reason", "verdict", "extracted", "cause")


class RunReader:
    """The rows of one run, as its `ledger` tells of them; without one it is read.

    Raises:
        BadInput: there is no run in this folder.
        Damaged: a ledger record, or later a file, is not what it should be.
    """

    def __init__(self, root: Path, ledger: Ledger | None = None) -> None:
        self.root = root
        self.state: State = (ledger or open_run(root)).state
        self._files: dict[str, list[Path]] = {}

    def rounds(self, phase: str) -> list[int]:
        """The rounds, 0 being the base model, of which a phase is committed, at least in part."""
        steps = {*self.state.commits, *self.state.shards}
        return sorted({number for number, found in map(round_and_phase, steps) if found == phase})

    def require(self, number: int, phase: str) -> int:
        """`number`, if this round has the phase.

        Raises:
            BadInput: it has not; the message names those that have.
        """
        if number in (there := self.rounds(phase)):
            return number
        named = f"it has those of round {', '.join(map(str, there))}" if there else "no round has any yet"
        raise BadInput(f"{self.root}: round {number} has no {phase}: {named}")

    def samples(self, number: int) -> Iterator[pa.Table]:
        """A round's samples with their verdicts, a shard at a time: columns `prompt_id`, `sample`, `verdict`,
        `extracted`, `rule`, `reason`, `cause`, `text`, `finish_reason` and `tokens`. What is not graded yet is left
        out."""
        for wave in waves.folders(self.state, f"rounds/{number:02d}"):
            yield from self._samples_of(wave)

    def _samples_of(self, folder: str) -> Iterator[pa.Table]:
        sampled = self._by_name(f"{folder}/samples")
        for name, file in self._by_name(f"{folder}/verdicts").items():
            if name not in sampled:
                continue
            verdicts, texts = _columns(file, _VERDICT), _columns(sampled[name], _SAMPLE)
            for key in ("prompt_id", "sample_index"):
                if not verdicts[key].equals(texts[key]):
                    raise Damaged(f"{file}: its verdicts are not in the order of {sampled[name]}")
            for column in ("text", "finish_reason", "num_tokens"):
                verdicts = verdicts.append_column(column, texts[column])
            yield _named(verdicts, sample_index="sample", num_tokens="tokens")

    def answers(self, number: int, split: str) -> pa.Table | None:
        """The answers to a held-out set by a round's candidate, or by the base model for round 0; None where there are
        none. Columns as `samples`, as far as an evaluation has them."""
        step = "baseline/evaluation" if number == 0 else round_step(number, "evaluation")
        file = self._by_name(step).get(f"{split}.parquet")
        if file is None:
            return None
        table = _columns(file, (*_ANSWER, "token_ids"))
        return table.drop_columns("token_ids").append_column("tokens", pc.list_value_length(table["token_ids"]))

    def prompts(self, number: int, split: str, wanted: Collection[str]) -> dict[str, dict[str, Any]]:
        """Text and gold answer of some prompts of a round, by id."""
        step = round_step(number, "prompts") if split == "train" else "baseline/prompts"
        file = self._by_name(step).get(f"{split}.parquet")
        if file is None or not wanted:
            return {}
        rows = only(_columns(file, ("prompt_id", "text", "gold")), wanted).to_pylist()
        return {row["prompt_id"]: {"prompt": row["text"], "gold": shown(row["gold"])} for row in rows}

    def pairs(self, number: int, wanted: Collection[str], most: int | None = None) -> list[dict[str, Any]]:
        """The pairs of some prompts in a round, at most so many: `pair_id`, `prompt_id`, `chosen_sample`,
        `rejected_sample`."""
        found: list[dict[str, Any]] = []
        for file in self.files(round_step(number, "pairs")):
            found += only(_columns(file, _PAIR), wanted).slice(0, most).to_pylist()
        return found[:most]

    def files(self, step: str) -> list[Path]:
        """The Parquet files of a committed step that are there; looked for once, since one may be waited for."""
        if step not in self._files:
            found = those_there(parquet_files(self.root, self.state, step))
            self._files[step] = [file for file in found if file.suffix == ".parquet"]
        return self._files[step]

    def _by_name(self, step: str) -> dict[str, Path]:
        return {file.name: file for file in self.files(step)}


def table_of(file: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """A committed file, or these of its columns.

    Raises:
        Damaged: it cannot be read.
        OSError: it is not there, or may not be read.
    """
    try:
        return read_table(file, columns)
    except MemoryError:  # which is one of Arrow's exceptions, too, and no word about the file
        raise
    except (pa.ArrowException, ValueError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise Damaged(
            f"{file}: cannot be read ({first_line(error)}). `ratchet verify` names all that is wrong."
        ) from error


def only(table: pa.Table, wanted: Collection[str], column: str = "prompt_id") -> pa.Table:
    """The rows of these prompts."""
    return table.filter(pc.is_in(table[column], pa.array(sorted(wanted), pa.string())))


def _columns(file: Path, names: Sequence[str]) -> pa.Table:
    """These columns; one that the file of an earlier version lacks is null."""
    there = set(pq.read_schema(file).names)
    table = table_of(file, [name for name in names if name in there])
    for name in names:
        if name not in table.column_names:
            table = table.append_column(name, pa.nulls(table.num_rows))
    return table.select(list(names))


def _named(table: pa.Table, **names: str) -> pa.Table:
    return table.rename_columns([names.get(name, name) for name in table.column_names])
