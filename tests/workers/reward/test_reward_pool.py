"""The pool of reward workers: killed, hung and dying, under a real Ray; and with a real model."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
import torch

from orchestrator.records.rewards import REWARDS, RewardPlan, RewardTask
from tests.support.local_ray import local_ray
from tests.support.placements import Anywhere
from tests.support.reward_models import make_reward_model, reward_task
from workers.files import write_table
from workers.reward.pool import RewardFailed, RewardPool, _RewarderActor
from workers.reward.worker import Rewarder
from workers.tokens.tokenizer import UnusableModel

pytestmark = pytest.mark.real  # its limits are seconds, which starting Ray's processes may take on a full machine

INTERVAL = 0.2  # seconds between two looks at the workers


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    with local_ray():
        yield


class Noting(_RewarderActor):
    """Without a model: writes who began with a shard beside it; takes its time, so that several have some."""

    seconds: ClassVar[float] = 0.3

    def score(self, plan: RewardPlan, task: RewardTask) -> dict[str, Any]:
        with open(Path(task.output).with_suffix(".begun"), "a") as file:
            file.write(f"{os.getpid()}\n")
        self.act(task)
        for _ in range(3):
            time.sleep(self.seconds / 3)
            self.rows += 1
        row = {"prompt_id": "p", "sample_index": 0, "reward": 1.0, "num_tokens": 1}
        return {"answers": 1, "file": write_table(pa.Table.from_pylist([row], REWARDS), task.written)}

    def act(self, task: RewardTask) -> None:
        """What goes wrong."""


class Hanging(Noting):
    """The first that has shard 1 never comes back."""

    def act(self, task: RewardTask) -> None:
        if task.index == 1 and len(begun(task)) == 1:
            time.sleep(600)


class Dying(Noting):
    def act(self, task: RewardTask) -> None:
        os._exit(1)


def begun(task: RewardTask) -> list[int]:
    file = Path(task.output).with_suffix(".begun")
    return [int(line) for line in file.read_text().split()] if file.exists() else []


def tasks_of(folder: Path, number: int) -> list[RewardTask]:
    return [RewardTask(i, "", 0, 1, "samples", str(folder / f"rewards-{i}.parquet")) for i in range(number)]


def pool_of(workers: int, actor: type[Rewarder] = _RewarderActor, **options: Any) -> RewardPool:
    place = Anywhere(workers, num_cpus=0, runtime_env={"env_vars": {"OMP_NUM_THREADS": "1"}})
    return RewardPool(place, interval=INTERVAL, actor=actor, **options)


def test_a_worker_that_is_killed_is_replaced_and_only_its_shard_is_done_again(tmp_path: Path) -> None:
    tasks, killed, done = tasks_of(tmp_path, 8), 0, []
    with pool_of(2, Noting) as pool:
        pool.serve(RewardPlan(str(tmp_path), "outcome"))
        for task, facts in pool.score(tasks):
            done.append((task, facts))
            over = [one.index for one, _ in done]
            under_way = [pid for other in tasks if other.index not in over for pid in begun(other)]
            if under_way and not killed:  # on a busy machine the others may not have begun yet
                killed = under_way[0]
                os.kill(killed, signal.SIGKILL)
    assert sorted(task.index for task, _ in done) == list(range(8))
    assert all(task in tasks for task, _ in done)
    again = {task.index: begun(task) for task in tasks if len(begun(task)) > 1}
    assert len(again) == 1 and all(killed == first for first, *_ in again.values())
    [lost] = [why for _, facts in done for why in facts.get("rewarders_lost", [])]
    assert "its process ended without a word" in lost
    assert all(pq.read_table(task.output).schema == REWARDS for task in tasks)
    assert not list(tmp_path.glob("*-e0")), "what was finished has its final name"


@pytest.mark.full
def test_a_worker_that_hangs_is_replaced(tmp_path: Path) -> None:
    tasks = tasks_of(tmp_path, 3)
    with pool_of(1, Hanging, limit=40.0) as pool:
        pool.serve(RewardPlan(str(tmp_path), "outcome"))
        done = list(pool.score(tasks))
    assert sorted(task.index for task, _ in done) == [0, 1, 2]
    [lost] = [why for _, facts in done for why in facts.get("rewarders_lost", [])]
    assert "no answer scored for 40 s" in lost
    first, second = begun(tasks[1])
    psutil.wait_procs([psutil.Process(first)] if psutil.pid_exists(first) else [], timeout=30)
    assert first != second and not psutil.pid_exists(first)


def test_workers_that_always_die_end_the_run(tmp_path: Path) -> None:
    with pool_of(1, Dying) as pool:
        pool.serve(RewardPlan(str(tmp_path), "outcome"))
        with pytest.raises(RewardFailed, match="lost 3 times in a row without scoring a shard"):
            list(pool.score(tasks_of(tmp_path, 2)))


@pytest.fixture
def one_thread() -> Iterator[None]:
    """As the workers have: several would round otherwise."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("one_thread")
def test_rewards_are_the_same_whoever_gives_them(tmp_path: Path) -> None:
    model = make_reward_model(tmp_path / "model")
    plan = RewardPlan(str(model), "outcome")
    answers = {f"question {i}?": [f"answer {j}" * (j + 1) for j in range(4)] for i in range(6)}
    one = reward_task(tmp_path / "one", answers)
    Rewarder("cpu").score(plan, one)
    parts = [reward_task(tmp_path / "parts", {name: said}, index=i) for i, (name, said) in enumerate(answers.items())]
    with pool_of(2) as pool:
        pool.serve(plan)
        facts = {task.index: facts for task, facts in pool.score(parts)}
        pids = [ray.get(slot.actor.__ray_call__.remote(lambda _: os.getpid())) for slot in pool._slots]
        held = [ray.get(slot.actor.__ray_call__.remote(lambda self: self._held)) for slot in pool._slots]
    assert held == [None, None], "they rest"
    table = pa.concat_tables([pq.read_table(part.output) for part in parts])
    assert table.equals(pq.read_table(one.output)) and len(set(table["reward"].to_pylist())) == 24
    assert Counter(fact["rewarded"] for fact in facts.values()) == {4: 6} and len(set(pids)) == 2


def test_a_model_that_is_none_is_the_user_s_mistake_and_a_broken_shard_names_its_file(tmp_path: Path) -> None:
    labels = make_reward_model(tmp_path / "labels", labels=3)
    model = make_reward_model(tmp_path / "model")
    task = reward_task(tmp_path, {"q": ["1"]})
    with pool_of(1) as pool:
        pool.serve(RewardPlan(str(labels), "outcome"))
        with pytest.raises(UnusableModel, match="has 3 labels"):
            list(pool.score([task]))
    with pool_of(1) as pool:
        pool.serve(RewardPlan(str(model), "outcome"))
        broken = RewardTask(0, task.prompts, 0, 0, task.samples, task.output)
        with pytest.raises(RewardFailed, match=r"scoring .*samples-0\.parquet failed: .*prompt 'q' is not in the rows"):
            list(pool.score([broken]))
