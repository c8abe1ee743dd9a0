"""Files that no record tells of: beside what is committed they do no harm, within it they are a change."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from orchestrator.files.inside import walk
from orchestrator.ledger.artifacts import Artifacts, is_unfinished
from orchestrator.ledger.ledger import Artifact, State
from orchestrator.ledger.record_files import record_numbers


def count_strays(at: Artifacts, state: State) -> int:
    """How many files of the run are neither records nor committed."""
    # An offer that was not taken lies where it was put.
    offers = [replace(a, path=a.hidden) for offer in state.offers.values() for a in offer.artifacts]
    known_here = (*state.artifacts(), *offers, *set_aside(at.root, state))
    places = ((at.place(a), name) for a in known_here for name in a.files)
    known = {(place / name if name else place).absolute() for place, name in places}
    walks = (walk(at.root.absolute() / top) for top in ("baseline", "rounds"))
    found = (Path(here) / name for folders in walks for here, _, names in folders for name in names)
    strays = sum(1 for path in found if path.is_file() and path not in known)
    return strays + len(os.listdir(at.root / "ledger")) - len(record_numbers(at.root / "ledger"))


def set_aside(root: Path, state: State) -> Iterator[Artifact]:
    """What rollbacks have set aside and is still there."""
    for rollback in state.rollbacks:
        here = tuple(f"{folder}/" for folder in rollback.folders() if (root / folder).is_dir())
        yield from (artifact for artifact in rollback.artifacts if artifact.path.startswith(here or "\0"))


def is_aside_here(root: Path, state: State, artifact: Artifact) -> bool:
    """Whether this one is among `set_aside`, now."""
    folder = "/".join(artifact.path.split("/")[:2])
    return any(folder in rollback.folders() for rollback in state.rollbacks) and (root / folder).is_dir()


def added_files(place: Path, artifact: Artifact) -> Iterator[str]:
    """Files in the folder of an artifact that was committed without them: what loads a checkpoint may read them."""
    if "" in artifact.files:
        return
    found = {os.path.relpath(os.path.join(here, name), place) for here, _, names in walk(place) for name in names}
    for name in sorted(found - artifact.files.keys()):
        if not is_unfinished(name):
            yield f"{name} stands in it and was not committed with it"
