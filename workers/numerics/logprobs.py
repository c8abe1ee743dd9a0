"""Summed log-probabilities of a pack's segments under a causal language model. Imports torch alone.

The output head is applied only where a scored token is predicted, in chunks, and each chunk is
computed again in the backward pass, so that memory stays flat in vocabulary x length. Logits become
float32 before the softmax. The head is called as a module and never through its weight, which under
ZeRO 3 is an empty shard outside a forward.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from workers.numerics import attention
from workers.numerics.attention import UnsupportedModel
from workers.numerics.layout import Pack

CHUNK_LOGITS = 2**26
"""Most logits at once (256 MiB in float32)."""


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
        parts = list(zip(hidden_ND.split(self.chunk), targets_N.split(self.chunk), strict=True))
        if len(parts) == 1 or not torch.is_grad_enabled():
            return torch.cat([self._logprobs(*part) for part in parts])
        return torch.cat([checkpoint(self._logprobs, *part, use_reentrant=False) for part in parts])

    def _logprobs(self, hidden_ND: Tensor, targets_N: Tensor) -> Tensor:
        logits = adjust_logits(self.head(hidden_ND).float(), self.config)
        return -F.cross_entropy(logits, targets_N, reduction="none")


class PackScorer(nn.Module):
    """A causal language model whose forward takes a pack and returns a log-probability a segment.

    `model` is a transformers AutoModelForCausalLM; its attention is switched to `implementation`
    (a name from workers.numerics.attention). With `autocast` set, the model computes in that dtype while its
    weights stay as they are.
    """

    def __init__(
        self,
        model: nn.Module,
        implementation: str = attention.SDPA,
        autocast: torch.dtype | None = None,
        chunk_logits: int = CHUNK_LOGITS,
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

    @property
    def model(self) -> nn.Module:
        """The transformers model around decoder and head."""
        return self._model[0]

    def forward(self, pack: Pack) -> Tensor:
        """Sum of the log-probabilities of each segment's scored tokens: [num_segments] float32."""
        attention.check_window(self.config, pack.longest)
        device = pack.token_ids.device
        layout = attention.layout_for(self.implementation, pack.spans, device)
        with torch.autocast(device.type, self.autocast or torch.bfloat16, enabled=self.autocast is not None):
            hidden = self.decoder(
                input_ids=pack.token_ids[None],
                position_ids=pack.position_ids[None],
                use_cache=False,
                tree_layout=layout,
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
    attention.attention_window(model.config)


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
