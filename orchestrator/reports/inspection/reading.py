"""A run's committed rows, read a shard at a time and cut down to what is asked for before they
become Python objects."""

from __future__ import annotations

import contextlib
from bisect import bisect_left
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from orchestrator.config.reward import phases
from orchestrator.errors import BadInput, Damaged, first_line
from orchestrator.ledger import waves
from orchestrator.ledger.columns import require_columns
from orchestrator.ledger.ledger import Ledger, State
from orchestrator.records.golds import shown
from orchestrator.records.parquet import ROWS_A_GROUP, read_table, streamed
from orchestrator.reports.rounds import round_and_phase
from orchestrator.reports.status import open_run
from orchestrator.reports.tables import committed_files, round_step, those_there

VERDICTS = ("correct", "wrong", "ungradable")
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

    def checkpoints(self) -> list[int]:
        """The rounds that have made a checkpoint, there still or not."""
        made = {artifact.path for commit in self.state.commits.values() for artifact in commit.artifacts}
        return [number for number in self.rounds("train") if f"rounds/{number:02d}/checkpoint" in made]

    def require(self, number: int, phase: str) -> int:
        """`number`, if this round has the phase.

        Raises:
            BadInput: it has not; the message names those that have.
        """
        if number in (there := self.rounds(phase)):
            return number
        named = f"it has those of round {', '.join(map(str, there))}" if there else "no round has any yet"
        aside = any(number in rollback.rounds for rollback in self.state.rollbacks)
        gone = f" (a rollback has set round {number} aside)" if aside else ""
        raise BadInput(f"{self.root}: round {number} has no {phase}{gone}: {named}")

    def samples(self, number: int, wanted: Collection[str] | None = None, hinted: bool = False) -> Iterator[pa.Table]:
        """A round's samples with their verdicts, a shard at a time; where prompts are `wanted`, of those shards alone
        that have any of them. Columns: `prompt_id`, `sample`, `verdict`, `extracted`, `rule`, `reason`, `cause`,
        `text`, `finish_reason` and `tokens`; where reward models have scored them, also `rewards`, a list with what
        each gives. What is not graded yet is left out. `hinted`: those that were drawn with the answer as a hint."""
        folder = f"rounds/{number:02d}"
        for part in [f"{folder}/hinted"] if hinted else waves.folders(self.state, folder):
            yield from self._samples_of(part, wanted)

    def hinted(self, number: int, wanted: Collection[str]) -> set[str]:
        """Those of some prompts of a round that no sample solved, and that were asked again with the answer as a hint
        (`generate.hint`): their pairs are of the samples with the hint, which are numbered anew."""
        file = self._by_name(round_step(number, "hinted/prompts")).get("train.parquet") if wanted else None
        tables = self._batches(file, ("prompt_id",)) if file else ()
        return {name for table in tables for name in only(table, wanted)["prompt_id"].to_pylist()}

    def _samples_of(self, folder: str, wanted: Collection[str] | None) -> Iterator[pa.Table]:
        sampled = self._by_shard(f"{folder}/samples")
        scored = [self._by_shard(f"{folder}/{phase}") for phase in self._reward_phases()]
        for shard, file in self._by_shard(f"{folder}/verdicts").items():
            if shard not in sampled or not (wanted is None or self._has(file, wanted)):
                continue
            verdicts, texts = self._columns(file, _VERDICT), self._columns(sampled[shard], _SAMPLE)
            for key in ("prompt_id", "sample_index"):
                if not verdicts[key].equals(texts[key]):
                    raise Damaged(f"{file}: its verdicts are not in the order of {sampled[shard]}")
            for column in ("text", "finish_reason", "num_tokens"):
                verdicts = verdicts.append_column(column, texts[column])
            if scored and all(shard in files for files in scored):
                verdicts = verdicts.append_column("rewards", self._rewards(verdicts, [of[shard] for of in scored]))
            yield _named(verdicts, sample_index="sample", num_tokens="tokens")

    def _has(self, file: Path, wanted: Collection[str]) -> bool:
        """Whether a file has a row of these prompts."""
        require_columns(file, self.root)
        with _readable(file):
            return any(True for _ in _groups_with(file, wanted))

    def _reward_phases(self) -> list[str]:
        job = self.state.configs[-1]["job"] if self.state.configs else {}
        return phases(len((job.get("reward") or {}).get("models", ())))

    def _rewards(self, samples: pa.Table, files: Sequence[Path]) -> pa.Array:
        """What each reward model gives samples, a list a sample."""
        columns = []
        for file in files:
            table = self._columns(file, ("prompt_id", "sample_index", "reward"))
            if any(not table[key].equals(samples[key]) for key in ("prompt_id", "sample_index")):
                raise Damaged(f"{file}: its rewards are not in the order of the samples")
            columns.append(table["reward"].to_pylist())
        return pa.array(list(map(list, zip(*columns, strict=True))), pa.list_(pa.float64()))

    def num_graded(self, number: int) -> int:
        """How many samples of a round are graded whose files are there, by the ledger: none is read."""
        count = 0
        for wave in waves.folders(self.state, f"rounds/{number:02d}"):
            sampled = self._by_shard(f"{wave}/samples")
            names = {file.name for shard, file in self._by_shard(f"{wave}/verdicts").items() if shard in sampled}
            shards = self.state.shards.get(f"{wave}/verdicts", {}).values()
            counted = (shard.facts for shard in shards if Path(shard.artifact.path).name in names)
            count += sum(int(facts.get(verdict, 0)) for facts in counted for verdict in VERDICTS)
        return count

    def answers(self, number: int, split: str) -> pa.Table | None:
        """The answers to a held-out set by a round's candidate, or by the base model for round 0; None where there are
        none. Columns as `samples`, as far as an evaluation has them."""
        file = self._by_name(_evaluation(number)).get(f"{split}.parquet")
        if file is None:
            return None
        table = self._columns(file, (*_ANSWER, "token_ids"))
        return table.drop_columns("token_ids").append_column("tokens", pc.list_value_length(table["token_ids"]))

    def prompts(self, number: int, split: str, wanted: Collection[str]) -> dict[str, dict[str, Any]]:
        """Text and gold answer of some prompts of a round, by id. Answers to held-out problems have theirs beside them,
        but in runs of earlier versions."""
        if not wanted:
            return {}
        step, text = round_step(number, "prompts") if split == "train" else "baseline/prompts", "text"
        file = self._by_name(step).get(f"{split}.parquet")
        answered = self._by_name(_evaluation(number)).get(f"{split}.parquet") if split != "train" else None
        if answered and {"prompt", "gold"} <= self._names(answered):
            file, text = answered, "prompt"
        found: dict[str, dict[str, Any]] = {}
        for table in self._batches(file, ("prompt_id", text, "gold")) if file else ():
            rows = only(table, wanted).to_pylist()
            found |= {row["prompt_id"]: {"prompt": row[text] or "", "gold": shown(row["gold"] or "")} for row in rows}
            if len(found) == len(wanted):  # which are likely to stand together
                break
        return found

    def pairs(self, number: int, wanted: Collection[str], most: int | None = None) -> list[dict[str, Any]]:
        """The pairs of some prompts in a round, at most so many: `pair_id`, `prompt_id`, `chosen_sample`,
        `rejected_sample`; of one with a hint also `hinted`, and the text that is `chosen`."""
        found: list[dict[str, Any]] = []
        hinted = self.hinted(number, wanted)
        names = (*_PAIR, "chosen") if hinted else _PAIR
        for file in self.files(round_step(number, "pairs")) if wanted else ():
            with _readable(file), pq.ParquetFile(file) as parquet:
                for group in _groups_with(file, wanted):
                    left = None if most is None else most - len(found)
                    found += only(_of_group(parquet, group, names), wanted).slice(0, left).to_pylist()
        for row in found if hinted else ():
            if row["prompt_id"] in hinted:
                row["hinted"] = True
            else:
                del row["chosen"]
        return found

    def rows(self, step: str, names: Sequence[str]) -> Iterator[pa.Table]:
        """Some columns of a committed step's rows, some rows at a time."""
        for file in self._there(step):
            yield from self._batches(file, names)

    def files(self, step: str) -> list[Path]:
        """The Parquet files of a committed step that are there, each looked at."""
        for file in (found := self._there(step)):
            require_columns(file, self.root)
        return found

    def _there(self, step: str) -> list[Path]:
        """The same, not looked at yet; looked for once, since one may be waited for."""
        if step not in self._files:
            found = those_there(committed_files(self.root, self.state, step))
            self._files[step] = [file for file in found if file.suffix == ".parquet"]
        return self._files[step]

    def _by_name(self, step: str) -> dict[str, Path]:
        return {file.name: file for file in self._there(step)}

    def _by_shard(self, step: str) -> dict[str, Path]:
        """The files of a step by their shard's number: of verdicts, `00003.1.parquet` was graded again."""
        return {file.name.partition(".")[0]: file for file in self._there(step)}

    def _columns(self, file: Path, names: Sequence[str]) -> pa.Table:
        """These columns; one that the file of an earlier version lacks is null."""
        there = self._names(file)
        return _with_nulls(table_of(file, [name for name in names if name in there]), names)

    def _names(self, file: Path) -> set[str]:
        require_columns(file, self.root)
        with _readable(file):
            return set(pq.read_schema(file).names)

    def _batches(self, file: Path, names: Sequence[str]) -> Iterator[pa.Table]:
        """The same, some rows at a time."""
        require_columns(file, self.root)
        with _readable(file), streamed(file) as parquet:
            there = set(parquet.schema_arrow.names)
            for batch in parquet.iter_batches(ROWS_A_GROUP, columns=[name for name in names if name in there]):
                yield _with_nulls(pa.Table.from_batches([batch]), names)


def _evaluation(number: int) -> str:
    return round_step(number, "evaluation") if number else "baseline/evaluation"


def table_of(file: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """A committed file, or these of its columns.

    Raises:
        Damaged: it cannot be read.
        OSError: it is not there, or may not be read.
    """
    with _readable(file):
        return read_table(file, columns)


@contextlib.contextmanager
def _readable(file: Path) -> Iterator[None]:
    """Around the reading of a committed file; raises as `table_of`."""
    try:
        yield
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


def rows_with(file: Path, wanted: Collection[str], column: str) -> list[dict[str, Any]]:
    """The rows of a committed file that have one of these texts in a column; raises as `table_of`."""
    found: list[dict[str, Any]] = []
    with _readable(file), pq.ParquetFile(file) as parquet:
        for group in _groups_with(file, wanted, column):
            found += only(parquet.read_row_group(group), wanted, column).to_pylist()
    return found


def _groups_with(file: Path, wanted: Collection[str], column: str = "prompt_id") -> Iterator[int]:
    """The groups of rows that have an id of these. Of many, their least and their greatest id tell that they have
    none; of others the different ids are looked at."""
    names = sorted(name.encode() for name in wanted)
    known = pa.array([name.decode() for name in names], pa.string())
    with pq.ParquetFile(file, read_dictionary=[column]) as parquet:
        metadata = parquet.metadata
        place = [metadata.schema.column(at).path for at in range(metadata.num_columns)].index(column)
        for number in range(metadata.num_row_groups):
            said = metadata.row_group(number).column(place).statistics
            if said is not None and said.has_min_max:
                at = bisect_left(names, said.min_raw)  # bytes, which is how they are ordered
                if at == len(names) or names[at] > said.max_raw:
                    continue
            ids = parquet.read_row_group(number, [column], use_threads=False)[column]
            if any(pc.any(pc.is_in(chunk.dictionary, known)).as_py() for chunk in ids.chunks):
                yield number


def _of_group(parquet: pq.ParquetFile, number: int, names: Sequence[str]) -> pa.Table:
    there = set(parquet.schema_arrow.names)
    return _with_nulls(parquet.read_row_group(number, [name for name in names if name in there]), names)


def _with_nulls(table: pa.Table, names: Sequence[str]) -> pa.Table:
    """The table with these columns; one that the file of an earlier version lacks is null."""
    for name in names:
        if name not in table.column_names:
            table = table.append_column(name, pa.nulls(table.num_rows))
    return table.select(list(names))


def _named(table: pa.Table, **names: str) -> pa.Table:
    return table.rename_columns([names.get(name, name) for name in table.column_names])
