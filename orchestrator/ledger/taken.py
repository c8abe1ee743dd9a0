"""What a run has not done itself: steps and shards that it took over from the run it was made from (commands/fork).

Their facts are the other run's, its seconds and speeds too. They are shown as taken over, and no time is counted for
them here.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from orchestrator.ledger.ledger import ShardCommit, State

_TIMES = ("seconds", "starting", "waited", "wall")
_SPEED = "_per_second"


def taken(state: State, step: str) -> bool:
    """Whether all that is committed of a step was taken over. The first shard that was not tells it: this is asked at
    each of thousands."""
    if shards := state.shards.get(step):
        return all(_is_taken(state, shard) for shard in shards.values())
    commit, offer = state.commits.get(step), state.offers.get((step, None))
    if commit is None or offer is None:
        return False
    return (commit.fingerprint, commit.artifacts, commit.facts) == (offer.fingerprint, offer.artifacts, offer.facts)


def taken_shards(state: State, step: str) -> set[int]:
    """The shards of a step that were taken over."""
    return {index for index, shard in state.shards.get(step, {}).items() if _is_taken(state, shard)}


def _is_taken(state: State, shard: ShardCommit) -> bool:
    """The hidden name tells an offer's files from the same ones made again."""
    offer = state.offers.get((shard.step, shard.index))
    return offer is not None and offer.artifacts == (shard.artifact,)


def left_offers(root: Path, state: State) -> list[Path]:
    """Files and folders in the run `root` that another one offers and that were not taken."""
    paths = (root / artifact.hidden for offer in state.offers.values() for artifact in offer.artifacts)
    return [path for path in paths if os.path.lexists(path)]


def parent(state: State) -> str | None:
    """The folder, then, of the run that this one was made from; None of one that is no fork."""
    return next((str(config["parent"]["run"]) for config in state.configs if "parent" in config), None)


def origin(state: State) -> str:
    """The name of the run that they are from."""
    folder = parent(state)
    return Path(folder).name if folder else "another run"


def without_times(facts: Mapping[str, Any]) -> dict[str, Any]:
    """The facts of a step without its seconds and speeds."""
    return {key: value for key, value in facts.items() if key not in _TIMES and not key.endswith(_SPEED)}


def taken_over_text(state: State, step: str) -> str:
    """For the end of a line about a step, for people; empty where the run did all of it."""
    if taken(state, step):
        return f", taken over from {origin(state)}"
    if some := len(taken_shards(state, step)):
        return f"; {some} of {len(state.shards[step])} shards taken over from {origin(state)}"
    return ""
