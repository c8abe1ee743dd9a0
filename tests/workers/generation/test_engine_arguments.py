"""What an engine is started with: no machine decides in which number format a model is served."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from orchestrator.config import Generate
from workers.generation.vllm import VLLM, _own_dtype, engine_arguments

LLAMA = {"model_type": "llama", "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}


def folder_with(folder: Path, weights: torch.dtype, **config: str) -> str:
    (folder / "config.json").write_text(json.dumps({**LLAMA, "num_attention_heads": 1, **config}))
    save_file({"model.norm.weight": torch.ones(8, dtype=weights)}, folder / "model.safetensors")
    return str(folder)


@pytest.mark.parametrize(("dtype", "said"), [(torch.float32, "float32"), (torch.bfloat16, "bfloat16")])
def test_a_folder_that_names_no_format_is_served_in_that_of_its_weights(
    tmp_path: Path, dtype: torch.dtype, said: str
) -> None:
    assert _own_dtype(folder_with(tmp_path, dtype)) == said


def test_a_folder_is_served_in_the_format_that_it_names(tmp_path: Path) -> None:
    assert _own_dtype(folder_with(tmp_path, torch.float32, dtype="bfloat16")) == "bfloat16"


def test_auto_is_no_format() -> None:
    """vLLM would take another one on another device."""
    for given in ({}, {"dtype": "auto"}):
        arguments = engine_arguments("model", Generate(engine=given), 0, accelerated=True, dtype="float32")
        assert arguments["dtype"] == "float32"
    given = {"dtype": "half"}
    assert engine_arguments("model", Generate(engine=given), 0, accelerated=True, dtype="float32")["dtype"] == "half"


@pytest.mark.parametrize(
    ("settings", "devices"),
    [
        (Generate(), 1),
        (Generate(tensor_parallel=4), 4),
        (Generate(tensor_parallel=2, engine={"pipeline_parallel_size": 2}), 4),
        (Generate(engine={"pipeline_parallel_size": 2}), 2),
        (Generate(engine={"pipeline_parallel_size": "two"}), 1),
    ],
)
def test_an_engine_on_several_devices_spreads_by_processes_of_its_own(settings: Generate, devices: int) -> None:
    """In a placement group vLLM would take Ray, which refuses a bundle of several devices."""
    arguments = engine_arguments("model", settings, 0, accelerated=True, dtype="float32")
    assert arguments.get("distributed_executor_backend") == ("mp" if devices > 1 else None)
    assert VLLM.devices(settings) == devices


def test_another_way_to_spread_is_the_users() -> None:
    settings = Generate(tensor_parallel=2, engine={"distributed_executor_backend": "ray"})
    assert engine_arguments("model", settings, 0, True, None)["distributed_executor_backend"] == "ray"


def test_an_accelerated_engine_compiles_nothing_without_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is said before vLLM is imported, which reads it then; the model need not be there for that."""
    monkeypatch.setenv("CUDA_HOME", "/nowhere")
    name = "VLLM_USE_FLASHINFER_SAMPLER"
    for accelerated, said in ((False, None), (True, "0")):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
        with pytest.raises(Exception, match="nowhere"):
            VLLM.make("/nowhere", Generate(), 0, accelerated)
        assert os.environ.get(name) == said
