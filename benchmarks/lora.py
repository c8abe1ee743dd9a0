"""Training of an adapter beside training of all weights: memory between two updates, the sum that a run is fitted by,
the most that the process ever held, a saved state's bytes, and tokens a CPU second. Each in a process of its own, on
CPU, with one rank of one thread.

    python -m benchmarks.lora
    python -m benchmarks.lora --ranks-of-adapter 8 64 --precision bf16 --json
    python -m benchmarks.lora --model jobs/smollm2/model --ranks-of-adapter 16

Without `--model` the model has some 20 million parameters and random weights; what is trained on is made up.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.measured import report
from benchmarks.memory import living
from orchestrator.config import Lora, Train
from orchestrator.driver.memory import rank_memory
from orchestrator.models.sizes import size_trained
from orchestrator.records.adapters import AdapterPlan

_PAIRS, _PROMPT, _SIDE = 8, 60, 100  # tokens
_UPDATES = 5


def make_model(folder: Path) -> None:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        **{"vocab_size": 2048, "hidden_size": 384, "intermediate_size": 1152, "num_hidden_layers": 10},
        **{"num_attention_heads": 6, "num_key_value_heads": 6, "max_position_embeddings": 2048},
        tie_word_embeddings=True,
    )
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)


def one_case(rank: int, settings: Train, model: Path, folder: Path) -> dict[str, float]:
    """Of an adapter of this rank, or with 0 of all weights. What it writes is in `folder`. Memory in bytes."""
    import numpy as np
    import torch
    from transformers import AutoConfig

    from workers.numerics import batching, layout
    from workers.training import pieces
    from workers.training.policy import build_policy
    from workers.training.rank import Trainer
    from workers.training.shards import Shard

    torch.set_num_threads(1)
    trainer = Trainer(settings, 0, 1)
    trainer.connect(f"file://{folder / f'rendezvous-{os.getpid()}'}")
    adapter = AdapterPlan(Lora(rank=rank, alpha=2 * rank), seed=1) if rank else None
    before = living()
    engine = build_policy(settings, str(model), trainer.device, 1, lambda: None, adapter)
    engine.train()
    draw, seconds, kept = np.random.default_rng(0), [], 0
    words = AutoConfig.from_pretrained(model).vocab_size
    trees = []
    for row in range(_PAIRS):
        parts = (draw.integers(0, words, size).astype(np.int32) for size in (_PROMPT, _SIDE, _SIDE))
        trees += batching.pair_trees([batching.PairTokens(str(row), *parts)], [0], settings.microbatch)
    for _ in range(_UPDATES):
        started = time.process_time()
        engine.backward(-engine(layout.lay_out(trees)).sum() / _SIDE, scale_wrt_gas=False)
        kept = living(engine) - before
        engine.step()
        seconds.append(time.process_time() - started)
    states = folder / f"states-{rank}"
    states.mkdir()
    pieces.write(Shard(engine), states, 0, 1, lambda: None)
    return {
        "kept": kept,
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "state_bytes": sum(file.stat().st_size for file in states.iterdir()),
        "tokens_per_cpu_second": _PAIRS * (_PROMPT + 2 * _SIDE) / statistics.median(seconds[1:]),
    }


def measure(rank: int, settings: dict[str, Any], model: Path, folder: Path) -> dict[str, float]:
    """A case in a process of its own beside its sum."""
    words = [sys.executable, "-m", "benchmarks.lora", "--one", str(rank), json.dumps(settings), str(model), str(folder)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{rank}: {done.stderr[-2000:]}")
    size, train = size_trained(model, Lora(rank=rank) if rank else None), Train(**settings)
    assert size is not None
    need = rank_memory(size, train, 1, train.stage).kept
    return json.loads(done.stdout.splitlines()[-1]) | {"sum": need, "trained": size.trained}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="folder of a causal language model")
    parser.add_argument("--ranks-of-adapter", type=int, nargs="+", default=[8, 64])
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--one", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        rank, settings, *folders = options.one
        print(json.dumps(one_case(int(rank), Train(**json.loads(settings)), *map(Path, folders))))
        return
    given = {"precision": options.precision, "learning_rate": 1e-4}
    with tempfile.TemporaryDirectory() as folder:
        model = options.model or Path(folder) / "model"
        if not options.model:
            make_model(model)
        ranks = [0, *options.ranks_of_adapter]
        found = {f"rank {rank}" if rank else "all weights": measure(rank, given, model, Path(folder)) for rank in ranks}
    if options.json:
        print(json.dumps(report("lora", given | {"model": str(options.model or "random")}, found), indent=1))
        return
    for name, row in found.items():
        print(f"{name:12}" + "".join(f"  {key} {value:,.0f}" for key, value in row.items()))


if __name__ == "__main__":
    main()
