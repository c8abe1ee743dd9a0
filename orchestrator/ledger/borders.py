"""Does a run stay inside of its folder? Asked before a driver, `gc` or a fork does anything by a record's word."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

from orchestrator.errors import Damaged
from orchestrator.files.inside import resolved
from orchestrator.ledger.ledger import Artifact, State

_OWN_FOLDERS = ("ledger", "baseline", "rounds", "failures", "judge", "logs")
_WRITTEN_INTO = ("failures", "judge", "logs")  # by the names of files and folders that may be there already


def require_borders(root: Path, state: State) -> None:
    """Refuse a run of which something leads out.

    Raises:
        Damaged: names each record, or folder, that does.
    """
    if found := list(leading_out(root, state)):
        more = [f"and {len(found) - 10} more"] if len(found) > 10 else []
        raise Damaged(f"{root}: is not used as it is:\n" + "\n".join([*found[:10], *more]))


def leading_out(root: Path, state: State) -> Iterator[str]:
    """What leads out of the run, a line each: a folder of its own that is a link to elsewhere, and each path of a
    record that is absolute, goes upwards, or passes a link to elsewhere. A record may not name the ledger either."""
    here = resolved(root)
    inside: dict[str, bool] = {}  # folders that were looked at: thousands of shards share one

    def is_inside(path: str) -> bool:
        if path not in inside:
            try:
                inside[path] = resolved(Path(path)).is_relative_to(here)
            except Damaged:
                inside[path] = False
        return inside[path]

    for folder in (*_OWN_FOLDERS, *_links_in(root)):
        if not is_inside(str(root / folder)):
            yield f"{folder}: leads out of the run, to {os.path.realpath(root / folder)}"
    for record, name in _names(state):
        path = os.path.join(root, name)
        if "\0" in name or os.path.isabs(name) or ".." in name.split("/"):
            yield f"{record}: {name!r} is not a path inside the run"
        elif name.split("/")[0] in ("", ".", "ledger"):
            yield f"{record}: {name!r} is nothing that a step makes"
        elif not is_inside(os.path.dirname(path)) or (os.path.islink(path) and not is_inside(path)):
            yield f"{record}: {name} leads out of the run, to {os.path.realpath(path)}"


def _links_in(root: Path) -> Iterator[str]:
    for folder in _WRITTEN_INTO:
        try:
            with os.scandir(root / folder) as entries:
                yield from (f"{folder}/{entry.name}" for entry in entries if entry.is_symlink())
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                raise


def _names(state: State) -> Iterator[tuple[str, str]]:
    """Each name by which something of a run is made, renamed or removed, and the record that says it."""
    for step, commit in state.commits.items():
        yield from ((f"commit of {step}", name) for name in (step, *_of(commit.artifacts)))
    for step, shards in state.shards.items():
        yield f"shards of {step}", step
        for index, shard in shards.items():
            yield from ((f"shard {index} of {step}", name) for name in _of((shard.artifact,)))
    for (step, number), offer in state.offers.items():
        which = f"offer of {step}" if number is None else f"offer of shard {number} of {step}"
        yield from ((which, name) for name in (step, *_of(offer.artifacts)))
    yield from (("discard", name) for name in sorted(state.discarded))
    for promotion in state.promotions:
        if promotion["promoted"]:  # a refused one names the model before it, which may be a base model elsewhere
            yield f"promotion of round {promotion['round']}", str(promotion["reference"])


def _of(artifacts: tuple[Artifact, ...]) -> Iterator[str]:
    for artifact in artifacts:
        yield from (artifact.path, artifact.hidden)
