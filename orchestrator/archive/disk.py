"""An archive in a folder of this machine, such as another disk: each file whole or not at all, and on the disk."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from orchestrator.archive.store import Moved, Told, Unreachable
from orchestrator.errors import Damaged
from orchestrator.files import unfinished
from orchestrator.files.durable import sync
from orchestrator.files.inside import require_below
from orchestrator.files.rights import reason

_BLOCK = 1 << 20


class DiskStore:
    """A folder as a store; see `store.Store`. Its parent must be there: a disk that is not mounted has none."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.address = folder, str(folder)

    def told(self, name: str) -> Told | None:
        path = self._path(name)
        with self._doing():
            return Told(path.stat().st_size) if path.is_file() else None

    def names(self) -> list[str]:
        with self._doing():
            return sorted(os.listdir(self.folder)) if self.folder.is_dir() else []

    def read(self, name: str, start: int, end: int) -> bytes:
        path = self._path(name)
        if not path.is_file():  # a pipe would be waited for
            raise FileNotFoundError(f"{path}: is no file")
        with self._doing(), open(path, "rb") as file:
            file.seek(start)
            return file.read(end - start)

    def write(self, name: str, content: bytes) -> None:
        with self._doing():
            unfinished.replace(self._made(name), content)

    def send(self, file: Path, name: str, moved: Moved) -> None:
        with self._doing():
            path = self._made(name)
            label = f"{path.name}.new"
            unfinished.tidy(path.parent, label)
            new = unfinished.hidden(path.parent, label)
            try:
                with open(file, "rb") as source, open(new, "xb") as target:
                    while block := source.read(_BLOCK):
                        target.write(block)
                        moved(len(block))
                    target.flush()
                    os.fsync(target.fileno())
                os.replace(new, path)
            finally:
                new.unlink(missing_ok=True)
            sync(path.parent)

    def remove(self, name: str) -> None:
        with self._doing():
            self._path(name).unlink()

    def _path(self, name: str) -> Path:
        return self.folder / name

    def _made(self, name: str) -> Path:
        """The path of a file, with the folders that it lies in."""
        if not (parent := self.folder.parent).is_dir():
            what = f"{parent} is no folder" if parent.exists() else f"there is no {parent}: make it, or mount its disk"
            raise Unreachable(f"{self.folder}: {what}")
        path = self._path(name)
        try:
            require_below(self.folder, path)
        except Damaged as error:
            raise Unreachable(f"{path}: a link leads it out of the archive") from error
        for folder in reversed([one for one in path.parents if one.is_relative_to(self.folder)]):
            if not folder.is_dir():
                try:
                    folder.mkdir(exist_ok=True)
                except FileNotFoundError as error:  # the parent is there, and takes no folder, as /proc does not
                    raise Unreachable(f"{folder}: cannot be made: {reason(error)}") from error
                sync(folder.parent)
        return path

    @contextlib.contextmanager
    def _doing(self) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            raise
        except OSError as error:
            where = f" ({error.filename2 or error.filename})" if error.filename else ""
            raise Unreachable(f"{self.address}: {reason(error)}{where}") from error
