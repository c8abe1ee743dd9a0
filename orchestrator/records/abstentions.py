"""Verdicts that say nothing, counted by cause (records.Cause), for facts and for people. Pure, and quick to load."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

WORDS = {
    "truncated": "truncated",
    "unreadable": "unreadable",
    "failed": "that a grader failed on",
    "gold": "without a gold answer that a grader reads",
}
"""What there are so many of, by cause."""


def causes(facts: Mapping[str, Any] | None) -> dict[str, int]:
    """How many verdicts are ungradable by cause, from facts that count them; a cause that none has is left out."""
    return {cause: int(facts[cause]) for cause in WORDS if facts and facts.get(cause)}


def abstained(facts: Mapping[str, Any] | None) -> str:
    """The same for people, such as "3 truncated, 2 unreadable"; empty where there are none, or where it is not known,
    as in facts of graders of version 1."""
    return ", ".join(f"{count:,} {WORDS[cause]}" for cause, count in causes(facts).items())


def graders_version(facts: Mapping[str, Any]) -> int:
    """Which version of the graders a shard, a step or an evaluation is by, as its facts have it."""
    version: int = facts.get("graders_version", 1)
    return version
