"""What is used is what was committed: files are checked before a piece of work uses them, and after it.

A living driver's files can be changed under it. Before each use a file is compared with what the ledger says of it, by
its identity where that is known (files/identity.py). After the work it must be the same file still, which nobody has
written to: what the work has read of it in the meantime is known by nobody else.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from orchestrator.errors import Damaged, Displaced
from orchestrator.files import durable
from orchestrator.files.identity import Written, hash_ahead, sha256
from orchestrator.files.rights import reason
from orchestrator.ledger.ledger import Artifact, Commit
from orchestrator.ledger.recipes import UsedFiles, used_in
from orchestrator.records.model_folder import leads_out


def files_of(commit: Commit) -> list[UsedFiles]:
    """The sha256 of every file of a commit, in order: what a later step depends on."""
    return [
        UsedFiles(f"{name}:{said['sha256']}", ((os.path.join(a.path, name).rstrip("/"), said["sha256"]),))
        for a in commit.artifacts
        for name, said in sorted(a.files.items())
    ]


def used_file(artifact: Artifact) -> UsedFiles:
    """The sha256 of an artifact that is one file, such as a shard."""
    sha256 = artifact.files[""]["sha256"]
    return UsedFiles(sha256, ((artifact.path, sha256),))


def fingerprint(names: list[UsedFiles]) -> str:
    """One name for many files."""
    return durable.fingerprint([name.value for name in names])


def model(value: str, artifact: Artifact, below: str = "") -> UsedFiles:
    """A committed model folder, by a `value` that stands for what is in it. It may be a folder `below` an artifact."""
    folder = os.path.join(artifact.path, below).rstrip("/")
    names = {os.path.join(artifact.path, name): said["sha256"] for name, said in artifact.files.items()}
    return UsedFiles(value, tuple((name, sha) for name, sha in names.items() if name.startswith(f"{folder}/")), folder)


class FileCheck:
    """The files that a piece of work uses.

    Raises (at construction): Damaged, where one is not what was committed.
    """

    def __init__(self, root: Path, inputs: Any) -> None:
        self._root, self._inputs = root, list(used_in(inputs))
        hash_ahead(root / name for used in self._inputs for name, _ in used.files)
        self._before = self._require_whole()

    def again(self) -> None:
        """After the work, before its result is committed.

        Raises:
            Damaged: a file was changed, or written to, while it was in use.
        """
        for name, written in self._require_whole().items():
            if written != self._before[name]:
                raise Damaged(
                    f"{self._root / name}: was written to while it was in use. What came of that is not committed; now "
                    "it is what it should be, and the same command goes on from here."
                )

    def _require_whole(self) -> dict[str, Written]:
        """What each file is now, by its name: there may be thousands of shards, of which a name is half of a path."""
        for used in self._inputs:
            if used.folder is not None:
                _require_alone(self._root / used.folder, {self._root / name for name, _ in used.files})
        files = dict(file for used in self._inputs for file in used.files)
        return {name: require_whole(self._root / name, sha, os.path.isabs(name)) for name, sha in files.items()}


@contextmanager
def using(root: Path, inputs: Any) -> Iterator[None]:
    """Around work that uses the files that its inputs name. Where it fails, a file that was changed is the reason.

    Raises:
        Damaged: a file is not what was committed, or was written to meanwhile.
    """
    check = FileCheck(root, inputs)
    with guarding(lambda: [check]):
        yield
    check.again()


@contextmanager
def guarding(checks: Callable[[], Iterable[FileCheck]]) -> Iterator[None]:
    """Around work that may fail: a file of what it uses by then, and that was changed, is named as the reason. Where
    the work succeeds they are checked elsewhere."""
    try:
        yield
    except (Displaced, Damaged):
        raise
    except Exception:
        for check in checks():
            check.again()
        raise


def require_whole(path: Path, sha: str, outside: bool = False) -> Written:
    """A file that is used is what was committed; or, `outside` the run, what the run was started with.

    Raises:
        Damaged: it is not, or cannot be read.
    """
    what = "part of the model that the run is made from" if outside else "committed"
    try:
        written, found = sha256(path)
    except OSError as error:
        raise Damaged(f"{path}: {what}, but it cannot be read ({reason(error)})") from error
    if found != sha:
        cure = "Restore it from a copy, and the same command goes on from here."
        if outside:
            raise Damaged(f"{path}: is not what it was when the run was started ({what}; its sha256 differs). {cure}")
        raise Damaged(f"{path}: not what was committed (size or sha256 differs). {cure}")
    return written


def _require_alone(folder: Path, files: set[Path]) -> None:
    try:
        here = [entry.name for entry in os.scandir(folder) if not entry.name.startswith(".") and entry.is_file()]
    except OSError as error:
        raise Damaged(f"{folder}: cannot be read ({reason(error)})") from error
    if more := sorted(name for name in here if folder / name not in files):
        raise Damaged(f"{folder / more[0]}: is no part of this model, and whoever loads it might read it. Remove it.")
    # Of a run of somebody else's, the files of a model may be as committed, and yet lead out of it.
    if out := next(leads_out(folder), None):
        raise Damaged(out)
