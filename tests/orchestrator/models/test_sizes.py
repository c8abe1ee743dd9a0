"""How large an adapter to a model is: by the shapes of its weights, or its configuration where there are none yet."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from orchestrator.config import Lora
from orchestrator.models.sizes import size_of, size_trained

BASE = Path(__file__).parents[3] / "jobs/demo/base"


@pytest.mark.parametrize("targets", ["all-linear", ["q_proj", "mlp.down_proj"]])
def test_an_adapter_is_counted_with_and_without_weights(tmp_path: Path, targets: list[str]) -> None:
    lora = Lora(rank=4, targets=targets)
    there = size_trained(BASE, lora)
    shutil.copy(BASE / "config.json", tmp_path)
    config_alone = size_trained(tmp_path, lora)
    assert there and config_alone and there.adapter == config_alone.adapter == there.trained
    assert 0 < there.trained < there.parameters / 5


@pytest.mark.parametrize("number", [10**12, 10**400], ids=["trillion", "longer"])
def test_a_configuration_of_any_numbers_is_counted_at_once_or_not_at_all(tmp_path: Path, number: int) -> None:
    """That of a model on the Hub, whose weights are not there yet, is anybody's."""
    config = json.loads((BASE / "config.json").read_text()) | {"num_hidden_layers": number}
    (tmp_path / "config.json").write_text(json.dumps(config))
    size = size_trained(tmp_path, Lora(rank=4))
    assert size is None if number > 10**12 else size and size.adapter == number * 4 * (4 * 256 + 3 * 512)


def test_without_an_adapter_all_is_trained() -> None:
    size = size_trained(BASE, None)
    assert size == size_of(BASE) and size and size.trained == size.parameters
