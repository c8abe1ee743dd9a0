"""Files of one run given to another: hard links, or copies where the file system has none between the two.

The run may be somebody else's. So nothing but regular files inside of it are given, as large as was said before, and
never what a link leads to: a private key, a device without end, a pipe that is waited for.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
from pathlib import Path

from orchestrator.errors import BadInput, Damaged
from orchestrator.files.inside import regular_size
from orchestrator.files.rights import reason
from orchestrator.ledger.ledger import Artifact

_CHUNK = 1 << 20
_NO_LINKS = frozenset({errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS})


def size_of(file: Path, root: Path) -> int:
    """Bytes of a file of the run `root`.

    Raises:
        Damaged: it is missing, a link, no regular file, or leads out of the run.
    """
    try:
        if file.is_symlink():
            raise Damaged(f"{file}: is a link. What is taken from a run are its own files.")
        return regular_size(file, root)
    except FileNotFoundError as error:
        raise Damaged(f"{file}: committed, but missing. `ratchet verify` names all such files of a run.") from error
    except OSError as error:
        raise Damaged(f"{file}: committed, but it cannot be read ({reason(error)})") from error


def check_sizes(artifact: Artifact, place: Path, root: Path) -> int:
    """Bytes of an artifact's files at `place`, without reading them.

    Raises:
        Damaged: as `size_of`, or a file has another size than was committed.
    """
    total = 0
    for name, said in artifact.files.items():
        file = place / name if name else place
        size = size_of(file, root)
        if size != said["size"]:
            raise Damaged(f"{file}: has {size:,} bytes, while {said['size']:,} were committed")
        total += size
    return total


class Giver:
    """Gives files of the run `root`, `left` bytes of them in all, as links where these are possible and wanted."""

    def __init__(self, root: Path, left: int, links: bool = True) -> None:
        self._root, self._left, self._links = root, left, links
        self._has_room = False

    def give(self, file: Path, target: Path, size: int) -> None:
        """Give a file a second name in another run, in a folder that is there. A copy's bytes are on the disk then; the
        names are not.

        Raises:
            Damaged: as `size_of`, or it has another size.
            BadInput: it must be copied, and there is no room for all that is left to be given.
        """
        if size_of(file, self._root) != size:
            raise Damaged(f"{file}: is being written, or has another size than was committed")
        if not (self._links and _linked(file, target, size)):
            self._check_room(target.parent)
            _copy(file, target, size)
        self._left -= size

    def _check_room(self, folder: Path) -> None:
        if self._has_room:
            return
        free = shutil.disk_usage(folder).free
        if free < self._left:
            apart = f": no file can be shared with {self._root}, which lies on another file system"
            why = apart if self._links else ""
            raise BadInput(
                f"{folder}: there are {free:,} bytes free, and {self._left:,} are to be copied{why}. Make room, or "
                "choose another folder."
            )
        self._has_room = True


def _linked(file: Path, target: Path, size: int) -> bool:
    """Whether the file system could make a link."""
    try:
        os.link(file, target, follow_symlinks=False)
    except OSError as error:
        if error.errno in _NO_LINKS:
            return False
        raise
    status = target.lstat()
    if not stat.S_ISREG(status.st_mode) or status.st_size != size:  # it was changed since it was looked at
        target.unlink()
        raise Damaged(f"{file}: was changed while it was taken")
    return True


def _copy(file: Path, target: Path, size: int) -> None:
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise Damaged(f"{file}: committed, but it cannot be read ({reason(error)})") from error
    with os.fdopen(descriptor, "rb") as old, open(target, "xb") as new:
        left = size if stat.S_ISREG(os.fstat(descriptor).st_mode) else -1
        while left > 0 and (chunk := old.read(min(left, _CHUNK))):
            new.write(chunk)
            left -= len(chunk)
        if left:
            raise Damaged(f"{file}: was changed while it was taken")
        new.flush()
        os.fsync(new.fileno())
