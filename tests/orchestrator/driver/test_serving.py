"""In what number format engines serve where that is left to the machine."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from orchestrator.config.load import load_job
from orchestrator.driver.serving import serving_dtype
from orchestrator.driver.settled import Settled
from orchestrator.errors import BadInput
from orchestrator.ledger.kinds import ResolvedData
from orchestrator.models.sizes import number_format
from tests.support.stand_ins import make_project


def model(folder: Path, said: str | None, weights: str = "F32") -> Path:
    """A model folder whose configuration says a format, or none, and with one weight of a format."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"dtype": said} if said else {}))
    size = 4 if weights == "F32" else 2
    header = json.dumps({"x": {"dtype": weights, "shape": [1], "data_offsets": [0, size]}}).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(size))
    return folder


class Served:
    """What engines serve in on a device, and what of it is recorded and told."""

    def __init__(
        self, folder: Path, device: str, said: str | None, *overrides: str, kept: Mapping[str, Any] | None = None
    ) -> None:
        self.recorded: list[Mapping[str, Any]] = []
        self.told: list[str] = []
        self.asked = 0

        def of() -> str:
            self.asked += 1
            return device

        job, settled = load_job(make_project(folder), overrides).job, Settled(kept, self.recorded.append)
        self.dtype = serving_dtype(job, model(folder / "m", said), of, settled, self.told.append)
        assert serving_dtype(job, None, of, settled, self.told.append) == self.dtype, "it is resolved once"


@pytest.mark.parametrize(
    ("device", "said", "overrides", "dtype"),
    [
        ("cpu", "float32", [], "own"),
        ("cpu", "bfloat16", ["train.export_dtype=float32"], "own"),
        ("cuda", "float32", [], "bfloat16"),
        ("cuda", None, [], "bfloat16"),
        ("cuda", "bfloat16", [], "own"),
        ("cuda", "float16", [], "own"),
        ("cuda", "bfloat16", ["train.export_dtype=float32"], "bfloat16"),
        ("cuda", "float32", ["train.export_dtype=bfloat16"], "bfloat16"),
        ("cuda", "float32", ["generate.dtype=float32"], "float32"),
        ("cuda", "float32", ["generate.dtype=own"], "own"),
        ("cpu", "float32", ["generate.dtype=bfloat16"], "bfloat16"),
        ("cuda", "float32", ["generate.engine={dtype: float16}"], "own"),
    ],
)
def test_float32_is_served_in_bfloat16_on_accelerators(
    tmp_path: Path, device: str, said: str | None, overrides: list[str], dtype: str
) -> None:
    served = Served(tmp_path, device, said, *overrides)
    assert served.dtype == dtype
    left = not any(override.startswith("generate") for override in overrides)
    assert len(served.recorded) == left and bool(served.told) == (left and dtype == "bfloat16")
    for record in served.recorded:
        assert TypeAdapter(ResolvedData).validate_python(record).device == device


def test_what_it_came_to_is_kept_on_another_device(tmp_path: Path) -> None:
    for device, other, dtype in (("cuda", "cpu", "bfloat16"), ("cpu", "cuda", "own")):
        [kept] = Served(tmp_path, device, "float32").recorded
        later = Served(tmp_path, other, "float32", kept=kept)
        assert later.dtype == dtype and not later.recorded and not later.asked
        settled = Settled(kept, (recorded := []).append)  # type: ignore[var-annotated]
        settled.value("train.attention", other, lambda: "sdpa", lambda _: True)
        assert recorded[-1] == {"device": other, "settings": {"generate.dtype": dtype, "train.attention": "sdpa"}}


@pytest.mark.parametrize(("said", "weights", "found"), [("float16", "F32", "float16"), (None, "BF16", "bfloat16")])
def test_the_format_of_a_model_is_that_of_its_configuration_or_weights(
    tmp_path: Path, said: str | None, weights: str, found: str
) -> None:
    assert number_format(model(tmp_path / "m", said, weights)) == found


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (
            ["generate.dtype=half"],
            r"dtype=half': must be `own`, `float32`, `bfloat16` or `float16`, or null",
        ),
        (
            ["generate.dtype=float32", "generate.engine={dtype: bfloat16}"],
            r"generate: .*`dtype` \(float32\) and `engine\.dtype` \(bfloat16\) are one setting: give `dtype`",
        ),
    ],
)
def test_a_wrong_format_is_refused(tmp_path: Path, overrides: list[str], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        load_job(make_project(tmp_path), overrides)
