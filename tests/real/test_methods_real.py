"""The baselines' job files on the real stack, cut down: each runs to its end, and its lineage is sound."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.commands.verify.command import verify
from tests.support.real import all_gone, finish, log_of, start

pytestmark = [pytest.mark.real, pytest.mark.full]

SMALL = (
    "data.prompts_per_round=48",
    "data.gate.limit=48",
    "data.test.limit=48",
    "generate.shard_prompts=16",
    "tracking.enabled=false",
)


@pytest.fixture(scope="module", autouse=True)
def nothing_left() -> Iterator[None]:
    yield
    all_gone()


def run(folder: Path, job: str, *overrides: str) -> None:
    assert finish(start(folder, *SMALL, *overrides, job=f"jobs/{job}.yaml"), folder) == 0, log_of(folder)
    report = verify(folder)
    assert report.findings == []
    assert report.followed


@pytest.mark.parametrize("method", ["sft", "star", "dpo", "rft", "rest_em"])
def test_a_baseline_runs(tmp_path: Path, method: str) -> None:
    run(tmp_path / method, method)


def test_iterative_dpo_runs_with_all_rounds_pairs(tmp_path: Path) -> None:
    run(tmp_path / "iterative", "iterative_dpo", "rounds=2")
    assert (tmp_path / "iterative/rounds/02/replay/00000.parquet").exists()


def test_a_model_is_taught_to_judge_and_rewards_itself(tmp_path: Path) -> None:
    teacher = tmp_path / "teacher"
    run(teacher, "self_rewarding-seed", "data.prompts_per_round=null")
    run(tmp_path / "self", "self_rewarding", f"model=run:{teacher}@round1", "rounds=1")
