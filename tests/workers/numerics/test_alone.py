"""The numerical files, their test on a GPU and the benchmark of training run where torch and transformers are all there
is of the project's requirements: a GPU machine is often tried with no more."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")

PROJECT = Path(__file__).parents[3]
WITHOUT = "import sys; sys.modules |= dict.fromkeys(('pydantic', 'ray', 'vllm', 'deepspeed', 'mlflow'))\n"


@pytest.mark.parametrize(
    "work",
    [
        pytest.param(
            "from benchmarks import training\n"
            "sys.argv = 'training --prompts 2 --repeats 1 --batch-pairs 4 --json'.split()\n"
            "training.main()",
            id="benchmark",
        ),
        pytest.param(
            "from tests.workers.numerics.test_gpu import *\n"
            "loss, gradients = step(make_model(device='cpu'), attention.SDPA, make_pairs(1, 2, 20), 100)\n"
            "assert loss > 0 and all(bool(g.isfinite().all()) for g in gradients.values())",
            id="gpu-test",
        ),
    ],
)
@pytest.mark.full
def test_needs_nothing_else(work: str) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", WITHOUT + work],
        cwd=PROJECT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(PROJECT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ran.returncode == 0, ran.stderr
