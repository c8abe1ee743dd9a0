"""Workers that rest between two turns: their processes stay, and their memory goes. Under a real Ray; the workers
themselves have no model."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import ray

from orchestrator.config import Generate, Train
from orchestrator.records.rows import ScoringPlan
from tests.support.local_ray import local_ray
from tests.support.placements import Anywhere, ForEngines, ForRanks
from tests.support.stand_in_engine import STAND_IN, WEIGHTS, noted
from tests.support.stand_in_ranks import Rank
from tests.workers.training.test_out_of_memory import pairs  # noqa: F401  # a fixture
from workers.generation.engine import EngineBroken
from workers.generation.host import EngineHost, host_of
from workers.generation.pool import GeneratorPool
from workers.supervision import rested
from workers.supervision.calls import RAY
from workers.supervision.resting import Kept, Memory, resident
from workers.training.group import TrainerGroup

MIB = 2**20


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    with local_ray():
        yield


def model_of(folder: Path, weight: int) -> str:
    folder.mkdir()
    (folder / WEIGHTS).write_text(str(weight))
    return str(folder)


def pool_of(model: str | None, told: list[str], engines: int = 1) -> GeneratorPool:
    return GeneratorPool(model, Generate(), 5, ForEngines(engines), STAND_IN, 0.2, say=told.append)


def pids(pool: GeneratorPool) -> list[int]:
    return [ray.get(slot.started) for slot in pool._slots]


@pytest.mark.real
def test_engines_rest_and_serve_another_model_in_the_same_processes(cluster: None, tmp_path: Path) -> None:
    first, second = model_of(tmp_path / "first", 1), model_of(tmp_path / "second", 3)
    told: list[str] = []
    with pool_of(first, told, engines=2) as pool:
        pool.wait_ready()
        before = pids(pool)
        assert pool.logprobs([[1]], [[2, 3]]) == [[-2.0], [-2.0]]
        pool.rest()
        with pytest.raises(Exception, match="no model is served here now"):
            ray.get(pool._slots[0].actor.logprobs.remote([[1]], [[2]]))
        pool.serve(second)
        pool.wait_ready()
        assert pids(pool) == before and pool.logprobs([[1]], [[2, 3]]) == [[-6.0], [-6.0]]
        pool.serve(first)  # without a rest
        pool.wait_ready()
        assert pids(pool) == before and pool.logprobs([[1]], [[2, 3]]) == [[-2.0], [-2.0]]
    assert told == [] and noted(tmp_path / "first").count("start") == 4


@pytest.mark.real
@pytest.mark.parametrize("how", ["keeps", "keeps in its turn", "hangs", "dies", "is stopped"])
def test_an_engine_that_does_not_come_out_of_its_rest_well_is_replaced(
    cluster: None, tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rested, "_REST_SECONDS", 3.0 if how == "hangs" else 60.0)
    monkeypatch.setattr(rested, "_ANSWER_SECONDS", 3.0)
    model, told = model_of(tmp_path / "model", 1), list[str]()
    (tmp_path / "model/keeps").write_text({"hangs": "hang"}.get(how, "700" if how.startswith("keeps") else "1"))
    with pool_of(model, told) as pool:
        pool.wait_ready()
        [before] = pids(pool)
        if how != "keeps in its turn":  # then another model is asked for without a rest
            pool.rest()
        if how in ("dies", "is stopped"):
            os.kill(before, signal.SIGKILL if how == "dies" else signal.SIGSTOP)
        pool.serve(model)
        pool.wait_ready()
        assert pids(pool) != [before] and pool.logprobs([[1]], [[2, 3]]) == [[-2.0]]
        assert pool._slots[0].deaths == 0, "nothing was lost by it"
    kept = "gives back its memory but for 0.7 GiB"
    words = {"keeps": kept, "keeps in its turn": kept, "hangs": "does not give its memory back within 3 s"}
    assert told == ([f"memory    engine 0 {words[how]}: its process is ended"] if how in words else [])


@pytest.mark.real
def test_ranks_rest_and_go_on_in_the_same_processes(cluster: None, tmp_path: Path, pairs: str) -> None:  # noqa: F811
    with TrainerGroup(Train(ranks=2), ForRanks(), rank=Rank) as group:
        score = scoring(group, tmp_path, pairs)
        assert score() == 0
        before = list(group.pids)
        group.rest()
        assert score() == 0 and group.pids == before
        group.rest()
        os.kill(before[1], signal.SIGKILL)
        while not dead(group):
            time.sleep(0.1)
        assert score() == 0 and set(group.pids).isdisjoint(before), "nothing was lost by it"


@pytest.mark.real
@pytest.mark.parametrize("dies", [False, True])
def test_who_was_started_early_waits_for_its_turn(cluster: None, tmp_path: Path, pairs: str, dies: bool) -> None:  # noqa: F811
    model, told = model_of(tmp_path / "model", 1), list[str]()
    with TrainerGroup(Train(ranks=2), ForRanks(), rank=Rank) as group, pool_of(None, told, engines=2) as pool:
        group.prepare()
        assert pool.resting and not group.pids
        group.rest()  # they have nothing to give back yet
        ranks = [actor.connect.remote("nowhere") for actor in group._actors]
        early = ray.get([slot.actor.pid.remote() for slot in pool._slots]), ray.get(ranks)
        if dies:
            for pid in (early[0][1], early[1][0]):
                os.kill(pid, signal.SIGKILL)
            while not (dead(group) and gone(pool._slots[1].actor.pid.remote())):
                time.sleep(0.1)
        pool.serve(model)
        pool.wait_ready()
        assert pool.logprobs([[1]], [[2, 3]]) == [[-2.0], [-2.0]] and scoring(group, tmp_path, pairs)() == 0
        assert [pids(pool)[0], *([] if dies else pids(pool)[1:])] == early[0][: 1 if dies else 2]
        assert set(group.pids).isdisjoint(early[1]) if dies else group.pids == early[1]
    assert told == [] and all(slot.deaths == 0 for slot in pool._slots), "nothing was lost by it"


@pytest.mark.real
def test_ranks_that_keep_their_memory_are_ended(cluster: None, tmp_path: Path, pairs: str) -> None:  # noqa: F811
    told: list[str] = []
    keeping = Anywhere(2, num_cpus=1, runtime_env={"env_vars": {"KEEPS": str(2 * 2**30)}})
    with TrainerGroup(Train(ranks=2), keeping, rank=Rank, say=told.append) as group:
        score = scoring(group, tmp_path, pairs)
        assert score() == 0
        before = list(group.pids)
        group.rest()
        assert group.pids == [] and told == [
            "memory    training rank 1 gives back its memory but for 2.0 GiB: the processes of the ranks are ended"
        ]
        assert score() == 0 and set(group.pids).isdisjoint(before)


def scoring(group: TrainerGroup, folder: Path, pairs: str) -> Callable[[], int]:  # noqa: F811
    plan = ScoringPlan("device 4096", "", (pairs,))
    return lambda: int(group.score(plan, str(folder / "scored.parquet"))["restarts"])


def dead(group: TrainerGroup) -> bool:
    return any(gone(actor.beats.remote()) for actor in group._actors)


def gone(call: object) -> bool:
    return not all(rested.answering(RAY, [call]))


def test_what_a_process_keeps_is_measured() -> None:
    before, memory = resident(), Memory()
    held: list[bytes] = [b"x" * (1200 * MIB)]
    memory.look()
    assert resident() - before > 800 * MIB
    assert memory.kept() > 800 * MIB, "it is still there"
    held.clear()
    assert memory.kept() == 0
    held.append(b"x" * (100 * MIB))
    assert memory.kept() == 0, "as much may be left of what libraries hold"


def test_an_engine_s_process_bears_its_name_and_serves_nobody_at_first(tmp_path: Path) -> None:
    host = host_of(STAND_IN.make)(STAND_IN.make, STAND_IN.prepare, Generate(), 5, False)
    assert isinstance(host, EngineHost) and type(host).__name__ == "StandInEngine"
    assert host.progress() == 0 and host.rest() == Kept()
    with pytest.raises(EngineBroken):
        host.logprobs([[1]], [[2]])
    host.serve(str(tmp_path))
    assert host.logprobs([[1]], [[2]]) == [-1.0]
