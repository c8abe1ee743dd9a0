"""A rank that got an accelerator computes on it, or says why not."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from workers.training.device import NoDevice, require_device


@pytest.mark.parametrize(
    ("granted", "environment", "sees"),
    [
        ([], {}, False),
        ([], {"DS_ACCELERATOR": "cpu"}, True),
        ([3], {}, True),
        (["3"], {"DS_ACCELERATOR": "cuda"}, True),
    ],
)
def test_what_fits_is_let_through(granted: list[object], environment: Mapping[str, str], sees: bool) -> None:
    require_device(granted, environment, sees, "2.13.0")


def test_a_device_that_torch_does_not_see_is_named_with_the_cure() -> None:
    with pytest.raises(NoDevice, match=r"accelerator 3, but torch 2\.13\.0\+cpu sees none .*: 3\).*nvidia-smi.*driver"):
        require_device([3], {"CUDA_VISIBLE_DEVICES": "3"}, False, "2.13.0+cpu")


def test_an_environment_that_chooses_otherwise_is_named() -> None:
    with pytest.raises(NoDevice, match=r"DS_ACCELERATOR is 'cpu' in its environment.*cluster.accelerators: none"):
        require_device([0], {"DS_ACCELERATOR": "cpu"}, True, "2.13.0")
