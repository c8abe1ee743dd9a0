"""How much memory of a device a training rank and an engine take, by part: sums over sizes, in bytes. Pure.

Of an adapter (`lora`) gradients, float32 weights, moments and update are those of its own parameters; the weights are
all there, frozen.

`python -m benchmarks.memory` holds the sums of a training rank against what a real one keeps, on CPU, and
`python -m benchmarks.peak` against the most that its process ever holds. P is the number
of parameters, N that of ranks, T that of tokens in a micro-batch.

A rank, by ZeRO stage, with `train.precision: bf16`:

| part | 0 | 1 | 2 | 3 |
|---|---|---|---|---|
| weights | 4 P | 2 P | 2 P | 2 P / N, and 2 of what is gathered at once |
| gradients | 4 P | 4 P | 4 P / N + buckets | 4 P / N + buckets |
| float32 weights | - | 4 P / N | 4 P / N | 4 P / N |
| moments of AdamW | 8 P | 8 P / N | 8 P / N | 8 P / N |
| an update, for a moment | 4 P | 4 P / N | 4 P / N | 4 P / N |

Stage 0 computes in autocast over float32 weights, of which it has a copy in bfloat16 for the length of a pass (2 P).
With `fp32` weights have 4 bytes, too, and stage 1 keeps 4 P / N of gradients. What `train.offload_optimizer`
moves to the host are the float32 weights, the moments and the update.

Activations of a layer for a token, in numbers of 2 bytes (4 in float32): about 16 of `hidden` (what norms, projections
and residual sums keep, rotated queries and keys among them) and 4 of the MLP's inner width. With
`train.activation_checkpointing` one `hidden` a layer is kept, and one whole layer at a time. Logits are computed in
chunks of `train.chunk_logits`, whose gradients take their place, and 2**24 of them at a time in float32, three times.
For a moment there are a layer's gradients, and a chunk as a product wants it.

An engine: its weights, the cache of keys and values, and 2 GiB for activations, graphs and the like.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from orchestrator.config import Train
from orchestrator.models.sizes import ModelSize

GIB = 2**30
_BUCKET = 2 * 10**8  # parameters; as workers.training.deepspeed_config has it
_GATHERED = 10**9  # parameters that ZeRO 3 holds at once, at most; likewise
_ROWS_LOGITS = 2**24  # as workers.numerics.logprobs has it
ENGINE_BESIDE = 2 * GIB
LIBRARIES = GIB // 2
"""Bytes of host memory that a rank's process takes before it has a model, and of what is loaded with its first use."""


@dataclass(frozen=True)
class RankMemory:
    """What a training rank holds on its device, in bytes."""

    weights: int
    gradients: int
    buckets: int
    """What gradients are reduced through; between updates stage 3 keeps them, stage 2 does not."""
    masters: int
    """Float32 weights beside those that compute."""
    moments: int
    update: int
    """What the optimizer takes for a moment."""
    activations: int
    """What the forward pass keeps for the backward pass."""
    logits: int
    passing: int
    """What the passes take for a moment."""

    @property
    def kept(self) -> int:
        """What it holds between two updates, gradients among them."""
        return self.weights + self.gradients + self.masters + self.moments

    @property
    def total(self) -> int:
        """The most at once: what a pass takes is gone when the update begins."""
        return self.kept + self.buckets + max(self.update, self.activations + self.logits + self.passing)

    def parts(self) -> Mapping[str, int]:
        """By name."""
        return vars(self)


def rank_memory(size: ModelSize, settings: Train, ranks: int, stage: int) -> RankMemory:
    """A rank of so many, with this ZeRO stage."""
    p, wide = size.parameters, settings.precision == "fp32"
    autocast = stage == 0 and not wide
    share = -(-p // ranks) if stage else p
    trained = size.trained
    own = -(-trained // ranks) if stage else trained
    number = 4 if wide or autocast else 2
    weights = number * (share + min(p - share, _GATHERED)) if stage == 3 else number * p
    buckets = (2 + settings.overlap) * number * min(trained, _BUCKET) if stage >= 2 else 0
    gradients = 4 * (trained if stage == 0 or (stage == 1 and not wide) else own)
    host = settings.offload_optimizer and stage > 0
    return RankMemory(
        weights=weights,
        gradients=gradients,
        buckets=buckets,
        masters=0 if stage == 0 or host else 4 * own,
        moments=0 if host else 8 * own,
        update=0 if host else 4 * own,
        **_passes(size, settings, 4 if wide else 2, 2 * p if autocast else 0),
    )


def _passes(size: ModelSize, settings: Train, number: int, copy: int) -> dict[str, int]:
    """What the passes over a micro-batch take, `copy` bytes of weights among them."""
    tokens, logits = settings.microbatch, settings.microbatch * size.vocabulary
    layer = tokens * (16 * size.hidden + 4 * size.inner) * number
    kept = layer + size.layers * tokens * size.hidden * number if settings.checkpointing else size.layers * layer
    chunk = number * min(settings.chunk_logits, logits)
    rows = 3 * 4 * min(_ROWS_LOGITS, logits)
    return {"activations": kept + copy, "logits": chunk + rows, "passing": layer + chunk}


def cache_bytes(size: ModelSize, number_bytes: int, devices: int) -> int:
    """Keys and values of one token on each of the devices that an engine is spread over; heads are not divided."""
    return 2 * size.layers * -(-size.kv_heads // devices) * size.head_dim * number_bytes


def engine_memory(size: ModelSize, number_bytes: int, devices: int, tokens: int) -> int:
    """What an engine holds on each of its devices with so many tokens in its cache."""
    weights = -(-size.parameters * number_bytes // devices)
    return weights + tokens * cache_bytes(size, number_bytes, devices) + ENGINE_BESIDE
