"""The few file operations that durability rests on. Each returns only when the disk has the bytes."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

_CHUNK = 1 << 20
NO_LINKS = "this file system makes no hard links"
_LINKLESS = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK})
_ATTEMPTS = 3  # `ratchet gc` may have taken a temporary file for a dead driver's


def sync(path: Path) -> None:
    """Make a file's bytes, or the names in a folder, durable: a rename or link is only as lasting as its folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with _naming(path):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def put_if_absent(path: Path, content: bytes) -> bool:
    """Create `path` with `content`, whole or not at all; False when the name is taken already.

    A hard link is the one operation that both local disks and NFS do atomically without replacing.
    On NFS its success can be reported as a failure (the reply was lost, the call repeated), so the
    link count of our own temporary file decides, not the error.
    """
    for left in reversed(range(_ATTEMPTS)):
        temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
        try:
            _write(temporary, content)
            try:
                os.link(temporary, path)
            except OSError as error:
                links = os.stat(temporary).st_nlink if temporary.exists() else 0
                if links != 2 and path.exists():
                    return False
                if links == 0 and left:
                    continue
                if links == 1 and error.errno in _LINKLESS:  # of a file of our own, which rights do not forbid
                    raise OSError(errno.EOPNOTSUPP, NO_LINKS, str(path)) from error
                if links != 2:
                    raise
        finally:
            temporary.unlink(missing_ok=True)
        break
    sync(path.parent)
    return True


def replace(path: Path, content: bytes) -> None:
    """Write a cache or a view in place, atomically. Never used for what is committed."""
    for left in reversed(range(_ATTEMPTS)):
        temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
        try:
            _write(temporary, content)
            os.replace(temporary, path)
        except FileNotFoundError:
            if not left:
                raise
            continue
        finally:
            temporary.unlink(missing_ok=True)
        break
    sync(path.parent)


def make_folder(folder: Path, root: Path) -> None:
    """Make a folder below `root`, and those above it; `root` itself, which may have been moved away, is not made anew.

    Raises:
        FileNotFoundError: `root` is not there.
    """
    below = [path for path in (folder, *folder.parents) if path.is_relative_to(root) and path != root]
    for path in reversed(below):
        path.mkdir(exist_ok=True)


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Name the file in an error about a descriptor, which names none."""
    try:
        yield
    except OSError as error:
        raise error if error.filename else OSError(error.errno, error.strerror, str(path)) from error


def _write(path: Path, content: bytes) -> None:
    with _naming(path), open(path, "xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def sha256(path: Path) -> str:
    """Hex digest of a file's bytes."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def canonical(value: Any) -> bytes:
    """One spelling of a JSON value, so that equal values have equal hashes."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def fingerprint(value: Any) -> str:
    """Hex digest (32 characters) of a JSON value."""
    return fingerprint_of(canonical(value))


def fingerprint_of_many(values: Iterable[Any]) -> str:
    """The same of a list of values, of which one is in memory at a time."""
    digest, between = hashlib.sha256(b"["), b""
    for value in values:
        digest.update(between + canonical(value))
        between = b","
    digest.update(b"]")
    return digest.hexdigest()[:32]


def fingerprint_of(spelled: bytes) -> str:
    """The same of a value as `canonical` spells it."""
    return hashlib.sha256(spelled).hexdigest()[:32]
