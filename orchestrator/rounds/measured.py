"""What is found out of a model besides its evaluation, while its engines are there. It is told, and decides nothing."""

from __future__ import annotations

from orchestrator.rounds import drift, harness, repeated
from orchestrator.rounds.context import Context, Model


def measure(context: Context, model: Model, folder: str) -> None:
    """The further steps of a folder that the job wants."""
    repeated.answer(context, model, folder)
    drift.measure(context, model, folder)
    harness.measure(context, model, folder)
