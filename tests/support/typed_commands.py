"""The commands as a user types them."""

from __future__ import annotations

from typing import Any

import typer

from orchestrator.cli import app


def commands() -> dict[str, Any]:
    """Each command of `ratchet` by its name, as click knows it."""
    found: dict[str, Any] = getattr(typer.main.get_command(app), "commands")  # noqa: B009, of which its type says nothing
    return found
