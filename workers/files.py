"""Files that others can rely on: on the disk, with size and sha256."""

from __future__ import annotations

import hashlib
import io
import os
import uuid
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq


def write_table(table: pa.Table, path: str | Path) -> dict[str, Any]:
    """Write a table (zstd) and fsync it; returns {"size": bytes, "sha256": hex, "inode": number, "mtime_ns": time} of
    the file: the last two tell whoever commits it that it is the one that was hashed."""
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    content = buffer.getvalue()
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
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


def file_facts(path: Path) -> dict[str, Any]:
    """{"size": bytes, "sha256": hex} of a file."""
    with open(path, "rb") as file:
        return {"size": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def sync(path: Path) -> None:
    """Make a file's bytes, or the names in a folder, durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
