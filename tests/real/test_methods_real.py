"""The baselines' job files on the real stack, cut down: each runs to its end, and its lineage is sound."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from orchestrator.commands.verify.command import verify
from orchestrator.ledger.ledger import Ledger
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


def test_a_reward_model_decides_where_most_problems_have_no_gold_answer(tmp_path: Path) -> None:
    folder = tmp_path / "reward"
    run(folder, "reward", "rounds=2", "reward.workers=2")
    facts = {step: commit.facts for step, commit in Ledger(folder / "ledger").state.commits.items()}
    for number in (1, 2):
        told = facts[f"rounds/{number:02d}/scores"]
        assert told["scored"] and told["rewards"][0]["agreement"] > 0.5, "it knows right from wrong"
        assert facts[f"rounds/{number:02d}/verdicts"]["gold"] > 0.6 * facts[f"rounds/{number:02d}/samples"]["samples"]


def test_a_process_reward_model_finds_wrong_steps(tmp_path: Path) -> None:
    process = ("steps.localiser=process", "steps.process={model: demo/process}", "rounds=1")
    run(tmp_path / "steps", "step_dpo", *process)
    facts = Ledger(tmp_path / "steps/ledger").state.commits["rounds/01/located"].facts
    assert facts["located"] > 0, "it is tiny, and sees some slips"


def test_samples_come_in_waves_and_the_temperature_follows_them(tmp_path: Path) -> None:
    waves, whole = tmp_path / "waves", tmp_path / "whole"
    adapted = ("generate.adapt_temperature={mixed: 1.0, step: 0.2}", "rounds=2")
    run(waves, "irpo", "pairs.per_prompt=1", "generate.wave_samples=2", *adapted)
    run(whole, "irpo", "pairs.per_prompt=1", "rounds=1")
    facts = {step: commit.facts for step, commit in Ledger(waves / "ledger").state.commits.items()}
    assert facts["rounds/02/temperature"]["temperature"] in (0.8, 1.2)
    saved = sum(said.get("saved", 0) for step, said in facts.items() if step.startswith("rounds/01/wave"))
    every = samples(whole / "rounds/01/samples")
    drawn = samples(waves / "rounds/01/samples")
    for wave in (waves / "rounds/01/wave").glob("*/samples"):
        drawn |= samples(wave)
    assert saved > 0 and len(drawn) == len(every) - saved
    # Other samples beside them are another rounding, by which one in many may go another way.
    same = sum(every[key] == ids for key, ids in drawn.items())
    assert same >= 0.95 * len(drawn)


def samples(folder: Path) -> dict[tuple[str, int], list[int]]:
    """Token ids by prompt and index."""
    rows = (row for file in folder.glob("*.parquet") for row in pq.read_table(file).to_pylist())
    return {(row["prompt_id"], row["sample_index"]): row["token_ids"] for row in rows}
