"""Whose MLflow runs are these: a run that was moved goes on with its own, a copy begins new ones."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Tracked:
    """A parent run in MLflow that says it is a run's of this id."""

    id: str
    folder: str
    """The run folder that it was logged from."""
    host: str | None
    """The machine; None where an earlier version logged it."""


def own(tracked: Sequence[Tracked], run_dir: Path, host: str, known: str | None) -> str | None:
    """The one that is the run's in `run_dir`; None where it has none yet. `known` is the id that the run folder holds.

    One that was logged from another folder is the run's if the run was moved from there: the run is not there any
    more, as far as can be seen from this machine. What another machine has logged from another folder is left to it.
    """
    here = [parent for parent in tracked if _same(Path(parent.folder), run_dir)]
    left = [
        parent
        for parent in tracked
        if parent not in here and parent.host in (None, host) and not _is_run(Path(parent.folder), run_dir)
    ]
    for found in (here, left):
        if found:
            return next((parent.id for parent in found if parent.id == known), found[0].id)
    return None


def _same(folder: Path, run_dir: Path) -> bool:
    try:
        return folder == run_dir or os.path.samefile(folder, run_dir)
    except OSError:
        return False


def _is_run(folder: Path, run_dir: Path) -> bool:
    """Whether a folder has the run of which `run_dir` is another copy: no two runs begin with the same record."""
    first = "ledger/00000000.json"
    try:
        return (folder / first).read_bytes() == (run_dir / first).read_bytes()
    except OSError:
        return False
