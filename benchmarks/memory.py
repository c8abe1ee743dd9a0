"""Memory of training ranks: what real ones hold on CPU against the sums of orchestrator/driver/memory.py.

    python -m benchmarks.memory
    python -m benchmarks.memory --sizes

Each case starts its ranks as processes of their own, builds the trainer's engine for a small model with random weights,
does an update and the backward pass of a second one, and counts the bytes of all tensors that live then (`kept`), and
of what the forward pass saves for the backward pass (`activations`). `--sizes` prints what models of usual sizes come
to on usual GPUs instead: computed, and not tried on any.
"""

from __future__ import annotations

import argparse
import gc
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.measured import report as measured
from orchestrator.config import Generate, Train
from orchestrator.driver.fitting import Gpus, fit_engines
from orchestrator.driver.memory import GIB, rank_memory
from orchestrator.driver.rank_fitting import fit_ranks
from orchestrator.errors import BadInput
from orchestrator.models.sizes import from_config, size_of

CASES = [
    *({"zero": zero, "ranks": ranks, "precision": "bf16"} for zero in (0, 1, 2, 3) for ranks in (1, 2)),
    *({"zero": zero, "ranks": 2, "precision": "fp32"} for zero in (1, 3)),
]
_TOKENS = 256
# Vocabulary, width, layers, heads, heads of keys and values, width of the MLP.
MODELS: dict[str, tuple[int, int, int, int, int, int]] = {
    "135M (SmolLM2)": (49152, 576, 30, 9, 3, 1536),
    "1.5B (Qwen2.5)": (151936, 1536, 28, 12, 2, 8960),
    "7B (Mistral)": (32000, 4096, 32, 32, 8, 14336),
    "8B (Llama 3)": (128256, 4096, 32, 32, 8, 14336),
    "14B (Qwen2.5)": (152064, 5120, 48, 40, 8, 13824),
    "32B (Qwen2.5)": (152064, 5120, 64, 40, 8, 27648),
    "70B (Llama 3)": (128256, 8192, 80, 64, 8, 28672),
}
_TIED = ("135M (SmolLM2)", "1.5B (Qwen2.5)")
CLUSTERS: dict[str, list[Gpus]] = {
    "1 x 24 GB": [Gpus(1, 24 * GIB)],
    "1 x 80 GB": [Gpus(1, 80 * GIB)],
    "8 x 80 GB": [Gpus(8, 80 * GIB)],
    "8 x 141 GB": [Gpus(8, 141 * GIB)],
    "32 x 80 GB": [Gpus(8, 80 * GIB)] * 4,
}


# Measured


def make_model(folder: Path) -> None:
    """Some two million parameters in bfloat16, of which none is larger than the rest together."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        **{"vocab_size": 1024, "hidden_size": 192, "intermediate_size": 512, "num_hidden_layers": 4},
        **{"num_attention_heads": 6, "num_key_value_heads": 2, "max_position_embeddings": 2048},
        tie_word_embeddings=True,
    )
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)


def one_rank(cases: list[dict[str, Any]], rank: int, folder: Path) -> list[dict[str, int]]:
    """What this rank holds in each case, in bytes: `kept` and `activations`."""
    import torch

    from workers.training.rank import Trainer

    torch.set_num_threads(1)
    ranks = cases[0]["ranks"]
    trainer = Trainer(Train(**cases[0]), rank, ranks)
    trainer.connect(f"file://{folder / 'rendezvous'}")
    return [
        held(Train(**case, tokens_per_microbatch=_TOKENS), rank, folder / "model", trainer.device) for case in cases
    ]


def held(settings: Train, rank: int, model: Path, device: Any) -> dict[str, int]:
    """Of one case, in a process that is connected."""
    import numpy as np
    import torch

    from workers.numerics import batching, layout
    from workers.training.policy import build_policy

    before = living()
    engine = build_policy(settings, str(model), device, settings.num_ranks, lambda: None)
    draw = np.random.default_rng(rank)
    prompt, chosen, rejected = (draw.integers(0, 1000, length).astype(np.int32) for length in (56, 100, 100))
    trees = batching.pair_trees([batching.PairTokens("0", prompt, chosen, rejected)], [0], _TOKENS)
    batch = layout.lay_out(trees)
    saved: dict[int, int] = {}

    def save(tensor: Any) -> Any:
        saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    for _ in range(2):
        saved.clear()
        weights = {p.untyped_storage().data_ptr() for p in engine.parameters()}
        with torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor):
            loss = -engine(batch).sum() / _TOKENS
        activations = sum(size for place, size in saved.items() if place not in weights)
        engine.backward(loss, scale_wrt_gas=False)
        del loss
        kept = living(engine) - before
        engine.step()
    engine.destroy()
    return {"kept": kept, "activations": activations}


def living(engine: Any = None) -> int:
    """Bytes of all tensors that live in this process, each storage once."""
    import torch

    gc.collect()
    found = [thing for thing in gc.get_objects() if isinstance(thing, torch.Tensor)]
    found += [p.grad for p in (engine.parameters() if engine else ()) if p.grad is not None]
    plain = (tensor.untyped_storage() for tensor in found if tensor.layout == torch.strided)
    storages = {storage.data_ptr(): storage.nbytes() for storage in plain}
    return sum(storages.values())


def measure(cases: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The most that any rank holds in each of the cases, which have as many ranks, beside the sums."""
    with tempfile.TemporaryDirectory() as folder:
        make_model(Path(folder) / "model")
        words = [sys.executable, "-m", "benchmarks.memory", "--rank", json.dumps(cases), folder]
        ranks = [
            subprocess.Popen([*words, str(rank)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            for rank in range(cases[0]["ranks"])
        ]
        told = [(rank, *rank.communicate(timeout=1200)) for rank in ranks]
        if failed := [error for rank, _, error in told if rank.returncode]:
            raise RuntimeError(failed[0][-2000:])
        found = [json.loads(said.splitlines()[-1]) for _, said, _ in told]
        size = size_of(Path(folder) / "model")
    if size is None:
        raise RuntimeError("the model's configuration does not tell its size")
    for case, *ones in zip(cases, *found, strict=True):
        settings = Train(**case, tokens_per_microbatch=_TOKENS)
        need = rank_memory(size, settings, settings.num_ranks, settings.stage)
        sums = {"kept": need.kept, "activations": need.activations}
        most = {key: max(one[key] for one in ones) for key in sums}
        yield {key: {"bytes": most[key], "sum": sums[key], "factor": round(most[key] / sums[key], 3)} for key in sums}


# Computed


def sizes() -> Iterator[str]:
    """A table, in Markdown: what models come to on clusters, where everything is left to the machine."""
    yield "| model | GPUs | engines x GPU each | ranks, ZeRO | micro-batch | memory a rank |"
    yield "|---|---|---|---|---|---|"
    for name, (vocabulary, hidden, layers, heads, kv_heads, inner) in MODELS.items():
        size = from_config(
            {"vocab_size": vocabulary, "hidden_size": hidden, "num_hidden_layers": layers, "num_attention_heads": heads}
            | {"num_key_value_heads": kv_heads, "intermediate_size": inner, "max_position_embeddings": 8192}
            | {"tie_word_embeddings": name in _TIED}
        )
        for gpus, nodes in CLUSTERS.items():
            yield f"| {name} | {gpus} | {_engines(size, nodes)} | {_ranks(size, nodes)} |"


def _engines(size: Any, nodes: list[Gpus]) -> str:
    try:
        engines, spread = fit_engines(size, Generate(), 2, 0.92, nodes).values
    except BadInput:
        return "does not fit"
    return f"{engines} x {spread}"


def _ranks(size: Any, nodes: list[Gpus]) -> str:
    """As by default; where that does not fit, with the optimizer's state on the host."""
    for offload in (False, True):
        settings = Train(batch_pairs=64, offload_optimizer=offload)
        try:
            ranks, stage, tokens, checkpointing = fit_ranks(size, settings, nodes).values
        except BadInput:
            continue
        found = {"tokens_per_microbatch": tokens, "activation_checkpointing": bool(checkpointing)}
        need = rank_memory(size, settings.model_copy(update=found), ranks, stage).total
        words = f"{', `offload_optimizer`' if offload else ''} | {tokens}{', checkpointing' if checkpointing else ''}"
        return f"{ranks}, {stage}{words} | {need / GIB:.0f} GiB"
    return "does not fit | - | -"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--sizes", action="store_true", help="what models of usual sizes come to; nothing is measured")
    parser.add_argument("--zero", type=int, choices=range(4), help="only the cases of this stage")
    parser.add_argument("--rank", nargs=3, metavar=("CASE", "FOLDER", "RANK"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.rank:
        case, folder, rank = options.rank
        print(json.dumps(one_rank(json.loads(case), int(rank), Path(folder))))
        return
    if options.sizes:
        print("\n".join(sizes()))
        return
    figures: dict[str, Any] = {}
    for ranks in (1, 2):
        cases = [c for c in CASES if c["ranks"] == ranks and options.zero in (None, c["zero"])]
        names = [f"zero {case['zero']}, ranks {ranks}, {case['precision']}" for case in cases]
        figures |= dict(zip(names, measure(cases), strict=True))
    if options.json:
        print(json.dumps(measured("memory", {"tokens": _TOKENS, "zero": options.zero}, figures), indent=1))
        return
    for name, found in figures.items():
        print(f"{name:<24}" + "".join(f"  {key} {part['bytes']} ({part['factor']})" for key, part in found.items()))


if __name__ == "__main__":
    main()
