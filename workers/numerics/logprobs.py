"""Summed log-probabilities of a pack's segments under a causal language model. Imports torch alone.

The output head is applied only where a scored token is predicted, in chunks; where there are several, each is
computed again in the backward pass, so that memory stays flat in vocabulary x length. A chunk's logits are kept
in the model's number format, and their gradients take their place. Logits become float32 before the softmax, a few
rows at a time. The head is called as a module and never through its weight, which under ZeRO 3 is an empty shard
outside a forward.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from workers.numerics import attention, layout, limits
from workers.numerics.attention import UnsupportedModel
from workers.numerics.compiling import compile_layers
from workers.numerics.layout import Pack

CHUNK_LOGITS = 2**27
"""Most logits at once (256 MiB in bfloat16)."""
ROWS_LOGITS = {"cpu": 2**20, "cuda": 2**24}
"""Most of them in float32 at once, by device: on processors so few that they stay in the cache."""


class HeadScorer(nn.Module):
    """The output head as log-probabilities of given targets, in chunks.

    It is one module around the whole loop because under ZeRO 3 it must be marked as a leaf
    (`deepspeed.utils.set_z3_leaf_modules`): then its weight is gathered once a call. Gathered at every
    use of the head, ranks with different numbers of chunks would wait for each other forever.
    """

    def __init__(self, head: nn.Module, config: Any, chunk_logits: int) -> None:
        super().__init__()
        self.head = head
        self.config = config
        self.chunk = max(1, chunk_logits // config.vocab_size)

    def forward(self, hidden_ND: Tensor, targets_N: Tensor) -> Tensor:
        """Log-probability of each target given the hidden state that predicts it: [N] float32."""
        graded = torch.is_grad_enabled()
        # Nothing is kept of logits without gradients: then as many as stay in the cache.
        chunk = self.chunk if graded else min(self.chunk, 4 * _num_rows(hidden_ND.device, self.config.vocab_size))
        parts = list(zip(hidden_ND.split(chunk), targets_N.split(chunk), strict=True))
        if len(parts) == 1 or not graded:
            return torch.cat([self._logprobs(*part) for part in parts])
        return torch.cat([checkpoint(self._logprobs, *part, use_reentrant=False) for part in parts])

    def _logprobs(self, hidden_ND: Tensor, targets_N: Tensor) -> Tensor:
        found: Tensor = _TargetLogprobs.apply(self.head(hidden_ND), targets_N, self.config)
        return found


class _TargetLogprobs(torch.autograd.Function):
    """Log-probability of a target a row of logits: [N] float32. Only once differentiable: the gradients of the logits
    are written over them."""

    @staticmethod
    def forward(ctx: Any, logits_NV: Tensor, targets_N: Tensor, config: Any) -> Tensor:
        parts = []
        for rows in _few_rows(logits_NV):
            adjusted = adjust_logits(logits_NV[rows].float(), config)
            picked = adjusted.gather(1, targets_N[rows, None])[:, 0]
            parts.append(picked - adjusted.logsumexp(1))
        ctx.save_for_backward(logits_NV, targets_N)
        ctx.config = config
        return torch.cat(parts)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        logits_NV, targets_N = ctx.saved_tensors
        for rows in _few_rows(logits_NV):
            given = grads[0][rows, None].float()
            with torch.enable_grad():
                logits = logits_NV[rows].detach().float().requires_grad_()
                adjusted = adjust_logits(logits, ctx.config)
            plain = adjusted.detach()
            slope = torch.sub(plain, plain.logsumexp(1, keepdim=True)).exp_().mul_(-given)
            slope.scatter_add_(1, targets_N[rows, None], given)
            logits_NV[rows] = slope if adjusted is logits else torch.autograd.grad(adjusted, logits, slope)[0]
        return logits_NV, None, None


def _few_rows(logits_NV: Tensor) -> Iterator[slice]:
    size = _num_rows(logits_NV.device, logits_NV.shape[1])
    return (slice(start, start + size) for start in range(0, len(logits_NV), size))


def _num_rows(device: torch.device, vocabulary: int) -> int:
    return max(1, ROWS_LOGITS.get(device.type, 2**24) // vocabulary)


class PackScorer(nn.Module):
    """A causal language model whose forward takes a pack and returns a log-probability a segment.

    `model` is a transformers AutoModelForCausalLM; its attention is switched to `implementation`
    (a name from workers.numerics.attention). With `autocast` set, the model computes in that dtype while its
    weights stay as they are. `compiled` has its decoder layers compiled.
    """

    def __init__(
        self,
        model: nn.Module,
        implementation: str = attention.SDPA,
        autocast: torch.dtype | None = None,
        chunk_logits: int = CHUNK_LOGITS,
        compiled: bool = False,
    ) -> None:
        super().__init__()
        check_supported(model)
        attention.register()
        model.set_attn_implementation(implementation)
        # The model itself is no submodule, so that its head stands in one place of the module tree only.
        self._model = (model,)
        self.config = model.config.get_text_config()
        self.decoder = model.get_decoder()
        self.scorer = HeadScorer(model.get_output_embeddings(), self.config, chunk_logits)
        self.implementation = implementation
        self.autocast = autocast
        self.compiled = compiled
        if compiled:
            compile_layers(self.decoder)

    @property
    def model(self) -> nn.Module:
        """The transformers model around decoder and head."""
        return self._model[0]

    def forward(self, pack: Pack) -> Tensor:
        """Sum of the log-probabilities of each segment's scored tokens: [num_segments] float32."""
        limits.check_window(self.config, pack.longest)
        device = pack.token_ids.device
        pack = layout.pad(pack, attention.multiple(self.implementation, device, self.compiled))
        tree_layout = attention.layout_for(self.implementation, pack.spans, device)
        with torch.autocast(device.type, self.autocast or torch.bfloat16, enabled=self.autocast is not None):
            hidden = self.decoder(
                input_ids=pack.token_ids[None],
                position_ids=pack.position_ids[None],
                use_cache=False,
                tree_layout=tree_layout,
            ).last_hidden_state[0]
            logprobs = self.scorer(hidden.index_select(0, pack.predictors), pack.targets)
        return torch.zeros(pack.num_segments, device=device).index_add(0, pack.segments, logprobs)


def adjust_logits(logits: Tensor, config: Any) -> Tensor:
    """What some models do to their logits after the head: scaling (Granite, Cohere), soft caps (Gemma)."""
    if (divisor := getattr(config, "logits_scaling", None)) is not None:
        logits = logits / divisor
    if (factor := getattr(config, "logit_scale", None)) is not None:
        logits = logits * factor
    if (cap := getattr(config, "final_logit_softcapping", None)) is not None:
        logits = cap * torch.tanh(logits / cap)
    return logits


def check_supported(model: nn.Module) -> None:
    """Raise UnsupportedModel, naming the model and the cure, for a model that cannot be scored by packs."""
    name = type(model).__name__
    check_class(type(model))
    head = model.get_output_embeddings()
    if head is None or not isinstance(head, nn.Linear):
        raise UnsupportedModel(f"{name} has no linear output head; choose a causal language model that has one")
    limits.attention_window(model.config)


def check_class(model_class: type) -> None:
    """As `check_supported`, as far as the class of a model tells."""
    if not getattr(model_class, "_supports_attention_backend", False):
        raise UnsupportedModel(
            f"{model_class.__name__} does not take attention functions from outside, which tree batching needs; "
            "choose a model whose transformers class does (Llama, Qwen, Mistral and their like)"
        )
    if not getattr(model_class, "_supports_sdpa", False):
        raise UnsupportedModel(
            f"{model_class.__name__}: its attention is more than scaled products and a softmax (such as sinks), which "
            "tree batching does not support; choose another model (Llama, Qwen, Mistral and their like)"
        )


def disable_dropout(config: Any) -> None:
    """Set every dropout rate of a model's config to 0, and the noise of its routing, in the configs within it too,
    before the model is built: log-probabilities of policy and reference are compared, so both must be deterministic."""
    for name, value in vars(config).items():
        if hasattr(value, "to_dict"):
            disable_dropout(value)
        elif isinstance(value, float) and ("dropout" in name or "jitter" in name or name.endswith("pdrop")):
            setattr(config, name, 0.0)
