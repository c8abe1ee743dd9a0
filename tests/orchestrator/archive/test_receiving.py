"""`ratchet fetch`: a run is brought back, by whoever it was archived, and goes on; what is cut off goes on, too."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orchestrator.archive.disk import DiskStore
from orchestrator.archive.marker import digest, read_marker
from orchestrator.archive.receiver import Receiver
from orchestrator.archive.sender import Sender
from orchestrator.commands.fetch import fetch
from orchestrator.commands.verify.command import verify
from orchestrator.driver.resume import resumed
from orchestrator.errors import BadInput, Damaged, RatchetError
from orchestrator.reports.status import status
from tests.orchestrator.archive.test_sending import files_of
from tests.orchestrator.commands.test_verify_facts import seal
from tests.orchestrator.test_cli import PROJECT, ratchet
from tests.orchestrator.test_loop import history
from tests.orchestrator.test_resume import go
from tests.support.stand_ins import StandIns, make_project, run_job

TABLE = "rounds/01/samples/00000.parquet"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    run_job(make_project(folder, archive=f"{folder}/archive"), StandIns())
    return folder


@pytest.fixture
def there(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An archive, on a machine that has never seen its run."""
    shutil.copytree(made / "archive", tmp_path / "archive")
    monkeypatch.setenv("RATCHET_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("RATCHET_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "archive"


class Flaky(DiskStore):
    """A store that breaks after so many bytes were read, and counts them."""

    def __init__(self, folder: Path, left: int = 10**9) -> None:
        super().__init__(folder)
        self.left, self.bytes = left, 0

    def read(self, name: str, start: int, end: int) -> bytes:
        content = super().read(name, start, end)
        self.left -= len(content)
        if self.left < 0:
            raise RatchetError("the store has died")
        self.bytes += len(content)
        return content


def nothing(_: int) -> None:
    pass


def bring(store: DiskStore, target: Path) -> None:
    marker = read_marker(store)
    assert marker is not None
    with Receiver(store, marker, target) as receiver:
        receiver.files(receiver.state(nothing), nothing)


def change(archive: Path, **changes: Any) -> None:
    """Have an archive say something else of itself."""
    said = json.loads((archive / "archive.json").read_text())
    (archive / "archive.json").write_text(json.dumps(said | changes))


def test_a_fetched_run_verifies_and_goes_on_as_the_first_would(made: Path, there: Path, tmp_path: Path) -> None:
    found = fetch(f"{there}/", None)
    assert found.root == tmp_path / "home/runs/tiny" and not found.trusted and not found.needed
    own = ("archiving.json", "hashes.cache", "progress.json", "metrics.jsonl")
    here, first = (
        {name: content for name, content in files_of(run).items() if name not in own}
        for run in (found.root, made / "run")
    )
    assert here == first
    assert verify(found.root).findings == [] and status(found.root)["state"] == "finished"
    assert not [path for path in found.root.parent.iterdir() if path != found.root], "nothing is left beside it"
    with pytest.raises(BadInput, match="nobody has approved them here"):
        resumed(found.root)
    shutil.copytree(made / "run", tmp_path / "first")
    goes_on = ["rounds=3", f"archive={tmp_path}/new"]
    for run in (found.root, tmp_path / "first"):
        go(resumed(run, goes_on, lambda _: None))
    assert history(found.root) == history(tmp_path / "first")


def test_a_fetched_run_knows_that_its_archive_has_all_of_it(made: Path, there: Path, tmp_path: Path) -> None:
    """Before, `status` said that nothing was there."""
    fetch(f"{made}/archive/", tmp_path / "back")
    said = status(tmp_path / "back")["archive"]
    assert said == status(made / "run")["archive"] and said["records"] == said["of"] > 0


def test_what_it_needs_from_elsewhere_is_told(made: Path, there: Path, tmp_path: Path) -> None:
    shutil.move(made / "seed", made / "moved")
    try:
        found = fetch(str(there), tmp_path / "here")
    finally:
        shutil.move(made / "moved", made / "seed")
    assert found.needed == ("model=seed",)


def test_the_command_says_what_comes_next(there: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ratchet("fetch", there, tmp_path / "my run") == 0
    said = capsys.readouterr().out
    assert f"go on     ratchet resume '{tmp_path}/my run' --trust" in said
    assert ratchet("verify", tmp_path / "my run") == 0
    assert ratchet("fetch", there, tmp_path / "my run") == 2
    assert "this run is there already" in capsys.readouterr().err


@pytest.mark.parametrize("left", [300, 5_000, 20_000, 60_000])
def test_what_was_cut_off_goes_on(there: Path, tmp_path: Path, left: int) -> None:
    store, whole = Flaky(there, left), Flaky(there)
    with pytest.raises(RatchetError, match="the store has died"):
        bring(store, tmp_path / "a")
    assert not (tmp_path / "a").exists()
    store.left = 10**9
    bring(store, tmp_path / "a")
    bring(whole, tmp_path / "b")
    assert files_of(tmp_path / "a") == files_of(tmp_path / "b")
    marker_bytes = (there / "archive.json").stat().st_size
    assert store.bytes <= whole.bytes + 2 * marker_bytes, "nothing was fetched twice"


def test_a_file_that_was_cut_off_goes_on_within(there: Path, tmp_path: Path) -> None:
    """As one of many gigabytes would."""
    marker = read_marker(DiskStore(there))
    assert marker is not None
    with Receiver(DiskStore(there), marker, tmp_path / "run") as receiver:
        receiver.state(nothing)
        sizes = {item.name: item for item in receiver._items}
        item = sizes[TABLE]
        half = (there / TABLE).read_bytes()[: item.size // 2]
        (receiver.run.parent / f"part-{item.sha256[:16]}").write_bytes(half)
    store = Flaky(there)
    with Receiver(store, marker, tmp_path / "run") as receiver:
        state = receiver.state(nothing)
        store.bytes = 0
        received = receiver.files(state, nothing)
    assert store.bytes == received.bytes - len(half) and verify(tmp_path / "run").findings == []


def test_two_at_once_do_not_share_a_folder(there: Path, tmp_path: Path) -> None:
    marker = read_marker(DiskStore(there))
    assert marker is not None
    with (
        Receiver(DiskStore(there), marker, tmp_path / "run"),
        pytest.raises(RatchetError, match="another process fetches"),
        Receiver(DiskStore(there), marker, tmp_path / "run"),
    ):
        pass


NO_LOCKS = """
import errno, os, sys
from orchestrator.cli import main

def hook(event, arguments):
    if event == "fcntl.flock":
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

sys.addaudithook(hook)
main(["fetch", *sys.argv[1:]])
"""


def test_a_file_system_without_locks_is_fetched_to(there: Path, tmp_path: Path) -> None:
    """Nobody else is at it, though that cannot be asked."""
    command = [sys.executable, "-c", NO_LOCKS, str(there), str(tmp_path / "new")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=PROJECT)
    assert done.returncode == 0, done.stderr
    assert verify(tmp_path / "new").findings == []


def test_what_is_wrong_is_named_and_can_be_mended(made: Path, there: Path, tmp_path: Path) -> None:
    content = (there / TABLE).read_bytes()
    (there / TABLE).write_bytes(content[:-1] + b"?")
    (there / "rounds/02/pairs/00000.parquet").unlink()
    (there / "rounds/01/pairs/00000.parquet").write_bytes(b"more" * 10_000)
    with pytest.raises(Damaged) as error:
        fetch(str(there), tmp_path / "run")
    said = str(error.value)
    assert f"{TABLE}: is not what was committed" in said and "rounds/02/pairs/00000.parquet: is missing" in said
    assert "rounds/01/pairs/00000.parquet: has 40,000 bytes" in said and not (tmp_path / "run").exists()
    assert Sender(made / "run", str(there), keep=False).flush(whole=True)
    fetch(str(there), tmp_path / "run")
    assert verify(tmp_path / "run").findings == []


def _other_record(archive: Path) -> None:
    path = archive / "ledger/00000003.json"
    path.write_text(path.read_text().replace("sha256", "sha512"))


def _no_settings(archive: Path) -> None:
    content = (archive / "ledger/00000000.json").read_bytes()
    change(archive, records=1, record_bytes=len(content), last=digest(content))


def _leads_out(archive: Path) -> None:
    (archive / TABLE).unlink()
    (archive / TABLE).symlink_to("/dev/zero")


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda a: (a / "archive.json").unlink(), "no archive is there"),
        (lambda a: (a / "archive.json").write_text("{"), "is not what an archive says"),
        (lambda a: (a / "archive.json").write_text("[" * 10**5), "is not what an archive says"),
        (lambda a: change(a, schema=2), "this version knows 1"),
        (lambda a: change(a, beside={"../../evil": {"size": 1, "sha256": "0" * 64}}), "which no archive has"),
        (lambda a: change(a, beside={"judge/../../evil": {"size": 1, "sha256": "0" * 64}}), "which no archive has"),
        (lambda a: change(a, beside={"judge/x": {"size": 2**62, "sha256": "0" * 64}}), "which no archive has"),
        (lambda a: change(a, records=10**9), "numbers of what is there"),
        (lambda a: change(a, records=99), "is missing"),
        (lambda a: change(a, records=3), "is not the record"),
        (lambda a: change(a, record_bytes=2**62), "make room"),
        (lambda a: change(a, record_bytes=2000), "is not the record"),
        (lambda a: change(a, first="0" * 64), "is not the record"),
        (_other_record, "is damaged"),
        (lambda a: (a / "ledger/00000005.json").unlink(), "is missing"),
        (_leads_out, "is missing"),
        (_no_settings, "has no settings"),
        (lambda a: change(a, name="../evil"), "is no folder's name"),
    ],
)
def test_a_strangers_archive_is_believed_nothing(
    there: Path, tmp_path: Path, spoil: Callable[[Path], object], said: str
) -> None:
    spoil(there)
    with pytest.raises(RatchetError, match=said):
        fetch(str(there), None)
    assert not (tmp_path / "home/runs/tiny").exists() and not (tmp_path / "evil").exists()


def test_a_folder_that_is_taken_is_left_alone(there: Path, tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken/mine").write_text("mine")
    with pytest.raises(BadInput, match="something else is there"):
        fetch(str(there), tmp_path / "taken")
    assert files_of(tmp_path / "taken") == {"mine": b"mine"}
    (tmp_path / "empty").mkdir()
    assert fetch(str(there), tmp_path / "empty").root == tmp_path / "empty"


def test_a_view_that_was_being_sent_is_left_out(there: Path, tmp_path: Path) -> None:
    (there / "report.md").write_text("another")
    found = fetch(str(there), tmp_path / "run")
    assert found.received.left_out == ("report.md",)
    assert list(found.lines())[1].startswith("left out  report.md: it was")
    assert not (tmp_path / "run/report.md").exists()
    assert verify(tmp_path / "run").findings == []


def test_of_many_that_are_left_out_some_are_named(there: Path, tmp_path: Path) -> None:
    """Somebody else's archive can name any number of files that it has not."""
    change(there, beside={f"judge/{number}": {"size": 1, "sha256": "0" * 64} for number in range(3000)})
    lines = list(fetch(str(there), tmp_path / "run").lines())
    named = [line for line in lines if line.startswith("left out  judge/")]
    assert len(named) == 10 and all("copy it from the archive" in line for line in named)
    assert "left out  2,990 more like that" in lines


def test_a_folder_that_cannot_be_made_is_named(there: Path) -> None:
    with pytest.raises(RatchetError, match=r"/proc/run: cannot be written: .* Nothing was fetched"):
        fetch(str(there), Path("/proc/run"))


def test_a_job_that_this_version_refuses_is_fetched_all_the_same(there: Path, tmp_path: Path) -> None:
    records = sorted((there / "ledger").iterdir())
    for path in records:
        document = json.loads(path.read_text())
        if document["kind"] == "config":
            document["data"]["job"]["of_another_version"] = 1
            seal(path, document)
    contents = [path.read_bytes() for path in records]
    said = {"first": digest(contents[0]), "last": digest(contents[-1]), "record_bytes": sum(map(len, contents))}
    change(there, **said)
    found = fetch(str(there), tmp_path / "run")
    assert found.needed == () and not found.trusted


def test_a_password_in_an_address_is_refused(there: Path) -> None:
    with pytest.raises(BadInput, match="holds a password") as error:
        fetch("s3://key:hidden@bucket/run", None)
    assert "hidden" not in str(error.value)
