"""Publishing and verifying files. What is committed is named with size and sha256 of each file; only then does
it get its final name, so that a reader's listing shows committed work only."""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from orchestrator.errors import Damaged
from orchestrator.files.durable import make_folder, sync
from orchestrator.files.identity import Written, hash_ahead, identity, is_settled, renamed, sha256
from orchestrator.files.inside import rename, require_below
from orchestrator.ledger.ledger import Artifact
from orchestrator.ledger.uses import require_whole


class Artifacts:
    """The files of one run folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._adopted: dict[str, tuple[Written, str]] = {}
        """Files that their workers have hashed, by their hidden names."""

    def describe(self, hidden: Path, path: Path) -> Artifact:
        """Make the files under `hidden` durable, and name them with their hashes as what will stand at `path`."""
        names = [""] if hidden.is_file() else sorted(_files_below(hidden))
        if not names:
            raise FileNotFoundError(f"{hidden}: a step published no files")
        files, paths = {}, {name: hidden / name if name else hidden for name in names}
        for file in paths.values():
            sync(file)
        hash_ahead(paths.values())
        for name, file in paths.items():
            written, digest = sha256(file)
            files[name] = {"size": written.size, "sha256": digest}
        for folder in {f for name in names for f in (hidden / name).parents if f.is_relative_to(hidden)}:
            sync(folder)
        return self.declare(hidden, path, files)

    def adopt(self, hidden: Path, path: Path, file: Mapping[str, Any]) -> Artifact:
        """A file that its worker has synced and hashed (workers.files.write_table), as what will stand at `path`. It is
        not read again here where it is the one that the worker wrote, and it shows that nobody has written to it since.

        Raises:
            Damaged: it is another one, with other bytes.
        """
        said = {"size": file["size"], "sha256": file["sha256"]}
        artifact = self.declare(hidden, path, {"": said})
        if (written := _as_told(hidden, file)) is None:
            self.require_as_hashed(artifact, hidden)
        else:
            self._adopted[artifact.hidden] = written, said["sha256"]
        return artifact

    def require_as_hashed(self, artifact: Artifact, hidden: Path) -> None:
        """Between the hash and the commit nobody else has written there.

        Raises:
            Damaged: somebody has.
        """
        if not self.is_intact(artifact, hidden):
            raise Damaged(f"{hidden}: was changed after it was hashed. It is not committed; the same command goes on.")

    def declare(self, hidden: Path, path: Path, files: dict[str, dict[str, Any]]) -> Artifact:
        """An artifact whose worker has synced and hashed its files already. Their names are made durable here."""
        for folder in hidden.parents:
            sync(folder)
            if folder == self.root:
                break
        relative = [os.path.relpath(p, self.root) for p in (path, hidden)]
        return Artifact(relative[0], relative[1], files)

    def reveal(self, artifact: Artifact) -> None:
        """Give a committed artifact its final name. Done again on replay, so it must not mind being repeated."""
        hidden, final = self.root / artifact.hidden, self.root / artifact.path
        if not hidden.exists():
            return
        require_below(self.root, hidden)
        require_below(self.root, final)
        if final.exists():
            if self.is_intact(artifact):
                return  # what is hidden is a late duplicate, left for the removal of orphans
            rename(self.root, final, final.with_name(f".stray-{uuid.uuid4().hex[:8]}-{final.name}"))
        make_folder(final.parent, self.root)
        try:
            rename(self.root, hidden, final)
        except FileNotFoundError:
            if not final.exists():  # else another driver has just done it: one that takes over, or is overtaken
                raise
        sync(final.parent)
        if (adopted := self._adopted.pop(artifact.hidden, None)) is not None:
            renamed(final, *adopted)

    def place(self, artifact: Artifact) -> Path:
        """Where its files are: at the final name, unless a driver died before it gave them that."""
        final, hidden = self.root / artifact.path, self.root / artifact.hidden
        return final if final.exists() or not hidden.exists() else hidden

    def is_intact(self, artifact: Artifact, place: Path | None = None) -> bool:
        """Whether `verify` raises nothing."""
        try:
            self.verify(artifact, place)
        except Damaged:
            return False
        return True

    def verify(self, artifact: Artifact, place: Path | None = None) -> Path:
        """Check every file against the ledger; returns the artifact's absolute path, which is `place` if given.

        Raises:
            Damaged: a file is missing or has other bytes than were committed.
        """
        final = place or self.root / artifact.path
        hash_ahead(final / name for name in artifact.files if name)
        for name, said in artifact.files.items():
            file = final / name if name else final
            require_whole(file, said["sha256"])
        return final


def _as_told(path: Path, file: Mapping[str, Any]) -> Written | None:
    """A file, where it is the one that its worker has written."""
    try:
        now = identity(path).written
    except (OSError, Damaged):
        return None
    told = (file["size"], file.get("inode"), file.get("mtime_ns"))
    return now if (now.size, now.inode, now.mtime_ns) == told and is_settled(now.mtime_ns) else None


def _files_below(folder: Path) -> list[str]:
    """But for what a worker that was given up has left unfinished, or writes now (workers.files.write_table)."""
    found = (path for path in folder.rglob("*") if path.is_file() and not is_unfinished(path.name))
    return [str(path.relative_to(folder)) for path in found]


def is_unfinished(name: str) -> bool:
    """Whether a file is what a worker has left that was given up (workers.files.write_table)."""
    return name.endswith("-e0")
