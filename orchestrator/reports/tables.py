"""Reading back a run's committed Parquet files, for reports and tracking: a shard at a time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from orchestrator.ledger import waves
from orchestrator.ledger.columns import require_columns
from orchestrator.ledger.ledger import Artifact, State
from orchestrator.records.golds import shown
from orchestrator.records.parquet import read_table, streamed

_LOOKS, _PAUSE = 20, 0.05  # seconds


def round_step(number: int, phase: str) -> str:
    """The name of a round's step: rounds/02/pairs."""
    return f"rounds/{number:02d}/{phase}"


def parquet_files(run_dir: Path, state: State, step: str) -> list[Path]:
    """The Parquet files that were committed for a step, in order; empty when there are none (yet).

    Raises:
        Damaged: one is no such file, or has other columns than a file of its kind.
    """
    return list(each_parquet_file(run_dir, state, step))


def each_parquet_file(run_dir: Path, state: State, step: str) -> Iterator[Path]:
    """The same, each looked at only when it is asked for: whoever needs a few of thousands of shards takes these."""
    files = committed_files(run_dir, state, step)
    there = {*those_there(files)}
    for file in files:
        if file in there and file.name.endswith(".parquet"):
            require_columns(file, run_dir)
        yield file


def committed_files(run_dir: Path, state: State, step: str) -> list[Path]:
    """The files that were committed for a step, Parquet files and shards, in order; none of them is looked at."""
    if shards := state.shards.get(step):
        artifacts: list[Artifact] = [shards[index].artifact for index in sorted(shards)]
    else:
        commit = state.commits.get(step)
        artifacts = [a for a in commit.artifacts if a.path not in state.discarded] if commit else []
    names = ((a, name) for a in artifacts for name in sorted(a.files) if not name or name.endswith(".parquet"))
    return [run_dir / artifact.path / name for artifact, name in names]


def those_there(files: Sequence[Path], wait: Callable[[float], None] = time.sleep) -> Iterator[Path]:
    """Those of committed files that are there, or will be in a moment: a file gets its final name just after the
    commit. That is waited for once, for a stranger's run may lack any number of them."""
    looks = _LOOKS
    for file in files:
        while not (is_there := file.exists()) and looks:
            looks -= 1
            wait(_PAUSE)
        if is_there:
            yield file


def training_metrics(run_dir: Path, state: State, number: int) -> dict[str, list[Any]] | None:
    """The metrics table of a round's training as columns; None when it is not committed or holds no update.

    Raises:
        OSError, pyarrow.ArrowInvalid: the file is gone or damaged.
    """
    for file in parquet_files(run_dir, state, round_step(number, "train")):
        if file.name == "metrics.parquet":
            table = read_table(file)
            numbers = [field.name for field in table.schema if _is_number(field.type)]
            columns: dict[str, list[Any]] = table.select(numbers).to_pydict()
            return columns if columns.get("step") else None
    return None


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind))


def sample_rows(
    run_dir: Path, state: State, number: int, num_prompts: int = 20, per_prompt: int = 4
) -> list[dict[str, Any]]:
    """The first prompts of a round with some of their samples and verdicts, one row a sample."""
    prompts: dict[str, dict[str, Any]] = {}
    for row in step_rows(run_dir, state, round_step(number, "prompts"), ["prompt_id", "text", "gold"]):
        if len(prompts) == num_prompts:
            break
        prompts[row["prompt_id"]] = row
    verdicts = {
        (row["prompt_id"], row["sample_index"]): row
        for row in _rows_of(run_dir, state, number, "verdicts", prompts, ["verdict", "extracted", "reason"])
        if row["sample_index"] < per_prompt
    }
    rows = []
    for row in _rows_of(run_dir, state, number, "samples", prompts, ["text", "num_tokens", "finish_reason"]):
        prompt, verdict = prompts[row["prompt_id"]], verdicts.get((row["prompt_id"], row["sample_index"]), {})
        if row["sample_index"] < per_prompt:
            rows.append(
                {
                    "prompt_id": row["prompt_id"],
                    "prompt": prompt["text"],
                    "gold": shown(prompt["gold"]),
                    "sample": row["sample_index"],
                    "text": row["text"],
                    "verdict": verdict.get("verdict"),
                    "extracted": verdict.get("extracted"),
                    "reason": verdict.get("reason"),
                    "tokens": row["num_tokens"],
                    "finish_reason": row["finish_reason"],
                }
            )
    return rows


def _rows_of(
    run_dir: Path, state: State, number: int, phase: str, prompts: dict[str, Any], columns: list[str]
) -> Iterator[dict[str, Any]]:
    """The samples or verdicts of some prompts. Shards hold whole prompts: reading ends with theirs."""
    missing = set(prompts)
    for file in each_parquet_file(run_dir, state, round_step(number, phase)) if missing else ():
        table = read_table(file, columns=["prompt_id", "sample_index", *columns])
        kept = table.filter(pc.is_in(table["prompt_id"], pa.array(sorted(prompts), pa.string())))
        for row in kept.to_pylist():
            missing.discard(row["prompt_id"])
            yield row
        if not missing:
            return


def step_rows(run_dir: Path, state: State, step: str, columns: list[str]) -> Iterator[dict[str, Any]]:
    """Some columns of a committed step's rows, of which few are in memory at a time; what a file lacks, its
    rows lack."""
    for file in each_parquet_file(run_dir, state, step):
        with streamed(file) as parquet:
            for batch in parquet.iter_batches(batch_size=64, columns=columns):
                yield from batch.to_pylist()


def diversity(run_dir: Path, state: State, number: int) -> tuple[float, float] | None:
    """Share of prompts with a correct sample (pass@N), and the mean number of distinct answers a prompt.

    None without verdicts. A sample without an extractable answer counts for no answer.
    """
    num_prompts = solved = distinct = 0
    of_later: dict[str, list[Path]] = {}
    first, *later = waves.folders(state, f"rounds/{number:02d}")
    for file in (file for wave in later for file in parquet_files(run_dir, state, f"{wave}/verdicts")):
        of_later.setdefault(file.name.partition(".")[0], []).append(file)
    for file in parquet_files(run_dir, state, f"{first}/verdicts"):
        files = [file, *of_later.get(file.name.partition(".")[0], [])]
        table = pa.concat_tables(read_table(f, columns=["prompt_id", "verdict", "extracted"]) for f in files)
        table = table.append_column("correct", pc.equal(table["verdict"], "correct"))
        grouped = table.group_by("prompt_id").aggregate([("correct", "any"), ("extracted", "count_distinct")])
        num_prompts += grouped.num_rows
        solved += pc.sum(grouped["correct_any"]).as_py() or 0
        distinct += pc.sum(grouped["extracted_count_distinct"]).as_py() or 0
    return (solved / num_prompts, distinct / num_prompts) if num_prompts else None
