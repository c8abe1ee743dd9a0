"""A process reward model as the one who finds the first wrong reasoning step, with stand-in workers."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pydantic import ValidationError

from orchestrator.commands.verify.command import verify
from orchestrator.config import Job
from orchestrator.errors import BadInput, Damaged
from orchestrator.records.rewards import REWARDS, RewardPlan
from orchestrator.sources.steps.answers import Answer
from orchestrator.sources.steps.pairing import Error
from orchestrator.sources.steps.process import first_wrong
from tests.orchestrator.commands.test_verify import cut_behind, forge
from tests.orchestrator.sources.test_sources import facts, rows
from tests.orchestrator.test_loop import StopAt, history
from tests.support.stand_ins import StandInRewarders, make_project, make_reward_model, run_job
from tests.support.step_stand_ins import STEPS, StepStandIns
from workers.files import write_table


def project(folder: Path, **process: Any) -> Path:
    make_reward_model(folder / "process")
    steps = STEPS | {"localiser": "process", "process": {"model": "process", "threshold": 0.3} | process}
    generate = {"samples": 3, "max_tokens": 400, "shard_prompts": 4}
    return make_project(folder, skill=0.5, method="step_dpo", steps=steps, rounds=1, generate=generate)


class Asked(StepStandIns):
    plans: list[RewardPlan]

    def rewarders(self, plan: RewardPlan, how: Any) -> StandInRewarders:
        self.plans = [*getattr(self, "plans", []), plan]
        return super().rewarders(plan, how)


def error(prompt: str, index: int, steps: int) -> Error:
    text = "".join(f"\nStep {number}: {number}" for number in range(1, steps + 1))
    return Error(prompt, index, [1], [2], Answer("", text, [len(text)]))


def test_the_first_step_below_the_threshold_is_the_wrong_one(tmp_path: Path) -> None:
    given = {("a", 0): [0.9, 0.2, 0.8], ("a", 1): [0.3, 0.1], ("b", 0): [0.9, 0.5], ("b", 1): None}
    table = [
        {"prompt_id": prompt, "sample_index": index, "reward": likely and min(likely), "step_rewards": likely}
        | {"num_tokens": 3, "cause": None if likely else "too_long"}
        for (prompt, index), likely in given.items()
    ]
    write_table(pa.Table.from_pylist(table, REWARDS), tmp_path / "rewards.parquet")
    errors = [error(prompt, index, len(likely or (1, 2))) for (prompt, index), likely in given.items()]
    found = first_wrong([tmp_path / "rewards.parquet"], errors, 0.3)
    assert found == {"a/0": 2, "a/1": 2, "b/0": None}, "at the threshold a step is right; nothing is known of b/1"


def test_a_round_goes_by_it(tmp_path: Path) -> None:
    job, workers = project(tmp_path, max_tokens=60), Asked()
    run_job(job, workers)
    [plan] = workers.plans
    assert plan == RewardPlan(str(tmp_path / "run/baseline/process"), "process", 60, separator="\n")
    told = {
        (row["prompt_id"], row["sample_index"]): row["step_rewards"] for row in rows(tmp_path, "rounds/01/step_rewards")
    }
    errors = rows(tmp_path, "rounds/01/errors")
    assert [*told] == [(row["prompt_id"], row["sample_index"]) for row in errors]
    located = {row["error_id"]: row["first_wrong"] for row in rows(tmp_path, "rounds/01/located")}
    for (prompt, index), likely in told.items():
        name = f"{prompt}/{index}"
        assert (name in located) == (likely is not None)
        if likely is not None:
            assert located[name] == likely.index(0.1) + 1
    assert (
        facts(tmp_path, "rounds/01/located")["undecided"] == facts(tmp_path, "rounds/01/step_rewards")["too_long"] > 0
    )
    report = verify(tmp_path / "run")
    assert report.findings == [] and report.followed == [1]
    done = workers.calls.copy()
    run_job(job, workers)
    assert workers.calls == done


def test_cut_off_before_and_after_its_word_a_run_comes_to_the_same(tmp_path: Path) -> None:
    whole = StepStandIns()
    run_job(project(tmp_path / "whole"), whole)
    order: list[str] = []
    run_job(project(tmp_path / "order"), StepStandIns(on_call=order.append))
    for number in (order.index("reward") + 1, order.index("reward") + 2):
        job = project(tmp_path / str(number))
        with pytest.raises(RuntimeError):
            run_job(job, StepStandIns(on_call=StopAt(number, RuntimeError("a bug"))))
        again = StepStandIns()
        run_job(job, again)
        assert again.calls["reward"] == (1 if order[number - 1] == "reward" else 0)
        assert history(tmp_path / str(number) / "run") == history(tmp_path / "whole/run")


def test_verify_finds_an_edited_step_reward(tmp_path: Path) -> None:
    run_job(project(tmp_path), StepStandIns())

    def edit(table: list[dict[str, Any]]) -> None:
        table[0]["step_rewards"] = [0.0, *table[0]["step_rewards"][1:]]
        table[1]["step_rewards"] = [1.0] * len(table[1]["step_rewards"])

    forge(tmp_path / "run", "rounds/01/step_rewards/00000.parquet", edit)
    found = verify(tmp_path / "run").findings
    assert any("the first wrong steps are not those that the step rewards tell" in line for line in found), found


def fewer(table: list[dict[str, Any]]) -> None:
    table.pop()


def others(table: list[dict[str, Any]]) -> None:
    table[0]["sample_index"] = 99


def more_steps(table: list[dict[str, Any]]) -> None:
    table[0]["step_rewards"] = [*table[0]["step_rewards"], 0.0]


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (fewer, "its rows are not the errors, in their order"),
        (others, "its rows are not the errors, in their order"),
        (more_steps, r"has \d+ steps, and rewards of"),
    ],
)
def test_step_rewards_that_are_not_those_of_the_errors_are_not_used(tmp_path: Path, edit: Any, said: str) -> None:
    """A stranger's file, whose hash is as committed, when the next step is made of it."""
    job = project(tmp_path)
    run_job(job, StepStandIns())
    step = cut_behind(tmp_path / "run", "rounds/01/step_rewards")
    forge(tmp_path / "run", f"{step}/00000.parquet", edit)
    assert any(re.search(said, line) for line in verify(tmp_path / "run").findings)
    with pytest.raises(Damaged, match=rf"step_rewards: .*{said}"):
        run_job(job, StepStandIns())


def test_it_needs_a_model_of_its_kind(tmp_path: Path) -> None:
    data = {"train": "t.jsonl", "gate": "g.jsonl", "test": "e.jsonl"}
    job = {"name": "r", "model": "m", "data": data, "source": "steps", "loss": {"nll": 0}}
    with pytest.raises(ValidationError, match=r"needs `steps\.process\.model`"):
        Job.model_validate(job | {"steps": {"localiser": "process"}})
    with pytest.raises(ValidationError, match="a run's checkpoint writes text"):
        Job.model_validate(job | {"steps": {"localiser": "process", "process": {"model": "run:sft"}}})
    file = project(tmp_path)
    classifier = '{"model_type": "llama", "architectures": ["LlamaForSequenceClassification"], "num_labels": 1}'
    (tmp_path / "process/config.json").write_text(classifier)
    with pytest.raises(BadInput, match=r"steps\.process\.model: .* give a token classifier with two labels"):
        run_job(file, StepStandIns())
