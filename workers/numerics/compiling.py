"""Decoder layers through torch.compile: what lies between their products of matrices takes fewer passes over memory.

Attention stays apart (`attention.register`): a layer becomes what is before it and what is behind it.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from workers.numerics.attention import UnsupportedModel


def compile_layers(decoder: nn.Module, backend: Any = "inductor") -> None:
    """Have the layers of a transformers decoder compiled in place, when they are first called. All layers of a kind
    share what is compiled, and it suits every length.

    Numbers are rounded where the layers would round them uncompiled: what scores without gradients is compiled for
    itself, and would else be rounded otherwise than what trains.

    Raises UnsupportedModel for a decoder without layers that transformers can name.
    """
    from transformers.modeling_layers import GradientCheckpointingLayer

    layers = [module for module in decoder.modules() if isinstance(module, GradientCheckpointingLayer)]
    if not layers:
        raise UnsupportedModel(
            f"train.compile: the layers of {type(decoder).__name__} cannot be told from its other parts; set it to "
            "false"
        )
    options = {"emulate_precision_casts": True} if backend == "inductor" else None
    for layer in layers:
        layer.compile(backend=backend, dynamic=True, options=options)
