"""Weights that are NaN or infinite are told before anything starts, whichever model has them."""

from __future__ import annotations

import json
import shutil
import tracemalloc
from pathlib import Path

import pytest

from orchestrator.commands.validate import check
from orchestrator.config.load import load_job
from orchestrator.config.places import run_folder
from orchestrator.driver.kept import base_model_of
from orchestrator.errors import BadInput
from orchestrator.ledger.run import Run
from orchestrator.models.finite import check_finite
from tests.orchestrator.commands.test_doctor import examined
from tests.orchestrator.models.test_models import HEADER, model
from tests.orchestrator.rounds.test_rewards import project
from tests.support.stand_ins import StandIns, make_project, run_job

TENSOR = "model.layers.0.mlp.down_proj.weight"
# Of each format the bytes of what is not finite, and of the largest finite number, whose bits come next to it.
NOT_FINITE = {
    "F64": ["000000000000f07f", "000000000000f0ff", "010000000000f87f"],
    "F32": ["0000807f", "000080ff", "0000c07f", "010080ff"],
    "F16": ["007c", "00fc", "007e", "01fc"],
    "BF16": ["807f", "80ff", "c07f", "81ff"],
    "F8_E5M2": ["7c", "fc", "7d", "ff"],
    "F8_E4M3": ["7f", "ff"],
    "F8_E8M0": ["ff"],
    "F8_E4M3FNUZ": ["80"],
    "F8_E5M2FNUZ": ["80"],
    "C64": ["000000000000807f"],
}
LARGEST = {
    "F64": "ffffffffffffef7f",
    "F32": "ffff7fff",
    "F16": "ff7b",
    "BF16": "7fff",
    "F8_E5M2": "fb",
    "F8_E4M3": "fe",
    "F8_E8M0": "fe",
    "F8_E4M3FNUZ": "ff",
    "F8_E5M2FNUZ": "7f",
    "C64": "ffff7f7fffff7fff",
    "I32": "0000807f",
    "U8": "ff",
}


def weights(folder: Path, kind: str, before: int, number: str, after: int = 3) -> Path:
    """A model of one tensor `t`: so many zeros, the number, and some zeros again; beside it another tensor."""
    size = len(number) // 2
    count = before + 1 + after
    header = {"t": {"dtype": kind, "shape": [count], "data_offsets": [1, 1 + size * count]}}
    text = json.dumps({"a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}} | header).encode()
    zeros = bytes(size)
    data = b"\xff" + zeros * before + bytes.fromhex(number) + zeros * after
    folder.mkdir(parents=True)
    (folder / "config.json").write_text('{"model_type": "of-a-test"}')
    (folder / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + data)
    return folder


@pytest.mark.parametrize("kind", NOT_FINITE)
def test_each_pattern_of_bits_is_found_in_each_format(tmp_path: Path, kind: str) -> None:
    for number, bits in enumerate(NOT_FINITE[kind]):
        folder = weights(tmp_path / f"bad{number}", kind, 5, bits)
        with pytest.raises(BadInput) as refused:
            check_finite(folder, "job.yaml: model")
        count = 18 if kind == "C64" else 9  # two numbers each
        assert f"{folder}/model.safetensors: 1 of the {count} numbers of the tensor t are NaN" in str(refused.value)


@pytest.mark.parametrize("kind", LARGEST)
def test_what_is_next_to_it_or_no_such_number_is_taken(tmp_path: Path, kind: str) -> None:
    check_finite(weights(tmp_path / "good", kind, 5, LARGEST[kind]), "job.yaml: model")


def test_a_large_tensor_is_read_in_pieces(tmp_path: Path) -> None:
    folder = weights(tmp_path / "large", "BF16", 20_000_001, "807f")
    check_finite(weights(tmp_path / "small", "BF16", 5, "0000"), "model")  # whatever is made once
    tracemalloc.start()
    with pytest.raises(BadInput, match="1 of the 20000005 numbers"):
        check_finite(folder, "model")
    assert tracemalloc.get_traced_memory()[1] < 5 * 2**20
    tracemalloc.stop()


def test_tensors_that_share_bytes_are_refused_unread(tmp_path: Path) -> None:
    """A small file with a million tensors of all its bytes would be read for ever."""
    folder = weights(tmp_path / "shared", "F32", 5, "00000000")
    said = {"dtype": "F32", "shape": [9], "data_offsets": [0, 36]}
    text = json.dumps({"a": said, "b": said}).encode()
    (folder / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + bytes(36))
    with pytest.raises(BadInput, match="its header is damaged"):
        check_finite(folder, "model")


def spoil(folder: Path) -> Path:
    """Make the last number of a model infinite."""
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[:-4] + bytes.fromhex("0000807f"))
    return folder


def test_validate_doctor_and_run_tell_it_of_a_base_model_alike(tmp_path: Path) -> None:
    job = make_project(tmp_path, model="bad")
    spoil(model(tmp_path / "bad"))
    with pytest.raises(BadInput) as told:
        check(load_job(job))
    last = [*HEADER][-1]
    file = tmp_path / "bad/model.safetensors"
    assert str(told.value).startswith(f"{job}: model: {file}: 1 of the 64 numbers of the tensor {last} are NaN or")
    with pytest.raises(BadInput) as refused:
        run_job(job, StandIns())
    assert str(refused.value) == str(told.value) and not (tmp_path / "run").exists()
    _, findings, sound = examined(tmp_path, f"model={tmp_path / 'bad'}", limit=8.0)
    assert not sound and findings["model and data"].level == "FAIL"
    assert f"model: {file}: 1 of the 64 numbers of the tensor {last} are NaN" in findings["model and data"].text


def test_a_reference_and_a_reward_model_are_looked_at_too(tmp_path: Path) -> None:
    job = make_project(tmp_path / "one", reference="bad")
    spoil(model(tmp_path / "one/bad"))
    with pytest.raises(BadInput, match=r"tiny.yaml: reference: .* are NaN or infinite"):
        run_job(job, StandIns())
    job = project(tmp_path / "two")
    shutil.copy(spoil(weights(tmp_path / "made", "F32", 5, "00000000")) / "model.safetensors", tmp_path / "two/reward")
    kind = {"model_type": "bert", "architectures": ["BertForSequenceClassification"], "num_labels": 1}
    (tmp_path / "two/reward/config.json").write_text(json.dumps(kind))
    with pytest.raises(BadInput, match=r"tiny.yaml: reward.models.0.model: .* are NaN or infinite"):
        run_job(job, StandIns())


def test_a_run_that_has_begun_goes_on_as_it_began(tmp_path: Path) -> None:
    job = make_project(tmp_path, rounds=1)
    run_job(job, StandIns())
    other = load_job(job, [f"model={spoil(model(tmp_path / 'bad'))}"])
    assert base_model_of(other, Run(run_folder(other.job))).folder == tmp_path / "bad"
