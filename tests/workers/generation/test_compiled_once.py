"""What vLLM compiled for one checkpoint serves the next: both have one key in its cache."""

from __future__ import annotations

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
