"""A disk that is full, became read-only or is closed to us, in words: nobody's bug."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator
from pathlib import Path

from orchestrator.errors import RatchetError

_OF_THE_DISK = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO})
_OF_RIGHTS = frozenset({errno.EACCES, errno.EPERM})


def of_the_disk(error: OSError, folder: Path) -> bool:
    """Whether the disk is what is wrong; rights are its matter only below `folder`."""
    no_rights = error.errno in _OF_RIGHTS and str(error.filename).startswith(str(folder))
    return no_rights or error.errno in _OF_THE_DISK


@contextlib.contextmanager
def one_message(what: Path | str, then: str, folder: Path | None = None) -> Iterator[None]:
    """Say in one message that `what` cannot be written, and `then` what is kept and what to do. Rights are the disk's
    matter below `folder`, which is `what` if none is given.

    Raises:
        RatchetError: for an OSError of the disk; others pass.
    """
    try:
        yield
    except OSError as error:
        if not of_the_disk(error, folder or Path(what)):
            raise
        where = f" ({error.filename})" if error.filename else ""
        raise RatchetError(f"{what}: cannot be written: {error.strerror or error}{where}. {then}") from error
