"""The most memory that a training rank's process ever holds on CPU, against the sum that decides how much it computes
at once (orchestrator/driver/memory.py).

    python -m benchmarks.peak
    python -m benchmarks.peak --cases smollm2-1024 smollm2-1024-checkpointing --json

Each case is a process of its own, of one thread: it loads its model, does two updates of one micro-batch each, which is
full, and looks at its memory every ten milliseconds; files that are mapped into it are not counted. The models are the
demo's and one of SmolLM2-135M's shape with random weights.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from benchmarks.measured import report
from benchmarks.peers import write_model
from orchestrator.config import Train
from orchestrator.driver.memory import LIBRARIES, rank_memory
from orchestrator.models.sizes import size_of

DEMO = Path(__file__).parents[1] / "jobs/demo/base"
CASES: dict[str, dict[str, Any]] = {
    "demo-4096": {},
    "demo-4096-checkpointing": {"activation_checkpointing": True},
    "smollm2-1024": {"tokens_per_microbatch": 1024},
    "smollm2-1024-checkpointing": {"tokens_per_microbatch": 1024, "activation_checkpointing": True},
    "smollm2-1024-fp32": {"tokens_per_microbatch": 1024, "precision": "fp32"},
    "smollm2-1024-zero2": {"tokens_per_microbatch": 1024, "zero": 2},
    "smollm2-4096": {},
    "smollm2-4096-checkpointing": {"activation_checkpointing": True},
}
"""Settings of `train`, by the model's name and what is said of them."""
_LOOK = 0.01  # seconds
_PAIR = 340  # tokens of a pair: a prompt, and sides of 35 % each


class Most:
    """The most memory that this process has held, as a thread sees it."""

    def __init__(self) -> None:
        from workers.supervision.resting import resident

        self._resident = resident
        self.bytes = resident()
        threading.Thread(target=self._look, daemon=True).start()

    def _look(self) -> None:
        while True:
            self.bytes = max(self.bytes, self._resident())
            time.sleep(_LOOK)


def one_case(settings: Train, model: Path, folder: Path) -> int:
    """The peak of this process, in bytes."""
    import numpy as np
    import torch

    from workers.numerics import batching, layout
    from workers.training.policy import build_policy
    from workers.training.rank import Trainer

    torch.set_num_threads(1)
    trainer = Trainer(settings, 0, 1)
    trainer.connect(f"file://{folder / f'rendezvous-{os.getpid()}'}")
    most, draw = Most(), np.random.default_rng(0)
    engine = build_policy(settings, str(model), trainer.device, 1, lambda: None)
    engine.train()  # without it nothing is computed again
    side, tokens = _PAIR * 35 // 100, settings.microbatch
    trees = []
    for row in range(tokens // _PAIR):
        parts = (draw.integers(2, 500, size).astype(np.int32) for size in (_PAIR - 2 * side, side, side))
        trees += batching.pair_trees([batching.PairTokens(str(row), *parts)], [0], tokens)
    for _ in range(2):
        engine.backward(-engine(layout.lay_out(trees)).sum() / tokens, scale_wrt_gas=False)
        engine.step()
    return most.bytes


def measure(name: str, folder: Path) -> dict[str, float]:
    """A case in a process of its own beside its sum. `folder` has the models by their names."""
    given, model = CASES[name], folder / name.partition("-")[0]
    words = [sys.executable, "-m", "benchmarks.peak", "--one", json.dumps(given), str(model), str(folder)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{name}: {done.stderr[-2000:]}")
    settings, size = Train(**given), size_of(model)
    assert size is not None
    held, total = int(done.stdout.splitlines()[-1]), rank_memory(size, settings, 1, settings.stage).total + LIBRARIES
    return {"bytes": held, "sum": total, "factor": round(held / total, 3)}


def write_models(folder: Path) -> None:
    """Both, by the names that cases begin with."""
    (folder / "demo").symlink_to(DEMO)
    write_model(folder / "smollm2")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        settings, model, folder = options.one
        print(one_case(Train(**json.loads(settings)), Path(model), Path(folder)))
        return
    with tempfile.TemporaryDirectory() as folder:
        write_models(Path(folder))
        found = {name: measure(name, Path(folder)) for name in options.cases}
    if options.json:
        print(json.dumps(report("peak", {"cases": options.cases}, found)))
        return
    for name, row in found.items():
        print(f"{name:28}" + "".join(f"  {key} {value}" for key, value in row.items()))


if __name__ == "__main__":
    main()
