"""Where a run was executed otherwise in the midst of it; its results are the same for that, or the same to rounding."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from orchestrator.ledger.ledger import State
from orchestrator.text.shown import markdown

_OF_ONE_STEP = frozenset({"reference"})
"""What each step has of its own."""


def section(state: State) -> list[str]:
    """A table of what has changed, in Markdown, with its heading; nothing where all was executed alike."""
    rows = [
        f"| {markdown(key)} | " + ", ".join(f"{markdown(value)} from {markdown(step)}" for value, step in values) + " |"
        for key, values in _values({step: commit.facts for step, commit in state.commits.items()}).items()
        if len(values) > 1
    ]
    why = "This says how the work was done. It changes no result, or only its rounding."
    return ["## Executed otherwise", why, "\n".join(["| setting | value |", "|---|---|", *rows])] if rows else []


def _values(facts: Mapping[str, Mapping[str, Any]]) -> dict[str, list[tuple[str, str]]]:
    """By setting its values in order, each with the first step that has it."""
    found: dict[str, list[tuple[str, str]]] = {}
    for step, said in facts.items():
        executed = said.get("executed", {})
        for key in sorted(executed.keys() - _OF_ONE_STEP):
            values, text = found.setdefault(key, []), json.dumps(executed[key], sort_keys=True)
            if not values or values[-1][0] != text:
                values.append((text, step))
    return found
