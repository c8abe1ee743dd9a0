"""Where Ray puts an engine of several accelerators. Ray is told of some; the machine need not have any."""

from __future__ import annotations

import os
from typing import Any

import pytest
import ray
from ray.util import remove_placement_group

from orchestrator.driver.placement import Placement, Share, reserved
from tests.support.local_ray import local_ray
from workers.supervision.ending import phase_over
from workers.supervision.named_devices import name_devices

pytestmark = pytest.mark.real


class Engine:
    def has(self) -> tuple[list[Any], str | None, str | None]:
        return ray.get_gpu_ids(), os.environ.get("CUDA_VISIBLE_DEVICES"), os.environ.get("OMP_NUM_THREADS")


@pytest.mark.full
def test_one_actor_holds_all_accelerators_of_its_engine() -> None:
    with local_ray(num_gpus=4):
        bundles = (2, 1, 2)
        group = reserved("engines", bundles)
        assert group.wait(60)
        placement = Placement(bundles, group, lambda _: None, None, {"NCCL_DEBUG": "INFO"})
        actors = [ray.remote(Engine).options(**placement.actor_options(index)).remote() for index in range(2)]
        found = ray.get([actor.has.remote() for actor in actors])
        assert sorted(i for ids, _, _ in found for i in ids) == [0, 1, 2, 3] and all(
            len(ids) == 2 for ids, _, _ in found
        )
        for ids, visible, threads in found:
            assert visible == ",".join(map(str, ids)) and threads == "1"
        assert placement.placed() == [True, True]
        third = reserved("more than the node has", (1, 1, 5))
        assert not third.wait(1)
        remove_placement_group(third)


class Sharing:
    """A worker that takes turns with another one. It tells what it sees when all is set up, and in a later call."""

    def __init__(self) -> None:
        self.named = name_devices(os.environ)
        self.first = os.environ.get("CUDA_VISIBLE_DEVICES")

    def has(self) -> tuple[list[str], str | None, str | None, list[Any]]:
        return self.named, self.first, os.environ.get("CUDA_VISIBLE_DEVICES"), ray.get_gpu_ids()


@pytest.mark.parametrize("of_the_host", [pytest.param(None, marks=pytest.mark.full), "4,5,6,7"])
def test_two_roles_see_the_same_devices_though_ray_gives_them_none(
    of_the_host: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Engines of two each, and ranks of one; on a host that leaves Ray some of its devices, too, and where Ray was told
    to take devices from those that it gives none."""
    if of_the_host:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", of_the_host)
        monkeypatch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "1")
    with local_ray(num_gpus=4):
        group = reserved("both", (2, 2, 2))
        assert group.wait(60)
        placement = Placement((2, 2, 2), group, lambda _: None, None)
        engines, ranks = Share(placement, lambda: (2, 2, 2)), Share(placement, lambda: (4, 1, 1))
        hired = [
            ray.remote(Sharing).options(**role.actor_options(i)).remote()
            for role in (engines, ranks)
            for i in range(role.count)
        ]
        found = ray.get([actor.has.remote() for actor in hired])
        for named, first, later, of_ray in found:
            assert first == later == ",".join(named) and named and of_ray == []
        wide, single = [named for named, *_ in found[:2]], [named for named, *_ in found[2:]]
        assert [*single[0], *single[1]] == wide[0] and [*single[2], *single[3]] == wide[1]
        assert sorted(wide[0] + wide[1]) == (of_the_host or "0,1,2,3").split(",")
        for actor in hired:
            ray.kill(actor)
        remove_placement_group(group)
        assert phase_over(placement.mark, 5.0) == [], "who told it is no process of the phase"
