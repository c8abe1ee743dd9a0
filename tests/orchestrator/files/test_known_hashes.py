"""What an earlier driver has hashed is not hashed again, as long as nobody has touched it."""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from pathlib import Path

import pytest

from orchestrator.errors import Damaged
from orchestrator.files import identity, known_hashes
from orchestrator.files.known_hashes import HASHES_CACHE
from tests.orchestrator.files.test_identity import read_so_far, written


@pytest.fixture(autouse=True)
def own_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is known yet, as in a process of one's own."""
    monkeypatch.setattr(identity, "HASHED", {})
    monkeypatch.setattr(identity, "SOUND", set())
    monkeypatch.setattr(identity, "NEW", identity.New())


def restart(root: Path) -> None:
    identity.HASHED.clear()
    identity.SOUND.clear()
    known_hashes.load(root)


def test_a_file_is_not_read_again_unless_it_was_touched(tmp_path: Path) -> None:
    files = written(tmp_path, 9)
    for file in files:
        identity.sha256(file)
    (tmp_path / HASHES_CACHE).write_bytes(known_hashes.content())
    touched, times = tmp_path / "3", (tmp_path / "3").stat()
    touched.write_bytes(b"!" * times.st_size)
    os.utime(touched, ns=(times.st_atime_ns, times.st_mtime_ns))
    restart(tmp_path)
    before = read_so_far()
    assert all(identity.sha256(file)[1] == sha for file, sha in files.items() if file != touched)
    assert read_so_far() - before < 1000
    assert identity.sha256(touched)[1] == hashlib.sha256(b"!" * times.st_size).hexdigest()


def test_what_was_right_is_not_looked_at_again_unless_it_was_touched(tmp_path: Path) -> None:
    file, touched, wrong = written(tmp_path, 3)
    looked = list[tuple[str, str]]()

    def look(path: Path, what: str) -> None:
        def note() -> None:
            looked.append((path.name, what))
            if path == wrong:
                raise Damaged("wrong")

        with contextlib.suppress(Damaged):
            identity.look_once(path, what, note)

    for path in (file, touched, wrong, file, touched, wrong):
        look(path, "masks")
    look(file, "columns")
    assert looked == [("0", "masks"), ("1", "masks"), ("2", "masks"), ("2", "masks"), ("0", "columns")]
    (tmp_path / HASHES_CACHE).write_bytes(known_hashes.content())
    touched.write_bytes(touched.read_bytes())
    restart(tmp_path)
    looked.clear()
    for path in (file, touched, wrong):
        look(path, "masks")
    assert looked == [("1", "masks"), ("2", "masks")]


def test_a_renamed_file_keeps_its_hash_where_nobody_wrote_to_it(tmp_path: Path) -> None:
    [(file, sha)] = written(tmp_path, 1).items()
    was = identity.identity(file).written
    file.rename(tmp_path / "new")
    identity.renamed(tmp_path / "new", was, sha)
    assert {identity.identity(tmp_path / "new"): sha} == identity.HASHED
    identity.HASHED.clear()
    time.sleep(0.02)
    (tmp_path / "new").write_bytes(b"x" * was.size)
    identity.renamed(tmp_path / "new", was, sha)
    assert identity.HASHED == {}


@pytest.mark.parametrize("spoil", ["another user", "a byte", "another name", "a link"])
def test_a_strangers_hashes_are_not_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spoil: str) -> None:
    for file in written(tmp_path, 2):
        identity.sha256(file)
    cache = tmp_path / HASHES_CACHE
    identity.look_once(tmp_path / "0", "masks", lambda: None)
    content = known_hashes.content()
    cache.write_bytes(content)
    restart(tmp_path)
    assert len(identity.HASHED) == 2 and len(identity.SOUND) == 1
    if spoil == "another user":
        monkeypatch.setenv("RATCHET_STATE_HOME", str(tmp_path / "state"))
    elif spoil == "a byte":
        cache.write_bytes(content.replace(b"a", b"b"))
    elif spoil == "another name":
        cache.write_bytes(known_hashes.sealed.content("other.cache", []))
    else:
        cache.rename(tmp_path / "there")
        cache.symlink_to(tmp_path / "gone")
    restart(tmp_path)
    assert not identity.HASHED and not identity.SOUND


def test_it_is_kept_once_there_is_much_of_it(tmp_path: Path) -> None:
    files = written(tmp_path, 2)
    for file in files:
        identity.sha256(file)
    assert not known_hashes.is_due()
    identity.NEW.files = known_hashes.MIN_FILES
    assert known_hashes.is_due() and known_hashes.content() and not known_hashes.is_due()
