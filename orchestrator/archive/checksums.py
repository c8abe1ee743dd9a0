"""A file's checksums, in one reading: its sha256, and the ETags that S3 gives to what it was sent.

S3's ETag of an object that was sent at once is the MD5 of its bytes; of one that was sent in parts it is the MD5 of the
parts' MD5s, `-` and their number (AWS, "Checking object integrity"). A store computes it from the bytes that it has
got, so that an equal one says that they are the file's. Stores that encrypt with keys of their own tell another, which
says nothing.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

CHUNK = 32 << 20
"""Bytes of a part. A file of less than two is sent at once."""
_BLOCK = 1 << 20


def chunk_of(size: int) -> int:
    """Bytes of a part of a file of so many, of which S3 takes 10,000 parts."""
    return max(CHUNK, -(-size // 10_000))


@dataclass(frozen=True)
class Checksums:
    """Of a file, read once. `etags` are those of its bytes sent at once, and in parts."""

    size: int
    sha256: str
    etags: tuple[str, str]


def checksums(file: Path, chunk: int | None = None) -> Checksums:
    """The checksums of a file's bytes; `chunk` is the size of a part where that is not `chunk_of` the file.

    Raises:
        OSError: it cannot be read.
    """
    whole, once, parts = hashlib.sha256(), hashlib.md5(usedforsecurity=False), list[bytes]()
    chunk = chunk or chunk_of(file.stat().st_size)
    size, part = 0, hashlib.md5(usedforsecurity=False)
    with open(file, "rb") as source:
        while block := source.read(min(_BLOCK, chunk - size % chunk)):
            size += len(block)
            for digest in (whole, once, part):
                digest.update(block)
            if size % chunk == 0:
                parts.append(part.digest())
                part = hashlib.md5(usedforsecurity=False)
    if size % chunk:
        parts.append(part.digest())
    joined = hashlib.md5(b"".join(parts), usedforsecurity=False).hexdigest()
    return Checksums(size, whole.hexdigest(), (once.hexdigest(), f"{joined}-{len(parts)}"))
