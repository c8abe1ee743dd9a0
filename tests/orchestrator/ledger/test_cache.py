"""The cache of a ledger's records, and how often a start reads the ledger."""

from __future__ import annotations

import hashlib
import hmac
import os
import shutil
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.errors import Damaged
from orchestrator.files import user_state
from orchestrator.ledger import cache
from orchestrator.ledger.ledger import Ledger
from tests.support.stand_ins import StandIns, make_project, run_job

SHARDS = cache.MIN_NEW + 3
_OPENED: list[str] | None = None


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a long ledger, which a later driver has claimed; its cache lacks the last record."""
    root = tmp_path_factory.mktemp("long") / "run"
    ledger = Ledger(root / "ledger")
    ledger.claim({"host": "one", "pid": 1})
    for index in range(SHARDS):
        file = {"": {"size": index, "sha256": f"{index:064x}"}}
        folder, name = "rounds/01/samples", f"{index:05d}.parquet"
        artifact = {"path": f"{folder}/{name}", "hidden": f"{folder}/.{name}-e1", "files": file}
        ledger.append("shard", {"step": "rounds/01/samples", "index": index, "artifact": artifact, "facts": {}})
    Ledger(root / "ledger").claim({"host": "two", "pid": 2})
    later = Ledger(root / "ledger")
    later.claim({"host": "three", "pid": 3})
    return root


@pytest.fixture
def copied(long: Path, tmp_path: Path) -> Path:
    """A copy of the run. Its files are others, so that its first claim makes its cache anew."""
    shutil.copytree(long, tmp_path / "run")
    Ledger(tmp_path / "run" / "ledger").claim({"host": "four", "pid": 4})
    return tmp_path / "run"


@pytest.fixture
def opened() -> Iterator[list[str]]:
    """The paths that this process opens."""
    global _OPENED
    if not hasattr(sys, "_ratchet_opened"):
        sys._ratchet_opened = True  # type: ignore[attr-defined]  # a hook can't be taken back
        sys.addaudithook(_note)
    _OPENED = []
    yield _OPENED
    _OPENED = None


def _note(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open" and _OPENED is not None and isinstance(arguments[0], str | os.PathLike):
        _OPENED.append(os.fspath(arguments[0]))


def records_in(opened: list[str]) -> Counter[str]:
    return Counter(Path(path).name for path in opened if Path(path).parent.name == "ledger" and path.endswith(".json"))


def test_a_cached_history_is_not_read_again_and_says_the_same(copied: Path, opened: list[str]) -> None:
    cached = Ledger(copied / "ledger")
    assert len(records_in(opened)) <= 1, "no more than what came after the cache"
    (copied / "ledger.cache").unlink()
    read = Ledger(copied / "ledger")
    assert cached.records == read.records and cached.state == read.state
    assert len(read.records) == SHARDS + 4


@pytest.mark.parametrize("change", ["in place", "replaced", "gone"])
def test_a_record_that_was_changed_is_read(copied: Path, change: str) -> None:
    file = copied / "ledger" / f"{5:08d}.json"
    before = file.stat()
    text = file.read_bytes()
    other = text.replace(b'"index":4', b'"index":7')
    match change:
        case "in place":
            file.write_bytes(other)
            os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
        case "replaced":
            (copied / "new").write_bytes(other)
            os.utime(copied / "new", ns=(before.st_atime_ns, before.st_mtime_ns))
            os.replace(copied / "new", file)
        case "gone":
            file.unlink()
    with pytest.raises(Damaged, match=r"00000005\.json: this ledger record is"):
        Ledger(copied / "ledger")


def of_another_version(content: bytes) -> bytes:
    """With the user's own seal (files/sealed.py), and so as an earlier version has left it."""
    rest = content.partition(b"\n")[2]
    seal = hmac.new(user_state.sealing_key(), b"ledger.cache\n0.0.0\n" + rest, hashlib.sha256)
    return seal.hexdigest().encode() + b"\n" + rest


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[: len(content) // 2],
        lambda content: content.replace(b'"host": "one"', b'"host": "two"'),
        lambda content: b"",
        lambda content: b"[" * 100_000,
        lambda content: b'{"records": 1e999}\n[]\n[]',
        of_another_version,
    ],
    ids=["torn", "edited", "empty", "deep", "of records without end", "of another version"],
)
def test_a_cache_that_is_not_as_it_was_made_is_not_believed(copied: Path, damage: Any, opened: list[str]) -> None:
    said = Ledger(copied / "ledger").state
    file = copied / "ledger.cache"
    file.write_bytes(damage(file.read_bytes()))
    opened.clear()
    assert Ledger(copied / "ledger").state == said
    assert len(records_in(opened)) == SHARDS + 4


def test_a_cache_that_another_user_made_is_not_believed(
    copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a shared disk, it fits the files of the records and can say anything."""
    said = Ledger(copied / "ledger")
    records = [[r.epoch, r.kind, r.time, r.data] for r in said.records]
    records[-1] = [said.state.epoch, "claim", 1.0, {"host": "of no record", "pid": 1}]
    monkeypatch.setenv("RATCHET_STATE_HOME", str(tmp_path / "theirs"))
    cache.save(copied / "ledger.cache", copied / "ledger", records)
    assert Ledger(copied / "ledger").state.driver["host"] == "of no record", "this is what the seal keeps out"
    monkeypatch.setenv("RATCHET_STATE_HOME", str(tmp_path / "ours"))
    assert Ledger(copied / "ledger").state == said.state


def test_a_cache_that_is_no_file_is_passed_over(copied: Path) -> None:
    said = Ledger(copied / "ledger").state
    (copied / "ledger.cache").unlink()
    os.mkfifo(copied / "ledger.cache")
    assert Ledger(copied / "ledger").state == said


def test_a_short_history_has_no_cache(tmp_path: Path) -> None:
    Ledger(tmp_path / "run/ledger").claim({"host": "one", "pid": 1})
    Ledger(tmp_path / "run/ledger").claim({"host": "one", "pid": 1})
    assert not (tmp_path / "run/ledger.cache").exists()


def test_a_start_reads_the_ledger_once(tmp_path: Path, opened: list[str]) -> None:
    path = make_project(tmp_path, rounds=1)
    run_job(path, StandIns())
    before = {file.name for file in (tmp_path / "run/ledger").glob("*.json")}
    opened.clear()
    run_job(path, StandIns())
    # Its own records are read again, to see that they are still there.
    times = {name: number for name, number in records_in(opened).items() if name in before}
    assert times.keys() == before and set(times.values()) == {1}, times
