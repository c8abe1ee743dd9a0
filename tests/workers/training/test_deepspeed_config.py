"""What of the job's settings reaches DeepSpeed."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.config import Train
from workers.training.deepspeed_config import deepspeed_config


@pytest.mark.parametrize("zero", [0, 1, 2, 3])
@pytest.mark.parametrize("overlap", [False, True])
def test_gradients_are_summed_up_on_the_way_only_where_stages_share_them_out(zero: int, overlap: bool) -> None:
    config: dict[str, Any] = deepspeed_config(Train(zero=zero, overlap=overlap), 2, 10**6)
    assert config["zero_optimization"]["overlap_comm"] is (overlap and zero >= 2)


@pytest.mark.parametrize("zero", [0, 1, 2, 3])
def test_layers_that_gather_their_weights_are_not_compiled(zero: int) -> None:
    assert Train(zero=zero, compile=True).compiled is (zero < 3)
    assert not Train(zero=zero).compiled
