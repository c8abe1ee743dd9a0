"""Low-rank adapters: what a training is told of one, and where a checkpoint keeps it.

    rounds/01/checkpoint/                  merged weights: what engines serve, and later rounds start from
    rounds/01/checkpoint/adapter/          the adapter by which they differ from its base, as peft reads it
        adapter_model.safetensors          A and B of each layer, float32
        adapter_config.json                rank, alpha and layers, and no path
        base.json                          sha256 of each file of the base

It stands in a folder of its own, where no library takes the checkpoint for an adapter.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from orchestrator.config import Lora

FOLDER = "adapter"
WEIGHTS, CONFIG, BASE = "adapter_model.safetensors", "adapter_config.json", "base.json"


@dataclass(frozen=True, slots=True)
class AdapterPlan:
    """An adapter that is to be trained."""

    lora: Lora
    seed: int
    """Of the values that a new one begins with."""
    start: str | None = None
    """Absolute folder of the adapter that it goes on from; None begins a new one, which changes nothing at first."""
    base: dict[str, str] = field(default_factory=dict)
    """sha256 of each file of the model that it is an adapter to."""
