"""Where Ray puts an engine of several accelerators. Ray is told of some; the machine need not have any."""

from __future__ import annotations

import os
from typing import Any

import pytest
import ray
from ray.util import remove_placement_group

from orchestrator.driver.placement import Placement, reserved
from tests.support.local_ray import local_ray

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
