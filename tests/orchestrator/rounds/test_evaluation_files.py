"""Files of answers to held-out problems can be read by themselves: they say what was asked, and what is right."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from orchestrator.commands.verify.command import verify
from orchestrator.files.durable import sha256
from orchestrator.records.rows import EVALUATION
from orchestrator.reports.inspection.reading import RunReader
from orchestrator.tracking.answers import flip_rows, gate_rows
from tests.orchestrator.commands.test_verify_facts import records, seal
from tests.support.stand_ins import StandIns, make_project, run_job

FILES = [f"{folder}/evaluation/{split}.parquet" for folder in ("baseline", "rounds/01") for split in ("gate", "test")]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("evaluated")
    run_job(make_project(folder, rounds=1), StandIns())
    return folder / "run"


def rewritten(run: Path, copy: Path, change: Callable[[pa.Table], pa.Table]) -> Path:
    """A copy of a run whose evaluations somebody has written otherwise, with records that fit."""
    shutil.copytree(run, copy)
    for name in FILES:
        pq.write_table(change(pq.read_table(copy / name)), copy / name)
    for path, document in records(copy).items():
        for artifact in document["data"].get("artifacts", ()):
            for name in artifact["files"] if artifact["path"].endswith("/evaluation") else ():
                file = copy / artifact["path"] / name
                artifact["files"][name] = {"size": file.stat().st_size, "sha256": sha256(file)}
        seal(path, document)
    return copy


def test_each_row_has_its_prompt_and_gold_answer(finished: Path) -> None:
    for name in FILES:
        file = finished / name
        asked = pq.read_table(finished / f"baseline/prompts/{file.name}").to_pylist()
        known = {row["prompt_id"]: (row["text"], row["gold"]) for row in asked}
        rows = pq.read_table(file).to_pylist()
        assert {row["prompt_id"]: (row["prompt"], row["gold"]) for row in rows} == known
        assert pq.read_schema(file).equals(EVALUATION)


def test_files_of_earlier_versions_are_read_as_well(finished: Path, tmp_path: Path) -> None:
    """Those had no such columns: what was asked is looked up."""
    earlier = rewritten(finished, tmp_path / "earlier", lambda table: table.drop_columns(["prompt", "gold"]))
    assert verify(earlier).findings == [] and verify(finished).findings == []
    now, then = RunReader(finished), RunReader(earlier)
    for split in ("gate", "test"):
        table = now.answers(1, split)
        assert table is not None
        names = table["prompt_id"].to_pylist()
        assert now.prompts(1, split, names) == then.prompts(1, split, names) and len(now.prompts(1, split, names))
    assert gate_rows(finished, now.state, 1) == gate_rows(earlier, then.state, 1)
    assert flip_rows(finished, now.state, 1) == flip_rows(earlier, then.state, 1)
    assert all(row["prompt"] and row["gold"] for row in gate_rows(finished, now.state, 1))


def test_what_a_file_says_by_itself_is_what_is_shown(finished: Path, tmp_path: Path) -> None:
    """Without the files of prompts, which somebody may have left at home."""
    shutil.copytree(finished, tmp_path / "run")
    shutil.rmtree(tmp_path / "run/baseline/prompts")
    here, there = RunReader(tmp_path / "run"), RunReader(finished)
    assert gate_rows(here.root, here.state, 1) == gate_rows(finished, there.state, 1)
    assert here.prompts(0, "test", ["test-0"]) == there.prompts(0, "test", ["test-0"]) != {}


@pytest.mark.parametrize("column", ["prompt", "gold"])
def test_another_prompt_or_gold_answer_than_was_asked_is_found(finished: Path, tmp_path: Path, column: str) -> None:
    def change(table: pa.Table) -> pa.Table:
        values: list[Any] = table[column].to_pylist()
        values[0] = f"{values[0]}?"
        return table.set_column(table.column_names.index(column), EVALUATION.field(column), pa.array(values))

    found = verify(rewritten(finished, tmp_path / "run", change)).findings
    assert any("prompt or gold answer of 'gate-0' is not that of baseline/prompts" in line for line in found), found
