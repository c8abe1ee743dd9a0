"""How much memory two ranks take to load a model that they share out (ZeRO 3)."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
if importlib.util.find_spec("deepspeed") is None:
    pytest.skip("DeepSpeed is not installed", allow_module_level=True)

from transformers import LlamaConfig, LlamaForCausalLM  # noqa: E402

from tests.support.real import PROJECT  # noqa: E402

pytestmark = [pytest.mark.real, pytest.mark.full]

RANK = """
import json, sys
from pathlib import Path
from orchestrator.config import Train
from workers.training.rank import Trainer
from workers.training.policy import build_reference
import transformers.models.llama.modeling_llama

def status(key):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key + ":"))

rank, folder, file = int(sys.argv[1]), sys.argv[2], sys.argv[3]
trainer = Trainer(Train(precision="fp32", zero=3, ranks=2), rank, 2)
trainer.connect(f"file://{file}")
Path("/proc/self/clear_refs").write_text("5")
before = status("VmRSS")
engine = build_reference(trainer.settings, folder, trainer.device, 2, 2**26, trainer.beat, policy=folder)
print(json.dumps(status("VmHWM") - before))
"""
LARGEST = 1.2
"""Of the model's bytes: half is a rank's own part, and the largest weight is a sixth; 0.6 to 0.9 were measured with
what the allocator keeps. Loaded whole, and then shared out, it was 1.5."""


def test_no_rank_holds_the_whole_model(tmp_path: Path) -> None:
    config = LlamaConfig(
        vocab_size=8192,
        hidden_size=512,
        intermediate_size=1536,
        num_hidden_layers=7,
        num_attention_heads=8,
        num_key_value_heads=4,
        tie_word_embeddings=True,
    )
    folder = tmp_path / "model"
    LlamaForCausalLM(config).save_pretrained(folder)
    size = (folder / "model.safetensors").stat().st_size
    assert size > 10**8
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", RANK, str(rank), str(folder), str(tmp_path / "meet")],
            cwd=PROJECT,
            env=os.environ | {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    peaks = [json.loads(rank.communicate(timeout=600)[0].splitlines()[-1]) / size for rank in ranks]
    assert all(0.3 < peak < LARGEST for peak in peaks), peaks
