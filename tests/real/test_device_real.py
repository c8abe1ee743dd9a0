"""What a rank of the real stack does with a device that Ray gives it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("ray")

from ray.util import remove_placement_group  # noqa: E402

from orchestrator.config import Train  # noqa: E402
from orchestrator.driver.placement import Placement, Share, reserved  # noqa: E402
from tests.support.local_ray import local_ray  # noqa: E402
from tests.support.placements import ForRanks  # noqa: E402
from workers.training.group import TrainerGroup  # noqa: E402
from workers.training.lost import TrainingFailed  # noqa: E402

pytestmark = pytest.mark.real


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    with local_ray(num_gpus=1):
        yield


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a device that torch sees")
def test_a_rank_with_an_accelerator_that_torch_does_not_see_trains_nothing() -> None:
    with (
        TrainerGroup(Train(), ForRanks(1, num_gpus=1)) as group,
        pytest.raises(TrainingFailed, match=r"rank 0: NoDevice: .* accelerator 0, but torch .* sees none"),
    ):
        group.each(lambda trainer: None)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a device that torch sees")
def test_so_does_one_that_takes_turns_on_an_accelerator() -> None:
    """In Ray's books it has none: it would train on processors and nobody would know."""
    group = reserved("both", (1, 1, 1))
    assert group.wait(60)
    share = Share(Placement((1, 1, 1), group, lambda _: None, None), lambda: (1, 1, 1))
    with (
        TrainerGroup(Train(), share) as ranks,
        pytest.raises(TrainingFailed, match=r"rank 0: NoDevice: .* accelerator 0, but torch .* sees none"),
    ):
        ranks.each(lambda trainer: None)
    remove_placement_group(group)
