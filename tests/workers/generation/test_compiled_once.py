"""What vLLM compiled for one checkpoint serves the next: both have one key in its cache."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from orchestrator.config import Generate
from workers.generation.one_path import PATH, one_path
from workers.generation.vllm import engine_arguments

pytestmark = pytest.mark.real

BASE = Path(__file__).parents[3] / "jobs/demo/base"


def key(path: str) -> str:
    from vllm import EngineArgs

    arguments = engine_arguments(path, Generate(), 0, accelerated=False, dtype="float32")
    return str(EngineArgs(**arguments).create_engine_config().compute_hash())


@pytest.mark.full
def test_two_checkpoints_have_one_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
    keys = []
    for name in ("first", "second"):
        shutil.copytree(BASE, tmp_path / name)
        with one_path(str(tmp_path / name)):
            keys.append(key(PATH))
    assert keys[0] == keys[1]
    assert key(str(tmp_path / "first")) != key(str(tmp_path / "second")), "then one path is needed no more"


@pytest.mark.full
def test_a_model_that_has_mistrals_layout_too_is_served_as_it_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of both, vLLM would take `params.json`, and the weights of both."""
    from vllm import EngineArgs
    from vllm.model_executor.model_loader.default_loader import DefaultModelLoader

    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
    shutil.copytree(BASE, tmp_path / "both")
    shutil.copyfile(BASE / "model.safetensors", tmp_path / "both/consolidated.safetensors")
    (tmp_path / "both/params.json").write_text('{"dim": 8, "n_layers": 1, "n_heads": 1, "hidden_dim": 8}')
    with one_path(str(tmp_path / "both")):
        arguments = engine_arguments(PATH, Generate(), 0, accelerated=False, dtype="float32")
        config = EngineArgs(**arguments).create_engine_config()
        files = DefaultModelLoader(config.load_config)._prepare_weights(PATH, None, None, True, None)[1]
    assert config.model_config.get_hidden_size() == json.loads((BASE / "config.json").read_text())["hidden_size"]
    assert [Path(file).name for file in files] == ["model.safetensors"]
