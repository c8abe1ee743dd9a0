"""What rounds learn from, as settings: one file a source, with what it owns, needs and refuses. How pairs come about is
in the room of the same name, `orchestrator/sources`."""

from collections.abc import Mapping, Sequence
from typing import Any

from orchestrator.config.sources.base import SourceSettings
from orchestrator.config.sources.dataset import Stages
from orchestrator.config.sources.gold import Gold
from orchestrator.config.sources.judge import SelfRewarding
from orchestrator.config.sources.sample import Sample
from orchestrator.config.sources.steps import Steps

KINDS: dict[str, type[SourceSettings]] = {kind.name(): kind for kind in (Sample, Gold, Stages, Steps, SelfRewarding)}
"""The sources that a job can name."""


def kind_of(recorded: Mapping[str, Any]) -> type[SourceSettings]:
    """The source that a recorded job names; the earliest records name none."""
    return KINDS[recorded.get("source", Sample.name())]


def kind_named(name: Any) -> type[SourceSettings] | None:
    """The source of this name, which may be any value of a file."""
    return KINDS.get(name) if isinstance(name, str) else None


def sections() -> dict[str, type[SourceSettings]]:
    """The sections of the job file that belong to a source."""
    return {kind.section: kind for kind in KINDS.values() if kind.section}


def listed(names: Sequence[str]) -> str:
    """Sources by name, such as "`source: sample`, `gold` or `judge`"."""
    told = [f"`source: {names[0]}`", *(f"`{name}`" for name in names[1:])]
    return " or ".join(filter(None, (", ".join(told[:-1]), told[-1])))


__all__ = [
    "KINDS",
    "Gold",
    "Sample",
    "SelfRewarding",
    "SourceSettings",
    "Stages",
    "Steps",
    "kind_named",
    "kind_of",
    "listed",
    "sections",
]
