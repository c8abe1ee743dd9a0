"""Models for training and for scoring: loaded from Hugging Face folders, wrapped for packs, given to DeepSpeed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from orchestrator.config import Train
from workers.numerics import attention
from workers.numerics.logprobs import HeadScorer, PackScorer, disable_dropout
from workers.training.deepspeed_config import computes_in_autocast, deepspeed_config, inference_config
from workers.training.export import check_exportable, folder_dtype


class IncompleteModel(ValueError):
    """A folder's weights do not fill the model; the message names the folder and a weight."""


@contextmanager
def _seen(beat: Callable[[], None]) -> Iterator[None]:
    """Call `beat` for every parameter that any module is given in the meantime, so for each one that is loaded."""
    hook = register_module_parameter_registration_hook(lambda *_: beat())
    try:
        yield
    finally:
        hook.remove()


def load_model(folder: str, dtype: torch.dtype, beat: Callable[[], None] = lambda: None) -> nn.Module:
    """A causal language model from a Hugging Face folder, safetensors only, without dropout. `beat` is called for every
    weight that is loaded.

    Raises IncompleteModel when the folder lacks weights, which would otherwise be filled at random.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    disable_dropout(config)
    config.use_cache = False
    with _seen(beat):
        model, info = AutoModelForCausalLM.from_pretrained(
            folder,
            config=config,
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
        )
    if missing := sorted(info["missing_keys"]):
        raise IncompleteModel(
            f"{folder}: its weights lack {missing[0]} (and {len(missing) - 1} more); the checkpoint is incomplete, "
            "so take another one or write it again"
        )
    return model


def _place(settings: Train, scorer: PackScorer, device: torch.device, config: dict[str, Any]) -> PackScorer:
    """The scorer on its device; under ZeRO 3 sharded over the ranks on the way there, weight by weight."""
    if settings.zero < 3:
        scorer.to(device)
        return scorer
    import deepspeed
    from deepspeed.utils import set_z3_leaf_modules

    set_z3_leaf_modules(scorer, [HeadScorer])
    # Left to `initialize`, the whole model would go to each device before it is sharded.
    deepspeed.zero.Init(module=scorer, config_dict_or_path=config)
    for buffer in scorer.buffers():
        buffer.data = buffer.data.to(device)
    return scorer


def build_policy(
    settings: Train, folder: str, device: torch.device, ranks: int, chunk_logits: int, beat: Callable[[], None]
) -> Any:
    """The DeepSpeed engine around the policy that starts from `folder`, with a fresh optimizer. `beat` is called for
    every weight, and between what takes long.

    Raises IncompleteModel, UnsupportedModel or ExportError for a model that cannot be trained here.
    """
    import deepspeed

    autocast = computes_in_autocast(settings)
    wide = settings.precision == "fp32" or autocast
    exact = wide or folder_dtype(folder) == torch.float32
    model = load_model(folder, torch.float32 if exact else torch.bfloat16, beat)
    check_exportable(model, folder)
    masters: dict[str, Tensor] = {}
    if exact and not wide:
        masters = {name: parameter.data for name, parameter in model.named_parameters()}
        model = model.to(torch.bfloat16)
    if settings.activation_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    implementation = attention.pick(settings.attention, device)
    scorer = PackScorer(model, implementation, torch.bfloat16 if autocast else None, chunk_logits)
    config = deepspeed_config(settings, ranks, sum(p.numel() for p in model.parameters()))
    scorer = _place(settings, scorer, device, config)
    beat()
    engine = deepspeed.initialize(model=scorer, model_parameters=scorer.parameters(), config=config)[0]
    beat()
    _set_masters(model, masters, beat)
    return engine


def build_reference(
    settings: Train,
    folder: str,
    device: torch.device,
    ranks: int,
    chunk_logits: int,
    beat: Callable[[], None],
    policy: str,
) -> Any:
    """The reference model for scoring: whole on every rank, or sharded where training shards weights (ZeRO 3). It
    computes as the policy does that starts from the folder `policy`: the same weights give the same log-probabilities.
    """
    autocast = computes_in_autocast(settings)
    wide = settings.precision == "fp32" or autocast
    model = load_model(folder, torch.float32 if wide else torch.bfloat16, beat)
    if not wide and folder_dtype(policy) == torch.float32:
        model = model.to(torch.bfloat16)  # buffers too, as `build_policy` does: rotary frequencies are rounded by it
    implementation = attention.pick(settings.attention, device)
    scorer = PackScorer(model, implementation, torch.bfloat16 if autocast else None, chunk_logits)
    config = inference_config(settings, ranks, sum(p.numel() for p in model.parameters()))
    scorer = _place(settings, scorer, device, config)
    if settings.zero < 3:
        return scorer
    import deepspeed

    return deepspeed.initialize(model=scorer, config=config)[0]


def _set_masters(model: nn.Module, masters: dict[str, Tensor], beat: Callable[[], None]) -> None:
    """Give the optimizer the float32 weights of the checkpoint: DeepSpeed fills its master weights from
    the bfloat16 model, which would lose what earlier rounds added below bfloat16's precision."""
    if not masters:
        return
    from deepspeed.utils import safe_set_full_fp32_param

    for name, parameter in model.named_parameters():
        safe_set_full_fp32_param(parameter, masters.pop(name))
        beat()
