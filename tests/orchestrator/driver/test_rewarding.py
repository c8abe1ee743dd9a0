"""Where reward workers run. Cluster, turns and pool are stand-ins."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest

from orchestrator.driver.nodes import Node, share
from orchestrator.driver.rewarding import Rewarding
from orchestrator.driver.turns import REWARDERS
from orchestrator.records.rewards import RewardWorkers
from tests.orchestrator.driver.test_turns import Reserved


class Machine:
    def __init__(self, *nodes: tuple[int, int]) -> None:
        self._nodes = [Node(str(i), f"node-{i}", cpus, gpus) for i, (cpus, gpus) in enumerate(nodes)]
        self.accelerated = any(gpus for _, gpus in nodes)

    def nodes(self) -> list[Node]:
        return self._nodes

    def cpus_for(self, workers: int, gpus: int) -> int:
        return share(self._nodes, workers, gpus)


class Alone:
    """The turns of a cluster, of which nobody else has one."""

    turn: Any = None

    def __init__(self) -> None:
        self.asked: list[tuple[int, int, int]] = []
        self._pool: Any = None

    def alone(self, need: tuple[int, int, int], hire: Any) -> Any:
        if self.turn != REWARDERS:
            self.asked.append(need)
            self.turn, self._pool = REWARDERS, hire(Reserved(*need)).__enter__()
        return self._pool

    def release(self) -> None:
        self.turn = None


class Stage:
    """Rewarding on a machine; `places` are those that pools were made in."""

    def __init__(self, *nodes: tuple[int, int]) -> None:
        self.turns, self.places, self.open = Alone(), list[Any](), 0
        self.rewarding = Rewarding(Machine(*nodes), self.turns, self._make)  # type: ignore[arg-type]

    @contextlib.contextmanager
    def _make(self, placement: Any, how: RewardWorkers) -> Iterator[Any]:
        self.places.append(placement)
        self.open += 1
        yield object()
        self.open -= 1


def threads(options: dict[str, Any]) -> str:
    return str(options["runtime_env"]["env_vars"]["OMP_NUM_THREADS"])


def test_on_cpu_one_pool_lives_beside_the_others_until_the_end() -> None:
    stage = Stage((8, 0))
    with stage.rewarding:
        pool = stage.rewarding.pool(RewardWorkers())
        assert stage.rewarding.pool(RewardWorkers()) is pool and not stage.turns.asked
        [place] = stage.places
        options = place.actor_options(0)
        assert (place.count, place.gpus, options["num_cpus"], threads(options)) == (1, 0, 0, "8")
        assert stage.rewarding.pool(RewardWorkers(workers=4)) is not pool
        assert stage.open == 1 and (stage.places[1].count, threads(stage.places[1].actor_options(3))) == (4, "2")
    assert stage.open == 0


@pytest.mark.parametrize(
    ("how", "need", "count", "shares"),
    [
        (RewardWorkers(), (3, 4, 1), 3, (4, 1.0)),
        (RewardWorkers(per_gpu=4), (3, 4, 1), 12, (1, 0.25)),
        (RewardWorkers(workers=3, per_gpu=2), (2, 4, 1), 3, (2, 0.5)),
        (RewardWorkers(workers=2, cpus=2), (2, 2, 1), 2, (2, 1.0)),
    ],
)
def test_on_accelerators_workers_share_the_gpus_of_a_reservation(
    how: RewardWorkers, need: tuple[int, int, int], count: int, shares: tuple[float, float]
) -> None:
    stage = Stage((8, 2), (4, 1))
    pool = stage.rewarding.pool(how)
    assert stage.rewarding.pool(how) is pool and stage.turns.asked == [need]
    [place] = stage.places
    options = [place.actor_options(index) for index in range(count)]
    assert place.gpus and place.count == count
    assert {(one["num_cpus"], one["num_gpus"]) for one in options} == {shares}
    assert [one["scheduling_strategy"] for one in options] == [index // how.per_gpu for index in range(count)]
    assert place.placed() == [True] * count


def test_they_stay_on_cpu_where_they_are_told_to() -> None:
    stage = Stage((8, 2))
    stage.rewarding.pool(RewardWorkers(device="cpu"))
    assert not stage.turns.asked and stage.places[0].gpus == 0
