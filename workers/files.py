"""Files that others can rely on: on the disk, with size and sha256."""

from __future__ import annotations

import hashlib
import io
import os
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

CHUNK_BYTES = 2**24
"""How much of a file is read and hashed at once."""


def make_folder(folder: Path, above: int) -> None:
    """Make a folder, if it is not there, and so many of those above it. Nothing further up is made anew: the run's
    folder may have been moved away in the middle of the work.

    Raises:
        FileNotFoundError: what it is to stand in is not there.
    """
    for level in reversed(range(above + 1)):
        (folder, *folder.parents)[level].mkdir(exist_ok=True)


def write_table(table: pa.Table, path: str | Path, rows_a_group: int | None = None) -> dict[str, Any]:
    """Write a table (zstd) into a folder that is there, and fsync it; returns {"size": bytes, "sha256": hex, "inode":
    number, "mtime_ns": time} of the file: the last two tell whoever commits it that it is the one that was hashed. Of a
    file with groups of so many rows, readers can take one."""
    buffer = io.BytesIO()
    pq.write_table(table, buffer, rows_a_group, compression="zstd")
    content = buffer.getvalue()
    path = Path(path)
    # Two attempts at the same file never write into one another: the last one to finish is whole.
    attempt = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}-e0")
    with open(attempt, "xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
        now = os.fstat(file.fileno())
    os.replace(attempt, path)
    said = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    return said | {"inode": now.st_ino, "mtime_ns": now.st_mtime_ns}


def write_file(content: bytes, path: Path) -> dict[str, Any]:
    """Write a new file and fsync it; returns its `file_facts`."""
    with open(path, "xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    return {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def file_facts(path: Path, beat: Callable[[], None] | None = None) -> dict[str, Any]:
    """{"size": bytes, "sha256": hex} of a file. `beat` is called after every CHUNK_BYTES, so that whoever waits sees
    that it goes on."""
    digest, size = hashlib.sha256(), 0
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
            size += len(chunk)
            if beat is not None:
                beat()
    return {"size": size, "sha256": digest.hexdigest()}


def sync(path: Path) -> None:
    """Make a file's bytes, or the names in a folder, durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
