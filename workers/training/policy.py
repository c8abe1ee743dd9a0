"""Models for training and for scoring: loaded from Hugging Face folders, wrapped for packs, given to DeepSpeed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from orchestrator.config import Train
from orchestrator.records.adapters import AdapterPlan
from workers.numerics import attention
from workers.numerics.logprobs import HeadScorer, PackScorer
from workers.training import adapter
from workers.training.deepspeed_config import computes_in_autocast, deepspeed_config, inference_config
from workers.training.export import check_exportable, folder_dtype
from workers.training.loading import OneByOne, Weights, aliases, fill, load_model


def _place(
    settings: Train,
    scorer: PackScorer,
    weights: Weights,
    dtype: torch.dtype,
    device: torch.device,
    config: dict[str, Any],
    beat: Callable[[], None],
) -> PackScorer:
    """The scorer with its weights, on its device; under ZeRO 3 sharded over the ranks on the way there, one by one."""
    if settings.stage < 3:
        for _ in fill(scorer.model, weights, dtype, device, True, beat):
            pass
        scorer.to(device)
        return scorer
    import deepspeed
    from deepspeed.utils import set_z3_leaf_modules

    set_z3_leaf_modules(scorer, [HeadScorer])
    # Left to `initialize`, the whole model would go to each device before it is sharded. Rank 0's weights are
    # everybody's.
    made = fill(scorer.model, weights, dtype, device, dist.get_rank() == 0, beat)
    deepspeed.zero.Init(module=OneByOne(made), config_dict_or_path=config)
    deepspeed.zero.Init(module=scorer, config_dict_or_path=config)  # of which no weight is left to shard
    for buffer in scorer.buffers():
        buffer.data = buffer.data.to(device)
    return scorer


def _round_buffers(model: nn.Module) -> None:
    """Buffers in bfloat16, as a model that is converted has them: rotary frequencies are rounded by it."""
    for buffer in model.buffers():
        if buffer.is_floating_point():
            buffer.data = buffer.data.to(torch.bfloat16)


def build_policy(
    settings: Train,
    folder: str,
    device: torch.device,
    ranks: int,
    beat: Callable[[], None],
    adapted: AdapterPlan | None = None,
) -> Any:
    """The DeepSpeed engine around the policy that starts from `folder`, with a fresh optimizer. `beat` is called for
    every weight, and between what takes long. With `adapted` only that adapter is trained.

    Raises IncompleteModel, UnsupportedModel or ExportError for a model that cannot be trained here.
    """
    import deepspeed

    autocast = computes_in_autocast(settings)
    wide = settings.precision == "fp32" or autocast
    exact = wide or folder_dtype(folder) == torch.float32
    dtype, weights = torch.float32 if wide else torch.bfloat16, Weights(folder)
    model = load_model(folder, dtype, beat)
    check_exportable(model, folder)
    if adapted is not None:
        adapter.inject(model, adapted.lora)
        weights.hold(adapter.begin(model, adapted))
    if exact and not wide:
        _round_buffers(model)
    if settings.checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    implementation = attention.pick(settings.attention, device, settings.precision)
    scorer = PackScorer(
        model, implementation, torch.bfloat16 if autocast else None, settings.chunk_logits, settings.compiled
    )
    config = deepspeed_config(settings, ranks, sum(p.numel() for p in model.parameters() if p.requires_grad))
    scorer = _place(settings, scorer, weights, dtype, device, config, beat)
    beat()
    trained = [parameter for parameter in scorer.parameters() if parameter.requires_grad]
    engine = deepspeed.initialize(model=scorer, model_parameters=trained, config=config)[0]
    beat()
    if (exact or adapted) and not wide:
        _set_masters(model, weights, beat)
    return engine


def build_reference(
    settings: Train,
    folder: str,
    device: torch.device,
    ranks: int,
    beat: Callable[[], None],
    policy: str,
) -> Any:
    """The reference model for scoring: whole on every rank, or sharded where training shards weights (ZeRO 3). It
    computes as the policy does that starts from the folder `policy`: the same weights give the same log-probabilities.
    """
    autocast = computes_in_autocast(settings)
    wide = settings.precision == "fp32" or autocast
    dtype, weights = torch.float32 if wide else torch.bfloat16, Weights(folder)
    model = load_model(folder, dtype, beat)
    if not wide and folder_dtype(policy) == torch.float32:
        _round_buffers(model)  # as `build_policy` does
    implementation = attention.pick(settings.attention, device, settings.precision)
    scorer = PackScorer(
        model, implementation, torch.bfloat16 if autocast else None, settings.chunk_logits, settings.compiled
    )
    config = inference_config(settings, ranks, sum(p.numel() for p in model.parameters()))
    scorer = _place(settings, scorer, weights, dtype, device, config, beat)
    if settings.stage < 3:
        return scorer
    import deepspeed

    return deepspeed.initialize(model=scorer, config=config)[0]


def _set_masters(model: nn.Module, weights: Weights, beat: Callable[[], None]) -> None:
    """Give the optimizer the float32 weights of the checkpoint: DeepSpeed fills its master weights from
    the bfloat16 model, which would lose what earlier rounds added below bfloat16's precision."""
    from deepspeed.utils import safe_set_full_fp32_param

    for parameter, names in aliases(model).items():
        if parameter.requires_grad:
            safe_set_full_fp32_param(parameter, weights.read(weights.stored(names), torch.float32))
            beat()
