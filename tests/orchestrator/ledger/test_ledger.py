"""The ledger: one winner a number, the newest claim drives, whatever the interleaving; damage is named."""

from __future__ import annotations

import json
import shutil
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from orchestrator.errors import BadInput, Damaged, Displaced
from orchestrator.files.durable import put_if_absent
from orchestrator.ledger.ledger import Artifact, Ledger, probe_links
from orchestrator.ledger.run import Run


def commit(step: str, **facts: Any) -> dict[str, Any]:
    return {"step": step, "fingerprint": "f", "artifacts": [], "facts": facts}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_readers_share_what_a_record_says_and_records_their_words(tmp_path: Path) -> None:
    """A long run has thousands of shards, and several readers."""
    driver = Ledger(tmp_path / "ledger")
    driver.claim({})
    driver.append("commit", commit("a", pairs=1))
    driver.append("commit", commit("b", pairs=2))
    for reader in (driver, Ledger(tmp_path / "ledger")):
        first, second = (reader.state.commits[step].facts for step in "ab")
        assert reader.as_it_is().state.commits["a"].facts is first == {"pairs": 1}
        assert next(iter(first)) is next(iter(second))


def test_a_name_is_given_once(tmp_path: Path) -> None:
    path = tmp_path / "00000000.json"
    assert put_if_absent(path, b"first")
    assert not put_if_absent(path, b"second")
    assert path.read_bytes() == b"first"
    assert names(tmp_path) == [path.name]  # no temporary file is left


def test_of_many_at_once_one_wins(tmp_path: Path) -> None:
    path, num_writers = tmp_path / "record", 8
    together = threading.Barrier(num_writers)

    def write(i: int) -> bool:
        together.wait()
        return put_if_absent(path, str(i).encode() * 1000)

    with ThreadPoolExecutor(num_writers) as pool:
        won = list(pool.map(write, range(num_writers)))
    assert won.count(True) == 1
    assert path.read_bytes() == str(won.index(True)).encode() * 1000


def test_a_folder_that_cannot_take_a_record_raises(tmp_path: Path) -> None:
    with pytest.raises(OSError):
        put_if_absent(tmp_path / "missing" / "record", b"")


def test_what_was_appended_is_read_back(tmp_path: Path) -> None:
    driver = Ledger(tmp_path / "ledger")
    assert driver.claim({"host": "a", "pid": 1}) == 1
    record = driver.append("commit", commit("rounds/01/pairs", pairs=3))
    assert (record.number, record.epoch, record.kind) == (1, 1, "commit")
    reader = Ledger(tmp_path / "ledger")
    assert reader.records == driver.records and reader.state == driver.state
    assert reader.state.commits["rounds/01/pairs"].facts == {"pairs": 3}
    assert reader.refresh() == []
    driver.append("end", {"state": "finished", "reason": ""})
    assert [r.kind for r in reader.refresh()] == ["end"]


def test_nobody_appends_without_a_claim(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="claim"):
        Ledger(tmp_path / "ledger").append("end", {})


def test_the_older_driver_is_displaced_and_told_by_whom(tmp_path: Path) -> None:
    older, newer = Ledger(tmp_path / "ledger"), Ledger(tmp_path / "ledger")
    older.claim({"host": "a", "pid": 1})
    older.append("commit", commit("one"))
    assert newer.claim({"host": "b", "pid": 2}) == 2
    for _ in range(2):  # it stays displaced
        with pytest.raises(Displaced, match="process 2 on b, epoch 2"):
            older.append("commit", commit("two"))
    newer.append("commit", commit("two"))
    assert sorted(Ledger(tmp_path / "ledger").state.commits) == ["one", "two"]


def test_a_displaced_driver_that_has_read_on_still_may_not_append(tmp_path: Path) -> None:
    older, newer = Ledger(tmp_path / "ledger"), Ledger(tmp_path / "ledger")
    older.claim({"host": "a", "pid": 1})
    newer.claim({"host": "b", "pid": 2})
    older.refresh()  # now it knows the next free number
    with pytest.raises(Displaced):
        older.append("commit", commit("one"))
    assert len(Ledger(tmp_path / "ledger").records) == 2


def test_claims_at_the_same_moment_get_an_epoch_each(tmp_path: Path) -> None:
    num_drivers = 6
    together = threading.Barrier(num_drivers)

    def claim(i: int) -> int:
        ledger = Ledger(tmp_path / "ledger")
        together.wait()
        return ledger.claim({"pid": i})

    with ThreadPoolExecutor(num_drivers) as pool:
        epochs = list(pool.map(claim, range(num_drivers)))
    assert sorted(epochs) == list(range(1, num_drivers + 1))
    records = Ledger(tmp_path / "ledger").records
    assert [r.epoch for r in records] == sorted(epochs)
    assert [epochs[r.data["pid"]] for r in records] == sorted(epochs)


def test_the_first_commit_of_a_step_or_shard_stands(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger")
    ledger.claim({})
    for value in (1, 2):
        artifact = Artifact(f"p{value}", ".p", {"": {"size": 1, "sha256": "0" * 64}}).as_json()
        ledger.append("shard", {"step": "s", "index": 0, "artifact": artifact, "facts": {"samples": value}})
        ledger.append("commit", commit("t", value=value))
    assert ledger.state.shards["s"][0].facts == {"samples": 1}
    assert ledger.state.commits["t"].facts == {"value": 1}
    assert [a.path for a in ledger.state.artifacts()] == ["p1"]


def test_a_new_claim_takes_back_the_end(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger")
    ledger.claim({})
    ledger.append("end", {"state": "failed", "reason": "x"})
    assert ledger.state.end == {"state": "failed", "reason": "x"}
    Ledger(tmp_path / "ledger").claim({})
    ledger.refresh()
    assert ledger.state.end is None


def test_temporary_files_of_a_dead_driver_are_not_read(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger")
    ledger.claim({})
    (tmp_path / "ledger" / ".00000001.json.0123").write_bytes(b"{half")
    assert len(Ledger(tmp_path / "ledger").records) == 1
    ledger.append("commit", commit("one"))
    assert len(Ledger(tmp_path / "ledger").records) == 2


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b'{"schema": 1, "number": 1',
        b"[]",
        b"\xff\xfe",
        json.dumps({"schema": 1, "number": 1, "epoch": 1, "kind": "commit"}).encode(),
        json.dumps({"schema": 1, "number": 7, "epoch": 1, "kind": "end", "time": 0, "data": {}}).encode(),
    ],
)
def test_a_damaged_record_is_named(tmp_path: Path, content: bytes) -> None:
    ledger = Ledger(tmp_path / "ledger")
    ledger.claim({})
    ledger.append("commit", commit("one"))
    (tmp_path / "ledger" / "00000001.json").write_bytes(content)
    with pytest.raises(Damaged, match=r"00000001\.json"):
        Ledger(tmp_path / "ledger")


def test_a_newer_schema_is_refused_by_name(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger")
    ledger.claim({})
    record = {"schema": 99, "number": 1, "epoch": 1, "kind": "end", "time": 0, "data": {}}
    (tmp_path / "ledger" / "00000001.json").write_text(json.dumps(record))
    with pytest.raises(BadInput, match="newer Ratchet"):
        ledger.refresh()


def test_the_probe_leaves_nothing_and_names_a_bad_folder(tmp_path: Path) -> None:
    probe_links(tmp_path / "run")
    assert names(tmp_path / "run") == []
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="writable folder with hard links"):
        probe_links(tmp_path / "file" / "run")


class Drivers(RuleBasedStateMachine):
    """Drivers of one ledger in any interleaving, against a list of what must have been written."""

    @initialize()
    def begin(self) -> None:
        self.root = Path(tempfile.mkdtemp())
        self.drivers = [Ledger(self.root / "ledger") for _ in range(2)]
        self.epochs: list[int | None] = [None, None]
        self.written: list[tuple[int, str, Any]] = []
        self.newest = 0

    which = st.integers(0, 1)

    @rule(i=which)
    def claim(self, i: int) -> None:
        self.newest += 1
        assert self.drivers[i].claim({"pid": i}) == self.newest
        self.epochs[i] = self.newest
        self.written.append((self.newest, "claim", {"pid": i}))

    @precondition(lambda self: self.newest > 0)
    @rule(i=which, value=st.integers())
    def append(self, i: int, value: int) -> None:
        if self.epochs[i] is None:
            return
        data = commit(f"step-{len(self.written)}", value=value)
        if self.epochs[i] == self.newest:
            assert self.drivers[i].append("commit", data).number == len(self.written)
            self.written.append((self.newest, "commit", data))
        else:
            with pytest.raises(Displaced):
                self.drivers[i].append("commit", data)

    @rule(i=which)
    def read(self, i: int) -> None:
        self.drivers[i].refresh()
        assert len(self.drivers[i].records) == len(self.written)

    @rule(i=which)
    def crash_and_start_again(self, i: int) -> None:
        self.drivers[i], self.epochs[i] = Ledger(self.root / "ledger"), None

    @invariant()
    def the_ledger_is_what_was_written(self) -> None:
        reader = Ledger(self.root / "ledger")
        assert [(r.epoch, r.kind, r.data) for r in reader.records] == self.written
        assert [r.number for r in reader.records] == list(range(len(self.written)))
        assert reader.state.epoch == self.newest

    def teardown(self) -> None:
        if hasattr(self, "root"):
            shutil.rmtree(self.root)


TestDrivers = Drivers.TestCase
TestDrivers.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        ("discard", {"paths": ["../neighbour"]}),
        ("discard", {"paths": ["/home/somebody"]}),
        ("commit", {"artifacts": [{"path": "../x", "hidden": "rounds/.x-e1", "files": {}}]}),
        ("commit", {"artifacts": [{"path": "x", "hidden": "/tmp/x", "files": {}}]}),
        ("commit", {"artifacts": [{"path": "x", "hidden": "y", "files": {"../../x": {}}}]}),
        ("shard", {"step": "a/../../b", "index": 0}),
    ],
)
def test_a_record_that_reaches_out_of_the_run_is_refused(tmp_path: Path, kind: Any, data: dict[str, Any]) -> None:
    """A run folder may come from somebody else, and names in its records are moved and removed."""
    Ledger(tmp_path).claim({})
    document = {"schema": 1, "number": 1, "epoch": 1, "kind": kind, "time": 0.0, "data": data}
    (tmp_path / "00000001.json").write_text(json.dumps(document))
    with pytest.raises(Damaged, match=r"inside (the run|its folder)"):
        Ledger(tmp_path)


def test_a_link_out_of_the_run_is_not_followed(tmp_path: Path) -> None:
    outside, run = tmp_path / "outside", Run(tmp_path / "run")
    (outside / "old").mkdir(parents=True)
    run.root.mkdir()
    (run.root / "rounds").symlink_to(outside)
    run.ledger.claim({})
    run.ledger.append("discard", {"paths": ["rounds/old"]})
    with pytest.raises(Damaged, match="leads out of the run"):
        Run(run.root).claim({})
    assert (outside / "old").is_dir()


def test_a_ledger_that_was_moved_away_is_not_made_anew_by_a_claim(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "run/ledger")
    ledger.claim({})
    (tmp_path / "run").rename(tmp_path / "moved")
    with pytest.raises(FileNotFoundError):
        ledger.claim({})
    assert not (tmp_path / "run").exists()
