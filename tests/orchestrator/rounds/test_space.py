"""How much disk a job needs, and a run that pauses where there is not so much."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from orchestrator.config import Job
from orchestrator.config.load import load_job
from orchestrator.reports.status import status
from orchestrator.rounds import space
from orchestrator.rounds.space import DiskFull, Need, require_space
from orchestrator.sources.registry import SOURCES
from tests.support.stand_ins import JOB, StandIns, make_project, run_job

PROBLEMS = {"train": (50, 20.0), "gate": (5, 20.0), "test": (5, 20.0)}


def job(tmp_path: Path, **changes: Any) -> Any:
    sections: dict[str, Any] = {
        "rounds": 2,
        "generate": {"samples": [4, 8], "max_tokens": 100},
        "pairs": {"per_prompt": 2},
    }
    return load_job(make_project(tmp_path, **(sections | changes)), ["data.prompts_per_round=10"]).job


def round_need(job: Job, number: int, model: Path, problems: space.Sizes) -> Need:
    return space.round_need(job, number, model, problems, SOURCES[job.source.type].disk)


def job_need(job: Job, model: Path, problems: space.Sizes) -> Need:
    return space.job_need(job, model, problems, SOURCES[job.source.type].disk)


def base_model(folder: Path, dtype: str | None = "bfloat16", size: int = 1000) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"dtype": dtype}))
    (folder / "model.safetensors").write_bytes(b"x" * size)
    return folder


def test_samples_pairs_and_answers_are_counted(tmp_path: Path) -> None:
    model = base_model(tmp_path / "m")
    first, second = (round_need(job(tmp_path), number, model, PROBLEMS) for number in (1, 2))
    prompts, pairs, answers = 10 * 60, 20 * (60 + 2000), 10 * 1000
    assert first.rows == prompts + 10 * 4 * 1200 + pairs + answers
    assert second.rows == prompts + 10 * 8 * 1200 + pairs + answers
    assert job_need(job(tmp_path), model, PROBLEMS) == Need(2000, first.states, first.rows + second.rows)
    endless = job_need(job(tmp_path, rounds=10**12), model, PROBLEMS)
    assert endless.rows == first.rows + (10**12 - 1) * second.rows, "known at once"
    few = load_job(tmp_path / "tiny.yaml", ["data.prompts_per_round=10000000000"]).job
    assert round_need(few, 1, model, PROBLEMS).rows < 1000 * first.rows, "there are no more than the data has"


@pytest.mark.parametrize(
    ("stored", "exported", "size"),
    [("bfloat16", "float32", 2000), ("float32", "bfloat16", 500), (None, "float32", 1000), ("float32", None, 1000)],
)
def test_a_checkpoint_in_another_number_format(
    tmp_path: Path, stored: str | None, exported: str | None, size: int
) -> None:
    model = base_model(tmp_path / "m", stored)
    assert round_need(job(tmp_path, train={"export_dtype": exported}), 1, model, PROBLEMS).checkpoints == size


def test_saved_states_and_checkpoints_on_the_way_are_counted(tmp_path: Path) -> None:
    model = base_model(tmp_path / "m")  # 500 parameters
    keep = round_need(job(tmp_path, keep={"training_states": 2}), 1, model, PROBLEMS)
    assert keep.states == 500 * 12 * 3
    # 20 pairs in batches of 4 are 5 steps: checkpoints after 2, 4 and 5, and the chosen one.
    train = {"batch_pairs": 4, "eval_every": 2}
    assert round_need(job(tmp_path, train=train), 1, model, PROBLEMS).checkpoints == 4 * 1000
    assert job_need(job(tmp_path, train=train), model, PROBLEMS).checkpoints == 5 * 1000


def test_groups_are_counted_by_the_batch_and_by_a_cap(tmp_path: Path) -> None:
    model, train = base_model(tmp_path / "m"), {"batch_pairs": 4, "eval_every": 1}
    groups = {"pairs": {"rule": "best_rest", "per_prompt": 2}, "loss": {"form": "softmax"}}
    # 10 groups of 2 in batches of 4: checkpoints after 1, 2 and 3, and the chosen one; as pairs it were 5 of them.
    assert round_need(job(tmp_path, train=train, **groups), 1, model, PROBLEMS).checkpoints == 4 * 1000
    groups["loss"]["form"] = "sigmoid"
    assert round_need(job(tmp_path, train=train, **groups), 1, model, PROBLEMS).checkpoints == 6 * 1000
    whole, capped = (job(tmp_path, pairs=groups["pairs"] | cap) for cap in ({}, {"max_pairs": 4}))
    rows = [round_need(each, 1, model, PROBLEMS).rows for each in (whole, capped)]
    assert rows[0] - rows[1] == (20 - 8) * (60 + 2000)


def test_a_budget_of_tokens_decides_on_the_checkpoints_on_the_way(tmp_path: Path) -> None:
    # At least 4 tokens of completions and 2 prompts of 20 characters: at most 12 steps, and checkpoints after
    # every fifth and the last.
    train = {"batch_pairs": 4, "eval_every": 5, "token_budget": 100}
    assert round_need(job(tmp_path, train=train), 1, base_model(tmp_path / "m"), PROBLEMS).checkpoints == (3 + 1) * 1000


def test_hints_and_judgements_are_counted(tmp_path: Path) -> None:
    model = base_model(tmp_path / "m")
    plain = round_need(job(tmp_path), 1, model, PROBLEMS).rows
    hints = {"data": JOB["data"] | {"hint_template": "{answer}"}, "loss": {"dpo": 0}}
    hinted = job(tmp_path, **hints, generate={"samples": 4, "max_tokens": 100, "hint": True}, pairs={"rule": "correct"})
    # A further sample of each of the 10 prompts; and 4 rows a prompt, where the others have 2 pairs.
    assert round_need(hinted, 1, model, PROBLEMS).rows == plain + 10 * (60 + 1200) + 20 * (60 + 2000)
    judging = {"source": "judge", "pairs": {"rule": "best_worst", "per_prompt": 2}}
    judged = job(tmp_path, **judging, self_judge={"template": "{response}" * 200, "max_tokens": 10, "samples": 3})
    judged_rows = 40 * ((60 + 3 * 2000 + 1000) + 3 * (100 + 200))
    assert round_need(judged, 1, model, PROBLEMS).rows == plain + judged_rows


def test_gold_solutions_are_no_samples_and_replay_goes_back_so_far(tmp_path: Path) -> None:
    model, row, answers = base_model(tmp_path / "m"), 60 + 2000, 10 * 1000
    gold = job(tmp_path, source="gold", data=JOB["data"] | {"solution": "s"}, loss={"dpo": 0})
    assert round_need(gold, 1, model, PROBLEMS).rows == 10 * 60 + 10 * row + answers
    pairs = {"per_prompt": 2, "replay": 1.0, "replay_rounds": 1}
    second, third = (round_need(job(tmp_path, pairs=pairs), number, model, PROBLEMS).rows for number in (2, 3))
    assert second == third == 10 * 60 + 10 * 8 * 1200 + 40 * row + answers


def test_a_round_that_would_not_fit_pauses_the_run_before_it(tmp_path: Path) -> None:
    """More samples than any disk has room for: nothing of the round is begun, and the run can go on."""
    path = make_project(tmp_path, generate={"samples": 4, "max_tokens": 10**14, "shard_prompts": 4})
    with pytest.raises(DiskFull, match=r"round 1 needs up to [\d.]+ GiB .* are free. The run pauses here"):
        run_job(path, StandIns())
    assert not (tmp_path / "run/rounds/01").exists() and (tmp_path / "run/baseline/evaluation").is_dir()
    assert status(tmp_path / "run")["state"] == "failed"


def test_what_fits_is_let_through(tmp_path: Path) -> None:
    require_space(tmp_path, Need(1, 1, 1), "round 1")


def test_saved_states_of_an_adapter_are_its_own(tmp_path: Path) -> None:
    base = Path(__file__).parents[3] / "jobs/demo/base"
    whole, own = (round_need(job(tmp_path, **changes), 1, base, PROBLEMS) for changes in ({}, {"lora": {"rank": 2}}))
    assert own.states < whole.states / 10
    assert whole.checkpoints < own.checkpoints < 1.1 * whole.checkpoints, "the adapter lies beside merged weights"
