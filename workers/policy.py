"""Models for training and for scoring: loaded from Hugging Face folders, wrapped for packs, given to DeepSpeed."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from orchestrator.config import Train
from workers import attention
from workers.deepspeed_config import computes_in_autocast, deepspeed_config, inference_config
from workers.export import check_exportable, folder_dtype
from workers.logprobs import HeadScorer, PackScorer, disable_dropout


class IncompleteModel(ValueError):
    """A folder's weights do not fill the model; the message names the folder and a weight."""


def load_model(folder: str, dtype: torch.dtype) -> nn.Module:
    """A causal language model from a Hugging Face folder, safetensors only, without dropout.

    Raises IncompleteModel when the folder lacks weights, which would otherwise be filled at random.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    disable_dropout(config)
    config.use_cache = False
    model, info = AutoModelForCausalLM.from_pretrained(
        folder,
        config=config,
        dtype=dtype,
        use_safetensors=True,
        local_files_only=True,
        output_loading_info=True,
    )
    if missing := sorted(info["missing_keys"]):
        raise IncompleteModel(
            f"{folder}: its weights lack {missing[0]} (and {len(missing) - 1} more); the checkpoint is incomplete, "
            "so take another one or write it again"
        )
    return model


def wrap(
    settings: Train, model: nn.Module, device: torch.device, chunk_logits: int, autocast: torch.dtype | None = None
) -> PackScorer:
    """The model as a scorer of packs on a device, ready for DeepSpeed."""
    implementation = attention.pick(settings.attention, device)
    scorer = PackScorer(model, implementation, autocast, chunk_logits).to(device)
    if settings.zero == 3:
        from deepspeed.utils import set_z3_leaf_modules

        set_z3_leaf_modules(scorer, [HeadScorer])
    return scorer


def build_policy(settings: Train, folder: str, device: torch.device, ranks: int, chunk_logits: int) -> Any:
    """The DeepSpeed engine around the policy that starts from `folder`, with a fresh optimizer.

    Raises IncompleteModel, UnsupportedModel or ExportError for a model that cannot be trained here.
    """
    import deepspeed

    autocast = computes_in_autocast(settings)
    wide = settings.precision == "fp32" or autocast
    exact = wide or folder_dtype(folder) == torch.float32
    model = load_model(folder, torch.float32 if exact else torch.bfloat16)
    check_exportable(model, folder)
    masters: dict[str, Tensor] = {}
    if exact and not wide:
        masters = {name: parameter.data for name, parameter in model.named_parameters()}
        model = model.to(torch.bfloat16)
    if settings.activation_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    scorer = wrap(settings, model, device, chunk_logits, torch.bfloat16 if autocast else None)
    config = deepspeed_config(settings, ranks, sum(p.numel() for p in model.parameters()))
    engine = deepspeed.initialize(model=scorer, model_parameters=scorer.parameters(), config=config)[0]
    _set_masters(model, masters)
    return engine


def build_reference(settings: Train, folder: str, device: torch.device, ranks: int, chunk_logits: int) -> Any:
    """The reference model for scoring: whole on every rank, or sharded where training shards weights (ZeRO 3)."""
    model = load_model(folder, torch.float32 if settings.precision == "fp32" else torch.bfloat16)
    scorer = wrap(settings, model, device, chunk_logits)
    if settings.zero < 3:
        return scorer
    import deepspeed

    config = inference_config(settings, ranks, sum(p.numel() for p in model.parameters()))
    return deepspeed.initialize(model=scorer, config=config)[0]


def _set_masters(model: nn.Module, masters: dict[str, Tensor]) -> None:
    """Give the optimizer the float32 weights of the checkpoint: DeepSpeed fills its master weights from
    the bfloat16 model, which would lose what earlier rounds added below bfloat16's precision."""
    if not masters:
        return
    from deepspeed.utils import safe_set_full_fp32_param

    for name, parameter in model.named_parameters():
        safe_set_full_fp32_param(parameter, masters.pop(name))
