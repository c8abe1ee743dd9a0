"""What a step's record says under `executed` besides settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

HALVED = "halved"
"""The keys of the job whose values are half of what the job says, since memory was short."""

WEIGHTS = "weights"
"""How weights came into engines that served others before, in words; see workers/generation/in_place.py."""
ANEW = "anew: "
"""How these words begin where loading in place has failed; the reason follows."""
ENDED = "ended"
"""Which processes ended after the turn before, since they did not give memory back, in words."""


def halved(facts: Mapping[str, Any]) -> dict[str, Any]:
    """From the facts of a step: what it was done with half of, by key."""
    executed = facts.get("executed", {})
    keys = executed.get(HALVED)
    if not isinstance(keys, list):
        return {}
    return {key: executed[key] for key in keys if isinstance(key, str) and key in executed}
