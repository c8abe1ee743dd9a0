"""Saved states of an unfinished training: a crash costs what was trained since the last one.

    .train-state-of-2/000040/          the state after update 40, visible only once it is whole
        00000-00000.safetensors ...    a rank's pieces of the float32 weights and the optimizer's moments (pieces.py)
        progress.json                  the metrics of the updates so far
        manifest.json                  what it is a state of, size and sha256 of each file, and the seal of both
    .train-state-of-2/exports/000020/  checkpoints exported on the way, until the training ends

It fits any number of ranks and any ZeRO stage, since it says nothing of either. Each rank writes, syncs and hashes its
own files, and checks a share of them when they are read.

Nothing is trusted for its name: a state is loaded only if its manifest has the seal of the user's key (see
orchestrator/files/user_state.py), names this very training, and its files are exactly those whose hashes it has. The
key comes with the plan, through memory, and is in no file of the run. No file is a pickle, so a stranger's state could
run nothing; it could still make a model of the stranger's choice out of the training. Training draws no random numbers
(no dropout; the order of the pairs comes from the plan's seed), so there is no random state to keep.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch.distributed as dist
from safetensors import SafetensorError

from orchestrator.records.seals import is_sealed, state_seal
from workers.files import file_facts, make_folder, sync, write_file
from workers.training import pieces
from workers.training.shards import Shard

MANIFEST, PROGRESS = "manifest.json", "progress.json"
LARGEST_SHARE = 0.02
"""Of a training's time: what saving may take, but for the first state."""


@dataclass
class Progress:
    """How far a training is."""

    metrics: list[dict[str, Any]] = field(default_factory=list)
    """One row an update that is done."""
    first_step: dict[str, float] = field(default_factory=dict)
    """How far the policy was from the reference before update 1."""


class Pace:
    """When the next state is due: after so many minutes, and once the time that the last one took is at most
    LARGEST_SHARE of what was trained since."""

    def __init__(self, minutes: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._least, self._clock = 60 * minutes, clock
        self._since, self._took = clock(), 0.0

    def due(self) -> bool:
        return self._clock() - self._since >= max(self._least, self._took / LARGEST_SHARE)

    def measure(self, save: Callable[[], None]) -> None:
        """Save, and count from here on."""
        started = self._clock()
        save()
        self._since = self._clock()
        self._took = self._since - started


class TrainingStates:
    """The states of the training that is known as `name` (TrainingPlan.state_name). Every method is collective; `beat`
    is called with every file, or large piece of one, that is written, hashed or read."""

    def __init__(self, folder: str, name: str, keep: int, key: bytes, beat: Callable[[], None]) -> None:
        self._folder, self._name, self._keep, self._key = Path(folder), name, keep, key
        self._rank, self._ranks = dist.get_rank(), dist.get_world_size()
        self._beat = beat

    def load(self, engine: Any) -> Progress:
        """Bring a fresh engine to the newest whole state of this training; it is left alone where there is none."""
        shard = Shard(engine)
        found: list[Any] = [self._candidates() if self._rank == 0 else None]
        dist.broadcast_object_list(found)
        usable, tensors = self._newest_whole(shard, found[0])
        if self._rank == 0:
            self._remove_after(usable)
        if usable is None:
            return Progress()
        said = json.loads((self._folder / usable / PROGRESS).read_bytes())
        shard.begin(said.pop("updates"))
        pieces.read(tensors, shard, self._beat)
        shard.finish()
        return Progress(**said)

    def save(self, engine: Any, progress: Progress) -> None:
        """Save the state after the updates so far; older ones go once it is whole on the disk."""
        final = self._folder / f"{len(progress.metrics):06d}"
        name = [f".{final.name}-{uuid.uuid4().hex}"]
        dist.broadcast_object_list(name)
        hidden = self._folder / name[0]
        make_folder(hidden, above=1)
        shard = Shard(engine)
        facts = pieces.write(shard, hidden, self._rank, self._ranks, self._beat)
        everyones: list[Any] = [None] * self._ranks
        dist.all_gather_object(everyones, facts)
        if self._rank == 0:
            said = json.dumps({"updates": shard.updates()} | vars(progress))
            facts = {PROGRESS: write_file(said.encode(), hidden / PROGRESS)}
            self._publish(hidden, final, facts | {name: of for each in everyones for name, of in each.items()})
        dist.barrier()

    def exports(self) -> Path:
        """Folder for checkpoints on the way; a whole one stays when the training is resumed."""
        return self._folder / "exports"

    def _publish(self, hidden: Path, final: Path, files: dict[str, Any]) -> None:
        """Give what is written and synced a manifest and its name."""
        manifest = {"identity": self._name, "files": files}
        manifest["seal"] = state_seal(self._key, manifest)
        write_file(json.dumps(manifest).encode(), hidden / MANIFEST)
        sync(hidden)
        _remove(final)  # left by an earlier training, or damaged
        os.rename(hidden, final)
        for folder in (self._folder, self._folder.parent):
            sync(folder)
        for old in self._newest_first()[self._keep :]:
            _remove(old)

    def _candidates(self) -> list[tuple[str, dict[str, Any]]]:
        """The states that may be loaded if their files are as their manifests say, the newest first."""
        found = [(path.name, self._manifest(path)) for path in self._newest_first()]
        return [(name, manifest["files"]) for name, manifest in found if manifest is not None]

    def _manifest(self, folder: Path) -> dict[str, Any] | None:
        """A state's manifest, if it is this training's, has the seal, and names the files that are there."""
        try:
            found = {str(file.relative_to(folder)): file for file in _files(folder)}
            manifest: dict[str, Any] = json.loads(found[MANIFEST].read_bytes())
            if folder.is_symlink() or not is_sealed(self._key, manifest) or manifest["identity"] != self._name:
                return None
            names = {str(path.relative_to(folder)) for path in folder.rglob("*")}
            return manifest if names == found.keys() == {MANIFEST, *manifest["files"]} else None
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return None

    def _newest_whole(
        self, shard: Shard, candidates: list[tuple[str, dict[str, Any]]]
    ) -> tuple[str | None, list[pieces.Stored]]:
        """The first that all ranks find whole, and what its files hold."""
        for name, files in candidates:
            tensors = self._whole(shard, self._folder / name, files)
            if self._everywhere(tensors is not None):
                return name, tensors or []
        return None, []

    def _whole(self, shard: Shard, folder: Path, files: dict[str, Any]) -> list[pieces.Stored] | None:
        """What a state's files hold, if this rank's share of them is as the manifest says and all that it needs is
        there; else None."""
        mine = sorted(files)[self._rank :: self._ranks]
        try:
            if not all(file_facts(folder / name, self._beat) == files[name] for name in mine):
                return None
            found = pieces.stored(folder / name for name in sorted(files) if name != PROGRESS)
        except (OSError, ValueError, SafetensorError):
            return None
        return found if pieces.cover(found, shard.held()) else None

    def _everywhere(self, here: bool) -> bool:
        said: list[Any] = [None] * self._ranks
        dist.all_gather_object(said, here)
        return all(said)

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
