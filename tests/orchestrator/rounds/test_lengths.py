"""What an earlier round tells of how long samples will be: it reaches the engines, and no result."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from orchestrator.ledger.ledger import Ledger
from orchestrator.records.parquet import read_table
from orchestrator.records.rows import SamplingPlan, Shard
from tests.support.stand_ins import StandInEngines, StandIns, make_project, run_job


class Told(StandIns):
    """Notes what engines are told, by the folder of a shard; samples of some prompts are long."""

    def __init__(self) -> None:
        super().__init__()
        self.told: dict[str, dict[int, tuple[float, ...]]] = {}

    def engines(self, model: str, probe: Path | None = None) -> StandInEngines:
        return Noting(self, super().engines(model, probe).skill)


class Noting(StandInEngines):
    def generate(self, shards: list[Shard], plan: SamplingPlan) -> Iterator[tuple[Shard, dict[str, Any]]]:
        assert isinstance(self.workers, Told)
        for shard in shards:
            folder = str(Path(shard.output).parent).partition("/run/")[2]
            self.workers.told.setdefault(folder, {})[shard.index] = shard.expected
        yield from super().generate(shards, plan)

    def _sample(self, prompt: dict[str, Any], index: int, plan: SamplingPlan) -> dict[str, Any]:
        row = super()._sample(prompt, index, plan)
        longer = int(prompt["prompt_id"].rpartition("-")[2]) % 5
        return row | {"token_ids": [*([9] * longer), *row["token_ids"]], "num_tokens": row["num_tokens"] + longer}


def run(folder: Path, prompts: str = "same", *overrides: str) -> Told:
    workers = Told()
    run_job(make_project(folder), workers, f"data.prompts={prompts}", *overrides)
    return workers


def lengths(folder: Path, step: str) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for file in sorted((folder / "run" / step).glob("*.parquet")):
        for row in read_table(file, columns=["prompt_id", "num_tokens"]).to_pylist():
            found.setdefault(row["prompt_id"], []).append(row["num_tokens"])
    return found


def test_prompts_that_come_again_are_as_long_as_before(tmp_path: Path) -> None:
    told = run(tmp_path).told
    before = {name: fmean(each) for name, each in lengths(tmp_path, "rounds/01/samples").items()}
    assert len(set(before.values())) > 3
    source = read_table(tmp_path / "run/rounds/02/prompts/train.parquet", columns=["prompt_id"])[
        "prompt_id"
    ].to_pylist()
    now = [value for _, each in sorted(told["rounds/02/samples"].items()) for value in each]
    assert now == pytest.approx([before[name] for name in source])
    assert not any(told["rounds/01/samples"].values()), "nobody knows yet"
    assert not any(each for folder, shards in told.items() if folder != "rounds/02/samples" for each in shards.values())


def test_of_fresh_prompts_nothing_is_known(tmp_path: Path) -> None:
    assert not any(each for shards in run(tmp_path, "split").told.values() for each in shards.values())


def test_a_round_whose_files_are_gone_tells_nothing_and_changes_nothing(tmp_path: Path) -> None:
    """The results are those of a run that knew."""
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    for folder in (whole, cut):
        folder.mkdir()
    run(whole)

    class Losing(Told):
        def call(self, what: str) -> None:
            super().call(what)
            if what == "train":
                for file in (cut / "run/rounds/01/samples").glob("*.parquet"):
                    file.rename(file.with_suffix(".away"))

    workers = Losing()
    run_job(make_project(cut), workers, "data.prompts=same")
    assert not any(workers.told["rounds/02/samples"].values())
    sums = [
        {
            index: shard.artifact.files
            for index, shard in Ledger(folder / "run/ledger").state.shards["rounds/02/samples"].items()
        }
        for folder in (whole, cut)
    ]
    assert sums[0] == sums[1]
