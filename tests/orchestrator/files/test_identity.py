"""Large files are hashed at the same time, and what is known of them is what they are."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path

import pytest

from orchestrator.errors import Damaged
from orchestrator.files import identity
from orchestrator.files.identity import hash_ahead, sha256


def written(folder: Path, count: int) -> dict[Path, str]:
    """Files of some bytes, whose times have settled, with their sha256."""
    found = {}
    for number in range(count):
        content = bytes([number]) * (1000 + number)
        (folder / str(number)).write_bytes(content)
        found[folder / str(number)] = hashlib.sha256(content).hexdigest()
    time.sleep(0.05)
    return found


def read_so_far() -> int:
    """Bytes that this process has read."""
    return int(Path("/proc/self/io").read_text().split()[1])


def test_files_that_were_hashed_ahead_are_not_read_again(tmp_path: Path) -> None:
    files = written(tmp_path, 20)
    hash_ahead([*files, *files], large=1000)
    before = read_so_far()
    found = {file: sha256(file)[1] for file in files}
    assert read_so_far() - before < 1000
    assert found == files


def test_one_that_is_small_or_cannot_be_read_is_left_to_whoever_reads_it(tmp_path: Path) -> None:
    files = written(tmp_path, 4)
    os.mkfifo(tmp_path / "pipe")
    hash_ahead([*files, tmp_path / "pipe", tmp_path / "missing"], large=1002)
    known = {file for file in files if identity.identity(file) in identity.HASHED}
    assert known == {tmp_path / "2", tmp_path / "3"}
    with pytest.raises(Damaged, match="no regular file"):
        sha256(tmp_path / "pipe")
    with pytest.raises(FileNotFoundError):
        sha256(tmp_path / "missing")


def test_one_that_changes_afterwards_is_read_again(tmp_path: Path) -> None:
    first, second = written(tmp_path, 2)
    hash_ahead([first, second], large=0)
    second.write_bytes(b"other")
    assert sha256(second)[1] == hashlib.sha256(b"other").hexdigest()
