"""Reward workers as a run hires them: under the run's own Ray, and beside the rest of its workers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from orchestrator.config.load import load_job
from orchestrator.driver.wiring import RealWorkers
from orchestrator.records.progress import UNWATCHED
from orchestrator.records.rewards import RewardPlan, RewardWorkers
from orchestrator.reports.meters import Meters
from tests.support.real import in_own_process
from tests.support.reward_models import make_reward_model, reward_task
from tests.support.stand_ins import make_project
from workers.reward.worker import Rewarder

pytestmark = pytest.mark.real

ANSWERS = {"2 + 3?": ["5", "6"]}


def test_a_run_hires_reward_workers_for_one_model_and_then_another(tmp_path: Path) -> None:
    assert in_own_process(hired, tmp_path) == "all as expected"


def hired(folder: str) -> None:
    place, how = Path(folder), RewardWorkers(device="cpu", cpus=1)
    plans = [
        RewardPlan(str(make_reward_model(place / "outcome")), "outcome"),
        RewardPlan(str(make_reward_model(place / "process", "qwen2", "process")), "process"),
    ]
    tasks = [
        reward_task(place / "1", ANSWERS),
        reward_task(place / "2", {n: [[a] for a in ANSWERS[n]] for n in ANSWERS}),
    ]
    logs = place / "run/logs/e1"
    (place / "run").mkdir()
    with RealWorkers(load_job(make_project(place)).job, logs) as workers:
        workers.report_to(lambda line: None, Meters("tiny"), logs, UNWATCHED)
        pools = []
        for plan, task in zip(plans, tasks, strict=True):
            pools.append(workers.rewarders(plan, how))
            [(done, facts)] = pools[-1].score([task])
            assert done == task and facts["rewarded"] == 2
        assert pools[0] is pools[1], "the processes stay"
    torch.set_num_threads(1)  # as the workers have
    for plan, task in zip(plans, tasks, strict=True):
        again = replace(task, output=f"{task.output}.again")
        Rewarder("cpu").score(plan, again)
        assert pq.read_table(task.output).equals(pq.read_table(again.output))
    said = (logs / "rewarder-0.log").read_text()
    assert '"ratchet": "begins"' in said and said.count('"ratchet": "ends"') == 2
    print("all as expected")
