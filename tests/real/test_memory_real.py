"""The sums that decide how much a rank computes at once, against the most that real ranks hold on CPU."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.peak import measure, write_models

pytestmark = [pytest.mark.real, pytest.mark.full]
FACTOR = 1.15
"""How far a peak and its sum are apart at most."""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    write_models(folder)
    return folder


@pytest.mark.parametrize(
    "case", ["demo-4096", "demo-4096-checkpointing", "smollm2-1024", "smollm2-1024-checkpointing", "smollm2-1024-zero2"]
)
def test_a_rank_holds_what_the_sums_say(models: Path, case: str) -> None:
    assert 1 / FACTOR < measure(case, models)["factor"] < FACTOR
