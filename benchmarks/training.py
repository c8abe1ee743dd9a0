"""Training steps on trees of completions against padded pairs, in one process, on the same pairs.

    python -m benchmarks.training --model demo
    python -m benchmarks.training --model 1b --device cuda --prompt-tokens 200 --completion-tokens 300 --json

Three ways of training once on all pairs take turns, several times over, and the medians are compared:

- padded: random pairs, both sides padded to the longest of the micro-batch. The attention runs plain
  causal (padding stands at the end, so it needs no mask) and the output head sees completion
  positions only, in chunks: what is measured is padding and repetition, not a slow baseline.
- trees, order pairs: the same random batches, laid out as trees.
- trees, order prompts: a prompt's pairs share a batch.

The pairs are made up, in the shape of IRPO's: every prompt has N samples of log-normal length, a
random part of them correct, and K pairs zipped with wrapping. Reference log-probabilities count as
cached in all three. Of the heavy packages it imports torch and transformers alone.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.measured import report as measured
from workers.numerics import attention, batching, layout
from workers.numerics.batching import PairTokens
from workers.numerics.logprobs import PackScorer
from workers.numerics.losses import PairLogprobs, preference_loss_sum
from workers.numerics.step import BatchTotals, torch_step

MODELS: dict[str, dict[str, int]] = {
    "demo": {"vocab": 332, "hidden": 128, "layers": 2, "heads": 4, "kv_heads": 4, "ffn": 384},
    "135m": {"vocab": 49152, "hidden": 576, "layers": 30, "heads": 9, "kv_heads": 3, "ffn": 1536},
    "1b": {"vocab": 128256, "hidden": 2048, "layers": 16, "heads": 32, "kv_heads": 8, "ffn": 8192},
}


@dataclass(frozen=True)
class Loss:
    """IRPO's, with what of `RoundLoss` the numerical files read: that one needs pydantic."""

    beta: float = 0.1
    dpo: float = 1.0
    nll: float = 1.0
    form: str = "sigmoid"
    nll_scope: str = "response"
    nll_normalisation: str = "sequence"


LOSS: Any = Loss()


def make_pairs(options: argparse.Namespace, vocab: int) -> list[PairTokens]:
    rng = np.random.default_rng(options.seed)

    def ids(mean: float, spread: float) -> np.ndarray:
        size = max(2, round(mean * float(rng.lognormal(-(spread**2) / 2, spread))))
        return rng.integers(0, vocab, size).astype(np.int32)

    pairs = []
    for p in range(options.prompts):
        prompt = ids(options.prompt_tokens, 0.2)
        samples = [ids(options.completion_tokens, options.spread) for _ in range(options.samples)]
        cut = int(rng.integers(1, options.samples))
        winners, losers = samples[:cut], samples[cut:]
        for k in range(options.pairs_per_prompt):
            pair = (prompt, winners[k % len(winners)], losers[k % len(losers)])
            pairs.append(PairTokens(f"{p}-{k}", *pair))
    return pairs


def make_model(options: argparse.Namespace) -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    size = MODELS[options.model]
    config = LlamaConfig(
        vocab_size=size["vocab"],
        hidden_size=size["hidden"],
        intermediate_size=size["ffn"],
        num_hidden_layers=size["layers"],
        num_attention_heads=size["heads"],
        num_key_value_heads=size["kv_heads"],
        max_position_embeddings=32768,
        tie_word_embeddings=True,
        use_cache=False,
    )
    torch.manual_seed(options.seed)
    dtype = torch.bfloat16 if options.dtype == "bfloat16" else torch.float32
    return LlamaForCausalLM(config).to(options.device, dtype)


class PaddedScorer(nn.Module):
    """The baseline: whole sequences padded at the end, through the same output head in chunks."""

    def __init__(self, scorer: PackScorer) -> None:
        super().__init__()
        self.scorer = scorer

    def forward(self, sequences: list[tuple[np.ndarray, np.ndarray]]) -> Tensor:
        """Summed log-probability of each (prompt, completion): [number of sequences]."""
        device = next(self.parameters()).device
        width = max(len(p) + len(c) for p, c in sequences)
        ids = np.zeros((len(sequences), width), dtype=np.int64)
        rows, columns, targets = [], [], []
        for row, (prompt, completion) in enumerate(sequences):
            stop = len(prompt) + len(completion)
            ids[row, :stop] = np.concatenate([prompt, completion])
            rows += [row] * len(completion)
            columns += range(len(prompt) - 1, stop - 1)
            targets += completion.tolist()
        model = self.scorer.model
        model.set_attn_implementation("sdpa")
        hidden = model.get_decoder()(input_ids=torch.from_numpy(ids).to(device), use_cache=False)[0]
        index = torch.tensor(rows, device=device)
        predicted = hidden.flatten(0, 1).index_select(0, index * width + torch.tensor(columns, device=device))
        logprobs = self.scorer.scorer(predicted, torch.tensor(targets, device=device))
        return torch.zeros(len(sequences), device=device).index_add(0, index, logprobs)


def padded_micro_batches(pairs: list[PairTokens], rows: list[int], budget: int) -> list[list[int]]:
    """Pairs in order, as many at once as stay within the budget with padding; at least one."""
    groups: list[list[int]] = []
    for row in rows:
        if groups and batching.padded_tokens(pairs, [*groups[-1], row]) <= budget:
            groups[-1].append(row)
        else:
            groups.append([row])
    return groups


def padded_step(
    model: PaddedScorer,
    optimizer: torch.optim.Optimizer,
    pairs: list[PairTokens],
    rows: list[int],
    budget: int,
) -> tuple[float, int]:
    """A step on padded pairs; returns the loss's sum and the tokens that were processed."""
    optimizer.zero_grad(set_to_none=True)
    total, tokens = 0.0, 0
    for group in padded_micro_batches(pairs, rows, budget):
        sides = [[(pairs[r].prompt, getattr(pairs[r], side)) for r in group] for side in ("chosen", "rejected")]
        chosen, rejected = model(sides[0] + sides[1]).chunk(2)
        lengths = torch.tensor([len(pairs[r].chosen) for r in group], device=chosen.device)
        zeros = torch.zeros_like(chosen).detach()
        parts = PairLogprobs(chosen, rejected, zeros, zeros, lengths)
        loss = preference_loss_sum(parts, LOSS, len(rows), 1).loss
        (loss / len(rows)).backward()
        total += loss.item()
        tokens += batching.padded_tokens(pairs, group)
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return total, tokens


def tree_step(
    model: PackScorer,
    optimizer: torch.optim.Optimizer,
    pairs: list[PairTokens],
    rows: list[int],
    budget: int,
) -> tuple[float, int]:
    """A step on trees; returns the loss's sum and the tokens that were processed."""
    device = next(model.parameters()).device
    model.model.set_attn_implementation(model.implementation)
    (share,) = batching.divide_batch(pairs, rows, budget, 1)
    batches = [layout.micro_batch(trees).to(device) for trees in share]
    references = [torch.zeros(len(batch.keys)) for batch in batches]
    totals = BatchTotals(len(rows), 1)
    sums, _ = torch_step(
        model,
        optimizer,
        zip(batches, references, strict=True),
        LOSS,
        totals,
        max_grad_norm=1.0,
    )
    return sums.values[0].item(), sum(batch.pack.num_tokens for batch in batches)


def timed_pass(step: Callable[[list[int]], tuple[float, int]], batches: list[list[int]], cuda: bool) -> dict[str, Any]:
    """Train once on all batches: seconds, loss summed over pairs, processed tokens, peak memory."""
    if cuda:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    started = time.perf_counter()
    results = [step(rows) for rows in batches]
    if cuda:
        torch.cuda.synchronize()
    seconds = time.perf_counter() - started
    peak = torch.cuda.max_memory_allocated() / 2**30 if cuda else None
    return {
        "seconds": seconds,
        "loss": sum(loss for loss, _ in results),
        "tokens": sum(tokens for _, tokens in results),
        "peak_gib": peak,
    }


def measure(options: argparse.Namespace) -> dict[str, Any]:
    vocab = MODELS[options.model]["vocab"]
    pairs = make_pairs(options, vocab)
    model = make_model(options)
    precision = "bf16" if options.dtype == "bfloat16" else "fp32"
    kernel = attention.pick(options.attention, options.device, precision)
    trees = PackScorer(model, kernel, compiled=options.compile)
    padded = PaddedScorer(trees)
    # Rate 0: every pass computes on the same weights, so that their losses can be compared.
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0, fused=True)
    by_pairs, by_prompts = (
        batching.epoch_batches(pairs, options.seed, 0, options.batch_pairs, order) for order in ("pairs", "prompts")
    )
    budget = options.tokens_per_microbatch
    ways: dict[str, tuple[Callable[[list[int]], tuple[float, int]], list[list[int]]]] = {
        "padded": (lambda rows: padded_step(padded, optimizer, pairs, rows, budget), by_pairs),
        "trees, order pairs": (lambda rows: tree_step(trees, optimizer, pairs, rows, budget), by_pairs),
        "trees, order prompts": (lambda rows: tree_step(trees, optimizer, pairs, rows, budget), by_prompts),
    }
    passes: dict[str, list[dict[str, Any]]] = {name: [] for name in ways}
    for repeat in range(options.repeats + 1):
        for name, (step, batches) in ways.items():
            result = timed_pass(step, batches, options.device == "cuda")
            # The first round of passes warms up allocators and compilers.
            if repeat:
                passes[name].append(result)
    rows = {}
    for name, results in passes.items():
        seconds = statistics.median(r["seconds"] for r in results)
        last = results[-1]
        rows[name] = {
            "seconds": seconds,
            "fastest": min(r["seconds"] for r in results),
            "slowest": max(r["seconds"] for r in results),
            "pairs_per_second": len(pairs) / seconds,
            "processed_tokens": last["tokens"],
            "mean_loss": last["loss"] / len(pairs),
            "peak_gib": last["peak_gib"],
        }
    return {
        "options": vars(options),
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name() if options.device == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "pairs": len(pairs),
        "parameters": sum(p.numel() for p in model.parameters()),
        "results": rows,
        "speedup": {name: rows["padded"]["seconds"] / row["seconds"] for name, row in rows.items()},
    }


def reported(report: dict[str, Any]) -> dict[str, Any]:
    """The report in the form that benchmarks share."""
    settings = {name: value for name, value in report["options"].items() if name != "json"}
    settings |= {"device": report["device"], "threads": report["threads"]}
    figures = {name: report[name] for name in ("pairs", "parameters", "speedup", "results")}
    return measured("training", settings, figures)


def table(report: dict[str, Any]) -> str:
    options = report["options"]
    lines = [
        f"{report['pairs']} pairs of {options['prompts']} prompts, {report['parameters'] / 1e6:.1f}M parameters",
        f"{report['device']}, {options['dtype']}, torch {report['torch']}, median of {options['repeats']} passes",
        f"{'':22}{'seconds':>9}{'(range)':>16}{'pairs/s':>9}{'tokens':>9}{'GiB':>7}{'loss':>10}{'speed':>8}",
    ]
    for name, row in report["results"].items():
        span = f"{row['fastest']:.2f}-{row['slowest']:.2f}"
        peak = "-" if row["peak_gib"] is None else f"{row['peak_gib']:.1f}"
        lines.append(
            f"{name:22}{row['seconds']:9.2f}{span:>16}{row['pairs_per_second']:9.1f}{row['processed_tokens']:9d}"
            f"{peak:>7}{row['mean_loss']:10.5f}{report['speedup'][name]:7.2f}x"
        )
    return "\n".join(lines)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=MODELS, default="demo")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], help="default: bfloat16 on cuda")
    parser.add_argument("--attention", choices=["auto", "sdpa", "matmul", "flex", "varlen"], default="auto")
    parser.add_argument("--compile", action="store_true", help="the model's layers, on all sides")
    parser.add_argument("--prompts", type=int, default=24)
    parser.add_argument("--pairs-per-prompt", type=int, default=4, help="K")
    parser.add_argument("--samples", type=int, default=8, help="N, distinct completions a prompt")
    parser.add_argument("--prompt-tokens", type=int, default=33, help="mean")
    parser.add_argument("--completion-tokens", type=int, default=21, help="mean")
    parser.add_argument("--spread", type=float, default=0.4, help="log-normal sigma of a completion's length")
    parser.add_argument("--batch-pairs", type=int, default=32)
    parser.add_argument("--tokens-per-microbatch", type=int, default=4096)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    options = parser.parse_args(arguments)
    options.dtype = options.dtype or ("bfloat16" if options.device == "cuda" else "float32")
    return options


def main() -> None:
    options = parse()
    report = measure(options)
    print(json.dumps(reported(report)) if options.json else table(report))


if __name__ == "__main__":
    main()
