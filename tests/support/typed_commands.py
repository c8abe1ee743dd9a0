"""The commands as a user types them."""

from __future__ import annotations

from typing import Any

from orchestrator.cli import command


def commands() -> dict[str, Any]:
    """Each command of `ratchet` by its name, as click knows it."""
    found: dict[str, Any] = command().commands
    return found
