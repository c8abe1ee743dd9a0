"""Engines and ranks that take turns on accelerators and keep their processes. Under a real Ray, which is told of two
devices; the workers have no model, and the devices are files."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.util import remove_placement_group

from orchestrator.config import Generate, Train
from orchestrator.driver.nodes import Node
from orchestrator.driver.placement import Bundles, Placement, reserved
from orchestrator.driver.turns import ENGINES, RANKS, Turns
from orchestrator.records.rows import ScoringPlan
from tests.support.local_ray import local_ray
from tests.support.stand_in_devices import CONTEXT, HELD, ON_DEVICES, DeviceRank, make_devices, taken
from tests.support.stand_in_engine import WEIGHTS, noted
from tests.workers.training.test_out_of_memory import pairs  # noqa: F401  # a fixture
from workers.generation.in_place import InPlace, Served
from workers.generation.pool import GeneratorPool
from workers.supervision.ending import phase_over
from workers.training.group import TrainerGroup

pytestmark = pytest.mark.real

WEIGHS = {"first": 1.0, "second": 3.0, "third": 2.0}


@pytest.fixture(scope="module")
def devices(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("devices")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in make_devices(folder, 2).items():
            patch.setenv(name, value)
        with local_ray(num_gpus=2):
            yield folder


class Stage:
    """A cluster of one node with two devices, and who takes turns on them."""

    accelerated = True

    def __init__(self, folder: Path, pairs: str, environment: dict[str, str] | None = None) -> None:  # noqa: F811
        self.told: list[str] = []
        self.say = self.told.append
        self.folder, self._pairs, self._environment = folder, pairs, environment or {}
        self.reservations = 0
        self.weights = InPlace(self.say)
        needs: dict[Any, Callable[[], Bundles]] = {ENGINES: lambda: (2, 1, 1), RANKS: lambda: (2, 1, 1)}
        hire: dict[Any, Any] = {ENGINES: self._pool, RANKS: self._group}
        self.turns = Turns(lambda: self, needs, hire, self._over, warm=True)  # type: ignore[arg-type,return-value]
        for name, weight in WEIGHS.items():
            (folder / name).mkdir()
            (folder / name / WEIGHTS).write_text(str(weight))

    def others_wait(self) -> bool:
        return False

    def nodes(self) -> list[Node]:
        return [Node("node", "node", 4, 2)]

    @contextlib.contextmanager
    def reserve(self, what: str, count: int, cpus: int, gpus: int, *_: Any) -> Iterator[Placement]:
        self.reservations += 1
        group = reserved(what, (count, cpus, gpus))
        assert group.wait(60)
        try:
            yield Placement((count, cpus, gpus), group, lambda _: None, None, self._environment)
        finally:
            remove_placement_group(group)

    def _over(self, mark: str) -> None:
        assert phase_over(mark, 10.0) == []

    def _pool(self, place: Any) -> GeneratorPool:
        return GeneratorPool(None, Generate(), 5, place, ON_DEVICES, 0.2, say=self.say)

    @contextlib.contextmanager
    def _group(self, place: Any) -> Iterator[TrainerGroup]:
        with TrainerGroup(Train(ranks=2), place, rank=DeviceRank, say=self.say) as group:
            group.prepare()
            yield group

    def engines(self, name: str) -> list[int]:
        """Have engines serve a model; the processes that do."""
        pool = self.turns.of(ENGINES)
        new = Served(str(self.folder / name), name)
        if not self.weights.change(pool, new):
            pool.serve(new.model)
            pool.wait_ready()
            self.weights.made(pool, new)
        pool.may_sleep = self.weights.may_sleep
        assert pool.logprobs([[1]], [[2, 3]]) == [[-2 * WEIGHS[name]]] * 2
        return ray.get([slot.actor.pid.remote() for slot in pool._slots])

    def ranks(self) -> list[int]:
        """Have ranks work; the processes that do."""
        group = self.turns.of(RANKS)
        plan = ScoringPlan("device 4096", "", (self._pairs,))
        assert group.score(plan, str(self.folder / "scored.parquet"))["restarts"] == 0
        return list(group.pids)


@pytest.fixture
def stage(devices: Path, tmp_path: Path, pairs: str) -> Iterator[Stage]:  # noqa: F811
    for device in devices.glob("[0-9]"):
        device.write_text("10")
    with (stage := Stage(tmp_path, pairs)).turns:
        yield stage


def test_the_same_processes_work_turn_after_turn_on_the_same_devices(stage: Stage, devices: Path) -> None:
    engines = stage.engines("first")
    assert taken(devices) == [10 + CONTEXT + HELD] * 2
    ranks = stage.ranks()
    assert taken(devices) == [10 + 2 * CONTEXT + HELD] * 2, "an engine keeps its libraries' share"
    assert stage.engines("second") == engines and stage.ranks() == ranks and stage.engines("second") == engines
    assert taken(devices) == [10 + 2 * CONTEXT + HELD] * 2 and stage.reservations == 1
    kept = "keep 0.6 GiB of a device at most while they rest"
    assert {*stage.told} == {f"memory    {who} {kept}" for who in ("engines", "ranks")}
    assert ray.available_resources().get("GPU", 0) == 0, "they are nobody else's"


def test_engines_that_can_sleep_wake_with_other_weights(stage: Stage, devices: Path) -> None:
    for name in WEIGHS:
        (stage.folder / name / "sleeps").touch()
    engines = stage.engines("first")
    for name in ("second", "third", "second"):
        stage.ranks()
        assert stage.engines(name) == engines
        assert taken(devices) == [10 + 2 * CONTEXT + HELD] * 2
    assert noted(stage.folder / "first") == ["start"] * 2 + ["sleep"] * 2 + ["wake"] * 2
    assert noted(stage.folder / "second").count("wake") == 4, "what was built anew, once, slept and woke as well"
    assert stage.weights.told == "in place, after a sleep"
    [said] = [line for line in stage.told if line.startswith("weights")]
    assert said.endswith("(after a sleep, and as in new engines)")


def test_an_engine_that_cannot_sleep_after_all_is_closed(stage: Stage, devices: Path) -> None:
    (stage.folder / "first/sleeps").write_text("breaks")
    engines = stage.engines("first")
    stage.ranks()
    assert taken(devices) == [10 + 2 * CONTEXT + HELD] * 2
    assert stage.engines("second") == engines


def test_engines_of_which_one_has_died_asleep_are_new_ones(stage: Stage) -> None:
    """What sleeps can take weights and nothing else."""
    (stage.folder / "first/sleeps").touch()
    engines = stage.engines("first")
    stage.ranks()
    assert stage.turns.there(ENGINES).asleep
    os.kill(engines[1], signal.SIGKILL)
    assert set(stage.engines("second")).isdisjoint(engines)
    assert not stage.turns.of(ENGINES).may_sleep and any("are made anew: engine 1: " in line for line in stage.told)


@pytest.mark.parametrize(
    ("sleeps", "leaks", "turns"),
    [
        (True, "700", 3),
        pytest.param(True, "5000", 1, marks=pytest.mark.full),
        pytest.param(False, "700", 3, marks=pytest.mark.full),
        pytest.param(False, "5000", 1, marks=pytest.mark.full),
    ],
)
def test_an_engine_that_keeps_a_device_is_replaced(stage: Stage, sleeps: bool, leaks: str, turns: int) -> None:
    """At once where it keeps much, and later where it keeps a little more each time."""
    model = stage.folder / "first"
    (model / "leaks").write_text(leaks)
    if sleeps:
        (model / "sleeps").touch()
    engines, ended = stage.engines("first"), list[str]()
    while True:
        stage.ranks()
        ended.append(stage.turns.there(ENGINES).ended)
        if ended[-1]:
            break
        assert stage.engines("first") == engines
    # One that sleeps is made anew once meanwhile, to see that it wakes as a new one would be.
    assert len(ended) == (turns - 1 if sleeps and turns > 1 else turns)
    assert ended[-1].startswith("engine 0 gives back the memory of its device but for ")
    assert f"memory    {ended[-1].split('; ')[0]}" in stage.told
    assert set(stage.engines("first")).isdisjoint(engines)


def test_where_the_driver_does_not_tell_nothing_is_believed(stage: Stage, devices: Path) -> None:
    engines = stage.engines("first")
    (devices / "silent").touch()
    try:
        stage.ranks()
        assert "no memory of its device that could be measured" in stage.turns.there(ENGINES).ended
    finally:
        (devices / "silent").unlink()
    assert set(stage.engines("first")).isdisjoint(engines)


def test_ranks_that_keep_a_device_are_replaced(devices: Path, tmp_path: Path, pairs: str) -> None:  # noqa: F811
    for device in devices.glob("[0-9]"):
        device.write_text("10")
    with (stage := Stage(tmp_path, pairs, {"LEAKS": "9000"})).turns:
        ranks = stage.ranks()
        stage.engines("first")
        ended = stage.turns.there(RANKS).ended
        assert ended == (
            "training rank 0 gives back the memory of its device but for 9.4 GiB: the processes of the ranks are ended"
        )
        assert f"memory    {ended}" in stage.told and set(stage.ranks()).isdisjoint(ranks)
