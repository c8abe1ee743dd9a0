"""How long an engine may take to start: a large model takes long to read. Ranks need no such limit, since each weight
that they have loaded is progress."""

from __future__ import annotations

from pathlib import Path

from orchestrator.config import Generate
from orchestrator.records.model_folder import weight_files

BYTES_A_SECOND = 50e6
"""Of a slow folder that several nodes read from at once."""
START_SECONDS = 1800.0
"""What an engine may take at least where `generate.start_timeout` is null."""


def weight_bytes(model: str | Path) -> int:
    """Bytes of the weights in a model's folder; 0 where there are none."""
    return sum(file.stat().st_size for file in weight_files(Path(model)) if file.exists())


def reading_seconds(model: str | Path) -> float:
    """How long slow storage takes over a model's weights."""
    return weight_bytes(model) / BYTES_A_SECOND


def start_limit(settings: Generate, model: str | Path) -> float:
    """Seconds that an engine may take to load a model."""
    return settings.start_timeout or max(START_SECONDS, reading_seconds(model))
