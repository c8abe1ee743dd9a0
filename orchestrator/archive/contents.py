"""What of a run its archive has: the committed files, the ledger's records, and a few files beside them.

Not: hidden names (work in progress, saved states of an unfinished training, what a fork may still take over), logs,
failures, signs of life, and what of it is only a cache. What was discarded before it was sent is not sent either.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from orchestrator.files.inside import walk
from orchestrator.ledger.artifacts import Artifacts
from orchestrator.ledger.ledger import Artifact, State
from orchestrator.ledger.record_files import Record
from orchestrator.ledger.rollbacks import is_aside

MARKER = "archive.json"
"""Says what an archive has; written last."""
_VIEWS = ("job.yaml", "resolved.yaml", "report.md", "report.html", "CURRENT")
_FOLDERS = ("verdicts", "judge")  # what people have written, and what a judge was paid for
_PART = r"/[^./\\\x00-\x1f\x7f][^/\\\x00-\x1f\x7f]*"  # no hidden name, and none that leads upwards
_BESIDE = re.compile(rf"(?:{'|'.join(map(re.escape, _VIEWS))})|(?:{'|'.join(_FOLDERS)})(?:{_PART})+")
MOST_BESIDE = 1 << 30
"""Bytes of such a file."""


@dataclass(frozen=True)
class Item:
    """A file as the archive has it: its name there and in the run, and what it must be."""

    name: str
    path: Path
    size: int
    sha256: str


def record_name(number: int) -> str:
    """Where a record is, in the run and in its archive."""
    return f"ledger/{number:08d}.json"


def committed(run_dir: Path, state: State, records: Iterable[Record]) -> dict[str, Item]:
    """The files that some records commit and that were neither discarded nor set aside since, by name."""
    places, found = Artifacts(run_dir), dict[str, Item]()
    for artifact in _artifacts(record for record in records if not is_aside(record, state)):
        if artifact.path not in state.discarded:
            place = places.place(artifact)
            for file, said in artifact.files.items():
                name = f"{artifact.path}/{file}" if file else artifact.path
                found[name] = Item(name, place / file if file else place, said["size"], said["sha256"])
    return found


def _artifacts(records: Iterable[Record]) -> Iterator[Artifact]:
    for record in records:
        if record.kind == "commit":
            yield from map(Artifact.from_json, record.data["artifacts"])
        elif record.kind == "shard":
            yield Artifact.from_json(record.data["artifact"])


def is_beside(name: str) -> bool:
    """Whether a file that no record names is one that an archive may have."""
    return _BESIDE.fullmatch(name) is not None and len(name) < 1000


def is_top(name: str) -> bool:
    """Whether an archive may have something of this name at its top, or a disk that holds nothing else."""
    return name.startswith(".") or name in ("baseline", "rounds", "ledger", "lost+found", MARKER, *_VIEWS, *_FOLDERS)


def beside(run_dir: Path) -> Iterator[str]:
    """The names of the files that no record names, and that are sent all the same: as they are now."""
    for name in _VIEWS:
        if _is_plain(run_dir / name):
            yield name
    for top in _FOLDERS:
        if os.path.islink(run_dir / top):
            continue
        for folder, _, names in walk(run_dir / top):
            for file in names:
                path = Path(folder) / file
                name = str(path.relative_to(run_dir))
                if is_beside(name) and _is_plain(path):
                    yield name


def _is_plain(path: Path) -> bool:
    return path.is_file() and not path.is_symlink() and path.stat().st_size <= MOST_BESIDE
