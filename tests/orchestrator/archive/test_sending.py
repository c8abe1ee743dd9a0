"""A run is sent to its archive: what is there, in which order, and what is refused."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.archive.checksums import checksums
from orchestrator.archive.disk import DiskStore
from orchestrator.archive.sender import Sender, standing
from orchestrator.commands.archive import archive
from orchestrator.commands.fork.command import fork
from orchestrator.commands.gc import clean
from orchestrator.commands.verify.command import verify
from orchestrator.config import Job
from orchestrator.driver.drive import identity
from orchestrator.driver.resume import resumed
from orchestrator.errors import BadInput, RatchetError
from orchestrator.ledger.ledger import Ledger, State
from orchestrator.reports.status import status
from tests.orchestrator.test_resume import go
from tests.support.sample_run import two_rounds
from tests.support.stand_ins import StandIns, make_project, run_job


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, and its archive beside it."""
    folder = tmp_path_factory.mktemp("made")
    job = make_project(folder, archive=f"{folder}/archives/{{name}}-{{seed}}")
    (folder / "archives").mkdir()
    assert not [line for line in run_job(job, StandIns()) if line.startswith("archive")], "there is nothing to say"
    return folder


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made / "run", tmp_path / "run")
    (tmp_path / "run/archiving.json").unlink()
    return tmp_path / "run"


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def send(run: Path, address: object, **more: object) -> Sender:
    sender = Sender(run, str(address), **more)  # type: ignore[arg-type]
    sender.flush()
    return sender


class Dying(DiskStore):
    """A store that takes so many writes, and no more."""

    def __init__(self, folder: Path, left: int = 10**9) -> None:
        super().__init__(folder)
        self.left, self.order = left, list[str]()

    def _one(self, name: str) -> None:
        if self.left == 0:
            raise ConnectionError("the store has died")
        self.left -= 1
        self.order.append(name)

    def write(self, name: str, content: bytes) -> None:
        self._one(name)
        super().write(name, content)

    def send(self, file: Path, name: str, moved: Callable[[int], None]) -> None:
        self._one(name)
        super().send(file, name, moved)


def test_an_archive_has_the_run_folders_own_layout_and_nothing_else(made: Path) -> None:
    """So any other tool can copy it, too. No signs of life, caches, hidden names or logs."""
    there, here = files_of(made / "archives/tiny-3"), files_of(made / "run")
    assert {name for name in there if name not in here} == {"archive.json"}
    kept = {"archiving.json", "progress.json", "metrics.jsonl"}
    assert here.keys() - there.keys() - {"hashes.cache"} == kept, "that cache is written after some seconds"
    assert all(here[name] == content for name, content in there.items() if name != "archive.json")
    assert verify(made / "archives/tiny-3").findings == []


def test_status_tells_how_far_it_is(made: Path) -> None:
    records = len(Ledger(made / "run/ledger").records)
    told = {"address": f"{made}/archives/tiny-3", "records": records, "of": records, "problem": None}
    assert status(made / "run")["archive"] == told


def test_what_is_under_way_stays_at_home(run: Path, tmp_path: Path) -> None:
    views = ("driver.json", "tracking.json", "progress.json", "metrics.jsonl")
    signs = (*views, "ledger.cache", "inputs.cache", "hashes.cache")
    for name in (*signs, "logs/worker.txt", "rounds/01/.train-e1-a9/state.bin"):
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_text("a token")
    (run / "judge").mkdir()
    (run / "judge/answer.json").write_text("paid for")
    (run / "judge/out").symlink_to("/etc/passwd")
    (run / "judge/.answer.json.new").write_text("half")
    (run / "verdicts").mkdir()
    (run / "verdicts/people.jsonl").write_text("theirs\n")
    assert send(run, tmp_path / "archive").problem is None
    there = files_of(tmp_path / "archive")
    assert b"a token" not in there.values() and not [name for name in there if "/." in name or "out" in name]
    assert there["judge/answer.json"] == b"paid for" and there["verdicts/people.jsonl"] == b"theirs\n"


def test_wherever_the_store_dies_there_is_a_history_that_verifies(run: Path, tmp_path: Path) -> None:
    """And what was sent before is not sent again."""
    whole = Dying(tmp_path / "whole")
    assert send(run, "x", keep=False, opened=lambda _: whole).problem is None
    records = [name for name in whole.order if name.startswith("ledger/")]
    assert records == sorted(records) and whole.order[-1] == "archive.json"
    for left in range(1, len(whole.order), 13):
        there = Dying(tmp_path / f"archive-{left}", left)
        assert "has died" in str(send(run, "x", keep=False, opened=lambda _, at=there: at).problem)
        if (there.folder / "ledger").is_dir():
            assert verify(there.folder).findings == []
        there.left = 10**9
        assert send(run, "x", keep=False, opened=lambda _, at=there: at).problem is None
        assert len(there.order) == len(set(there.order)) == len(whole.order)
        assert verify(there.folder).findings == []


def test_an_unreachable_archive_is_told_once_and_costs_the_run_nothing(tmp_path: Path) -> None:
    job = make_project(tmp_path / "project", archive=f"{tmp_path}/not mounted/x")
    said = [line for line in run_job(job, StandIns()) if line.startswith("archive")]
    assert len(said) == 2 and "mount its disk" in said[0] and "the run goes on" in said[0]
    assert "is not whole" in said[1] and f"ratchet archive {tmp_path}/project/run" in said[1]
    run = tmp_path / "project/run"
    assert status(run)["state"] == "finished" and "mount its disk" in status(run)["archive"]["problem"]
    (tmp_path / "not mounted").mkdir()
    go(resumed(run))
    assert status(run)["archive"]["problem"] is None and verify(tmp_path / "not mounted/x").findings == []


def test_a_round_is_there_before_the_run_has_ended(tmp_path: Path) -> None:
    """A driver that breaks in the second round leaves the first one in the archive."""
    calls = list[str]()

    def on_call(name: str) -> None:
        calls.append(name)
        if len(calls) == 1:  # so that one that cannot be reached is told of soon
            deadline = time.monotonic() + 400
            while not (tmp_path / "archive/archive.json").exists():
                assert time.monotonic() < deadline, "nothing is sent when the run starts"
                time.sleep(0.05)
        if calls.count("train") == 2:
            deadline = time.monotonic() + 400
            while not there().promotions:
                assert time.monotonic() < deadline, "the round has ended, and is not archived"
                time.sleep(0.05)
            raise RuntimeError("a bug")

    def there() -> State:
        return Ledger(tmp_path / "archive/ledger").state

    job = make_project(tmp_path / "project", archive=f"{tmp_path}/archive")
    with pytest.raises(RuntimeError):
        run_job(job, StandIns(on_call=on_call))
    assert len(there().promotions) == 1 and (there().end or {})["state"] == "failed"
    go(resumed(tmp_path / "project/run"))
    assert there().finished and verify(tmp_path / "archive").findings == []


def test_another_runs_archive_is_left_alone(run: Path, tmp_path: Path) -> None:
    two_rounds(tmp_path / "other")
    send(tmp_path / "other", tmp_path / "archive")
    before = files_of(tmp_path / "archive")
    assert "is the archive of another run (sample)" in str(send(run, tmp_path / "archive").problem)
    (tmp_path / "archive/archive.json").unlink()  # as where its first flush was cut off
    assert "is the archive of another run" in str(send(run, tmp_path / "archive").problem)
    assert files_of(tmp_path / "archive").items() == {k: v for k, v in before.items() if k != "archive.json"}.items()


@pytest.mark.parametrize("marked", [True, False])
def test_a_copy_that_went_on_does_not_write_over_the_history(run: Path, tmp_path: Path, marked: bool) -> None:
    """Neither does a run that was restored from an older copy and went on otherwise."""
    shutil.copytree(run, tmp_path / "copy")
    assert send(run, tmp_path / "archive").problem is None
    Ledger(tmp_path / "copy/ledger").claim(identity())
    Ledger(run / "ledger").claim(identity())
    assert send(tmp_path / "copy", tmp_path / "archive").problem is None
    before = files_of(tmp_path / "archive")
    if not marked:  # the copy was cut off before it had said how far it came
        said = json.loads(before["archive.json"])
        said |= {"records": said["records"] - 1, "last": "0" * 64}
        last = tmp_path / f"archive/ledger/{said['records'] - 1:08d}.json"
        said["last"] = checksums(last).sha256
        (tmp_path / "archive/archive.json").write_text(json.dumps(said))
        before = files_of(tmp_path / "archive")
    assert "with another history" in str(send(run, tmp_path / "archive").problem)
    assert files_of(tmp_path / "archive") == before


def test_a_displaced_driver_leaves_the_archive_to_its_successor(run: Path, tmp_path: Path) -> None:
    ledger = Ledger(run / "ledger")
    ledger.claim(identity())
    sender = Sender(run, str(tmp_path / "archive"))
    Ledger(run / "ledger").claim(identity() | {"pid": 1})
    assert sender.flush() and not (tmp_path / "archive").exists()


def test_nothing_is_written_where_a_link_of_the_archive_leads(run: Path, tmp_path: Path) -> None:
    (tmp_path / "archive").mkdir()
    (tmp_path / "mine").mkdir()
    (tmp_path / "archive/rounds").symlink_to(tmp_path / "mine")
    assert "a link leads it out of the archive" in str(send(run, tmp_path / "archive").problem)
    assert list((tmp_path / "mine").iterdir()) == []


def test_what_is_damaged_at_home_is_not_archived(run: Path, tmp_path: Path) -> None:
    file = run / "rounds/02/pairs/00000.parquet"
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    assert "is not what was committed" in str(send(run, tmp_path / "archive").problem)
    assert not (tmp_path / "archive/ledger").exists()


class Moved(type(Path())):  # type: ignore[misc]
    """A run's folder that is moved away as soon as one of its files is asked for, but those of `not_yet`."""

    not_yet = ("ledger",)
    moved = False

    def __truediv__(self, name: str | Path) -> Path:
        if not self.moved and str(name) not in self.not_yet:
            self.moved = True
            os.rename(self, f"{self}-elsewhere")
        return Path(self) / name


def test_a_run_that_is_moved_meanwhile_is_said_to_be(run: Path, tmp_path: Path) -> None:
    """Not to lack files; by a driver's own archiving, and by hand."""
    assert send(Moved(run), tmp_path / "archive").problem == f"{run}: was moved or removed while it was looked at"
    os.rename(f"{run}-elsewhere", run)
    with pytest.raises(BadInput, match=r"run: was moved or removed while it was looked at$"):
        archive(Moved(run), str(tmp_path / "archive"))
    assert not run.exists()


@pytest.mark.parametrize(
    ("put", "said"),
    [
        (os.mkfifo, "is no regular file"),  # which would be waited for
        (lambda file: file.symlink_to("/dev/zero"), "leads out of the run"),
        (lambda file: file.symlink_to(Path(__file__)), "leads out of the run"),
        (lambda file: file.write_bytes(b"") or os.truncate(file, 2**40), "is not what was committed"),
    ],
    ids=["a pipe", "a device", "a link", "a file without end"],
)
def test_what_stands_in_a_committed_files_place_is_not_read(
    run: Path, tmp_path: Path, put: Callable[[Path], object], said: str
) -> None:
    file = run / "rounds/01/checkpoint/model.safetensors"
    file.unlink()
    put(file)
    assert said in str(send(run, tmp_path / "archive").problem)


@pytest.mark.parametrize("name", ["thesis.tex", "rounds.txt", "photos/one.jpg"])
def test_a_folder_that_holds_other_things_becomes_no_archive(run: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "own" / name).parent.mkdir(parents=True)
    (tmp_path / "own" / name).write_text("mine")
    before = files_of(tmp_path / "own")
    with pytest.raises(RatchetError, match=r"own is no archive, and has other things in it, .*such as a new folder"):
        archive(run, str(tmp_path / "own"))
    with pytest.raises(RatchetError, match="is no archive"):
        standing(tmp_path / "not-begun", str(tmp_path / "own"))
    assert files_of(tmp_path / "own") == before
    archive(run, str(tmp_path / "own/new"))
    (tmp_path / "own/new/notes.txt").write_text("what somebody adds to an archive is let be")
    assert archive(run, str(tmp_path / "own/new")).sent.files == 0


def test_a_disk_that_is_empty_but_for_its_own_folders_may_hold_an_archive(run: Path, tmp_path: Path) -> None:
    for name in ("lost+found", ".snapshot"):
        (tmp_path / "disk" / name).mkdir(parents=True)
    assert archive(run, str(tmp_path / "disk")).records


@pytest.mark.parametrize("name", ["job.yaml", "report.md"])
def test_a_folder_of_somebodys_own_files_is_left_alone(run: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / name).write_text("mine")
    assert f"has a `{name}`, which would be written over" in str(send(run, tmp_path / "project").problem)
    assert files_of(tmp_path / "project") == {name: b"mine"}


def test_by_hand_all_of_it_is_looked_at_and_mended(run: Path, tmp_path: Path) -> None:
    assert send(run, tmp_path / "archive").sent.there == 0
    before = files_of(tmp_path / "archive")
    wrong = tmp_path / "archive/rounds/01/samples/00000.parquet"
    wrong.write_bytes(b"?" * wrong.stat().st_size)
    (tmp_path / "archive/baseline/evaluation").rename(tmp_path / "gone")
    assert send(run, tmp_path / "archive").problem is None and wrong.read_bytes()[:1] == b"?", "it was sent before"
    made = archive(run, str(tmp_path / "archive"))
    gone = sum(1 for path in (tmp_path / "gone").rglob("*") if path.is_file())
    assert made.sent.files == 1 + gone and files_of(tmp_path / "archive") == before


def test_by_hand_the_runs_own_word_is_not_enough(made: Path, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RATCHET_STATE_HOME", str(run.parent / "state"))  # a user who has approved nothing
    with pytest.raises(BadInput, match="nobody has approved it here"):
        archive(run, None)
    monkeypatch.undo()
    assert archive(run, None).address == f"{made}/archives/tiny-3"


def test_what_was_discarded_stays_there_and_is_not_sent_later(tmp_path: Path) -> None:
    job = make_project(tmp_path / "project", archive=f"{tmp_path}/archive", rounds=3)
    run_job(job, StandIns())
    run = tmp_path / "project/run"
    go(resumed(run, ["keep.checkpoints=1"]))
    clean(run, identity())
    assert not (run / "rounds/01/checkpoint").exists()
    go(resumed(run))
    assert (tmp_path / "archive/rounds/01/checkpoint").exists()
    assert archive(run, str(tmp_path / "late")).sent.files and not (tmp_path / "late/rounds/01/checkpoint").exists()
    assert verify(tmp_path / "late").findings == [] == verify(tmp_path / "archive").findings


@pytest.mark.skipif(importlib.util.find_spec("gcsfs") is not None, reason="gcsfs is installed here")
def test_a_missing_package_is_named_before_the_run_starts(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="pip install gcsfs"):
        run_job(make_project(tmp_path, archive="gs://bucket/{name}"), StandIns())
    assert not (tmp_path / "run/ledger").exists()


def test_a_fork_takes_over_an_address_only_with_a_name_in_it(run: Path, tmp_path: Path) -> None:
    def archive_of(child: str, *overrides: str) -> str | None:
        fork(run, tmp_path / child, list(overrides))
        return Job.model_validate(Ledger(tmp_path / child / "ledger").state.configs[-1]["job"]).archive

    assert str(archive_of("one")).endswith("/archives/{name}-{seed}")
    shared = go(resumed(run, [f"archive={tmp_path}/archive"], lambda _: None))
    assert shared == run and archive_of("two") is None and archive_of("three", "archive=/x/y") == "/x/y"


def test_checksums_are_those_that_s3_tells(tmp_path: Path) -> None:
    """Of `abcdefghij`: the MD5, and that of the MD5s of `abcd`, `efgh` and `ij`, computed by hand with md5sum."""
    (tmp_path / "file").write_bytes(b"abcdefghij")
    found = checksums(tmp_path / "file", chunk=4)
    assert found.size == 10 and found.etags == (
        "a925576942e94b2ef57a066101b48876",
        "446feba4c1b5cc7ad93bf4d44a0e36ac-3",
    )


def test_by_hand_a_run_without_an_address_asks_for_one(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="names no archive"):
        archive(two_rounds(tmp_path / "run").root, None)
    with pytest.raises(RatchetError, match="mount its disk"):
        archive(tmp_path / "run", str(tmp_path / "not/there"))
