"""What the pool does about shards and deaths, with workers that are no processes: nothing is waited for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray

from orchestrator.records.rewards import RewardPlan, RewardTask
from tests.support.placements import Anywhere
from workers.reward.pool import RewardFailed, RewardPool

GONE = "The actor died because its node has died. Node Id: 7"
KILLED = "The actor is dead. Worker unexpectedly exits with a connection error code 2."


class Lost(ray.exceptions.RayActorError):
    def __init__(self, why: str) -> None:
        self.why = why

    def __str__(self) -> str:
        return self.why


class Answer:
    """A reference to what a call gives."""

    def __init__(self, value: Any = None) -> None:
        self.value = value


class NoKills:
    def wait(self) -> None:
        pass

    def since(self, error: BaseException) -> int:
        return 0


class AtOnce:
    """Calls that are answered at once: a shard's file is written, or `fate(shard, how many began before)` says why its
    worker is lost."""

    def __init__(self, fate: Callable[[int, int], str | None] = lambda shard, before: None) -> None:
        self.fate, self.begun, self.starts, self.killed = fate, list[int](), 0, 0
        self.now = 0.0

    def start(self, kind: Any, arguments: Sequence[Any], options: Mapping[str, Any], watched: bool = False) -> Any:
        self.starts += 1
        method = lambda work: SimpleNamespace(remote=work)  # noqa: E731
        return SimpleNamespace(score=method(self._score), rest=method(Answer), progress=method(lambda: Answer(0)))

    def _score(self, plan: RewardPlan, task: RewardTask) -> Answer:
        why = self.fate(task.index, len(self.begun))
        self.begun.append(task.index)
        if why is not None:
            return Answer(Lost(why))
        Path(task.written).write_text("rewards")
        return Answer({"answers": 1})

    def wait(self, references: Sequence[Any], timeout: float | None = None, num_returns: int = 1) -> Any:
        assert references, "as Ray, which waits for nothing"
        self.now += 1.0
        return list(references)[:num_returns], list(references)[num_returns:]

    def get(self, reference: Any) -> Any:
        if isinstance(reference.value, Exception):
            raise reference.value
        return reference.value

    def kill(self, actor: Any) -> None:
        self.killed += 1

    def clock(self) -> float:
        return self.now


def pool_of(calls: AtOnce, workers: int = 2) -> RewardPool:
    pool = RewardPool(Anywhere(workers), calls=calls, kills=NoKills)  # type: ignore[arg-type]
    pool.serve(RewardPlan("model", "outcome"))
    return pool


def tasks_of(folder: Path, number: int) -> list[RewardTask]:
    return [RewardTask(i, "", 0, 1, "samples", str(folder / f"{i}.parquet")) for i in range(number)]


def test_each_shard_is_done_once_and_gets_its_name(tmp_path: Path) -> None:
    calls, tasks = AtOnce(), tasks_of(tmp_path, 5)
    with pool_of(calls) as pool:
        done = list(pool.score(tasks))
    assert sorted(calls.begun) == [0, 1, 2, 3, 4] == sorted(task.index for task, _ in done)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{i}.parquet" for i in range(5)]
    assert all(task in tasks and facts == {"answers": 1} for task, facts in done)
    assert (calls.starts, calls.killed) == (2, 2)


def test_only_the_shard_of_a_lost_worker_is_done_again(tmp_path: Path) -> None:
    calls = AtOnce(lambda shard, before: KILLED if before == 3 else None)
    with pool_of(calls) as pool:
        facts = {task.index: facts for task, facts in pool.score(tasks_of(tmp_path, 6))}
    assert len(facts) == 6 and len(calls.begun) == 7 and calls.starts == 3
    [lost] = [why for said in facts.values() for why in said.get("rewarders_lost", [])]
    assert "its process ended without a word" in lost


@pytest.mark.parametrize(("why", "given_up"), [(KILLED, True), (GONE, False)])
def test_three_deaths_in_a_row_end_it_unless_nodes_were_lost(tmp_path: Path, why: str, given_up: bool) -> None:
    calls = AtOnce(lambda shard, before: why if before < 4 else None)
    with pool_of(calls, workers=1) as pool:
        if given_up:
            with pytest.raises(RewardFailed, match="lost 3 times in a row without scoring a shard"):
                list(pool.score(tasks_of(tmp_path, 2)))
            return
        done = list(pool.score(tasks_of(tmp_path, 2)))
    assert len(done) == 2 and "the node that it was on is gone" in done[0][1]["rewarders_lost"][0]
    assert len(done[0][1]["rewarders_lost"]) == 4


def test_a_call_that_was_given_up_leaves_no_worker_at_its_shard(tmp_path: Path) -> None:
    calls = AtOnce()
    with pool_of(calls) as pool:
        for _ in pool.score(tasks_of(tmp_path, 6)):
            break
        (tmp_path / "again").mkdir()
        assert len(list(pool.score(tasks_of(tmp_path / "again", 3)))) == 3
    assert calls.starts == 3, "the one that had a shard was started anew"
