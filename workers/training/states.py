"""Saved states of an unfinished training: a crash costs what was trained since the last one.

    .train-state-of-2/000040/          the state after update 40, visible only once it is whole
        ranks/...                      what DeepSpeed saves: weights, float32 masters, moments, one file a rank
        progress.json                  the metrics of the updates so far
        manifest.json                  what it is a state of, size and sha256 of each file, and the seal of both
    .train-state-of-2/exports/000020/  checkpoints exported on the way, until the training ends

Nothing is trusted for its name: a state is loaded only if its manifest has the seal of the user's key (see
orchestrator/files/user_state.py), names this very training and this number of ranks, and its files are exactly those
whose hashes it has. The key comes with the plan, through memory, and is in no file of the run. DeepSpeed's files are
pickles: they never leave this folder, and only those that this user's training wrote are ever read. Training draws no
random numbers (no dropout; the order of the pairs comes from the plan's seed), so there is no random state to keep.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch.distributed as dist

from orchestrator.records.seals import is_sealed, state_seal
from workers.files import file_facts, sync

MANIFEST, PROGRESS, RANKS = "manifest.json", "progress.json", "ranks"


@dataclass
class Progress:
    """How far a training is."""

    metrics: list[dict[str, Any]] = field(default_factory=list)
    """One row an update that is done."""
    first_step: dict[str, float] = field(default_factory=dict)
    """How far the policy was from the reference before update 1."""


class TrainingStates:
    """The states of one training, which goes by any of the `names` (TrainingPlan.state_names). Every method is
    collective."""

    def __init__(self, folder: str, names: Sequence[str], keep: int, rank: int, key: bytes) -> None:
        self._folder, self._names = Path(folder), names
        self._keep, self._rank, self._key = keep, rank, key

    def load(self, engine: Any) -> Progress:
        """Bring the engine to the newest whole state of this training; a fresh start where there is none."""
        found: list[Any] = [None]
        if self._rank == 0:
            found = [next((path.name for path in self._newest_first() if self._is_whole(path)), None)]
            self._remove_after(found[0])
        dist.broadcast_object_list(found)
        if found[0] is None:
            return Progress()
        folder = self._folder / found[0]
        engine.load_checkpoint(str(folder), tag=RANKS, load_lr_scheduler_states=False)
        return Progress(**json.loads((folder / PROGRESS).read_text()))

    def save(self, engine: Any, progress: Progress) -> None:
        """Save the state after the updates so far; older ones go once it is whole on the disk."""
        final = self._folder / f"{len(progress.metrics):06d}"
        name = [f".{final.name}-{uuid.uuid4().hex}"]
        dist.broadcast_object_list(name)
        hidden = self._folder / name[0]
        engine.save_checkpoint(str(hidden), tag=RANKS, save_latest=False)
        dist.barrier()
        if self._rank == 0:
            (hidden / PROGRESS).write_text(json.dumps(vars(progress)))
            files = {str(file.relative_to(hidden)): file_facts(file) for file in _files(hidden)}
            manifest = {"identity": self._names[0], "files": files}
            manifest["seal"] = state_seal(self._key, manifest)
            (hidden / MANIFEST).write_text(json.dumps(manifest))
            for path in [*_files(hidden), *_folders(hidden)]:
                sync(path)
            _remove(final)  # left by an earlier training, or damaged
            os.rename(hidden, final)
            for folder in (self._folder, self._folder.parent):
                sync(folder)
            for old in self._newest_first()[self._keep :]:
                _remove(old)
        dist.barrier()

    def exports(self) -> Path:
        """Folder for checkpoints on the way; a whole one stays when the training is resumed."""
        return self._folder / "exports"

    def _remove_after(self, chosen: str | None) -> None:
        """Remove what is newer than the chosen state, or was never finished; exports of no state at all, too."""
        if self._folder.is_dir():
            for path in self._folder.iterdir():
                newer = path.name.isdigit() and (chosen is None or path.name > chosen)
                exports = path == self.exports() and (chosen is None or path.is_symlink())
                if newer or path.name.startswith(".") or exports:
                    _remove(path)

    def _newest_first(self) -> list[Path]:
        if not self._folder.is_dir():
            return []
        return sorted((path for path in self._folder.iterdir() if path.name.isdigit()), reverse=True)

    def _is_whole(self, folder: Path) -> bool:
        try:
            found = {str(file.relative_to(folder)): file for file in _files(folder)}
            manifest = json.loads(found[MANIFEST].read_text())
            if folder.is_symlink() or not is_sealed(self._key, manifest) or manifest["identity"] not in self._names:
                return False
            everything = [path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir()]
            names = {str(path.relative_to(folder)) for path in everything}
            return names == found.keys() == {MANIFEST, *manifest["files"]} and all(
                file_facts(found[name]) == said for name, said in manifest["files"].items()
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return False


def _remove(path: Path) -> None:
    """Remove a folder, or a link to one, whatever it leads to."""
    if path.is_symlink():
        path.unlink(missing_ok=True)
    else:
        shutil.rmtree(path, ignore_errors=True)


def _files(folder: Path) -> list[Path]:
    """The regular files below a folder: no links, and nothing behind one."""
    found = (Path(here) / name for here, _, names in os.walk(folder) for name in names)
    return sorted(path for path in found if stat.S_ISREG(path.lstat().st_mode))


def _folders(folder: Path) -> list[Path]:
    return [folder, *(path for path in folder.rglob("*") if path.is_dir())]
