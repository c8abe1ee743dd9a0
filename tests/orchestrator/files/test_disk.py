"""A run on a disk that is full or read-only: a small file system of its own, which needs root to mount."""

from __future__ import annotations

import errno
import json
import os
import random
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from orchestrator.archive.sender import Sender
from orchestrator.commands.fork.command import fork
from orchestrator.commands.gc import clean, waste
from orchestrator.driver.drive import identity
from orchestrator.errors import BadInput, RatchetError
from orchestrator.files.disk import COPY, CURE, cure, one_message, unusable
from orchestrator.files.durable import put_if_absent, replace
from orchestrator.ledger.ledger import Ledger
from orchestrator.reports.status import status
from tests.orchestrator.commands.test_compare import project
from tests.orchestrator.test_cli import ratchet
from tests.support.sample_run import SampleRun, two_rounds
from tests.support.stand_ins import StandIns, make_project, run_job


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """An empty file system of one MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting needs root")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def enlarge(disk: Path) -> None:
    """A whole run needs more, once it has taken seconds."""
    subprocess.run(["mount", "-o", "remount,size=2m", str(disk)], check=True)


def fill(disk: Path) -> Path:
    """Leave no room; returns the file to delete for it."""
    ballast = disk / "ballast"
    try:
        with open(ballast, "wb", buffering=0) as file:
            while file.write(bytes(4096)):
                pass
    except OSError:
        pass
    return ballast


@pytest.mark.parametrize("moment", [1, 4, 12, 25], ids=lambda n: f"call-{n}")
def test_a_full_disk_stops_the_run_with_one_message_and_loses_nothing(tmp_path: Path, disk: Path, moment: int) -> None:
    enlarge(disk)
    job = make_project(tmp_path, run_dir=str(disk / "run"))
    workers = StandIns(on_call=lambda _: fill(disk) if sum(workers.calls.values()) == moment else None)
    with pytest.raises(RatchetError, match=r"No space left on device.*What is committed is kept") as error:
        run_job(job, workers)
    assert error.value.exit_code == 1 and "ratchet resume" not in str(error.value)  # who knows of it adds it
    before = Ledger(disk / "run/ledger").records
    (disk / "ballast").unlink()
    run_job(job, StandIns())
    assert status(disk / "run")["state"] == "finished"
    assert Ledger(disk / "run/ledger").records[: len(before)] == before


def test_a_run_that_the_disk_ended_says_so_in_words_in_its_ledger(tmp_path: Path) -> None:
    file = tmp_path / "run/x"
    workers = StandIns(on_call=lambda _: raise_(OSError(errno.ENOSPC, "No space left on device", str(file))))
    with pytest.raises(RatchetError, match="cannot be written"):
        run_job(make_project(tmp_path), workers)
    [end] = [record for record in Ledger(tmp_path / "run/ledger").records if record.kind == "end"]
    assert end.data["reason"] == f"cannot be written: No space left on device ({file})"


def raise_(error: Exception) -> None:
    raise error


def test_a_disk_without_room_for_a_run_is_bad_input(tmp_path: Path, disk: Path) -> None:
    fill(disk)
    with pytest.raises(BadInput, match=r"a run needs a writable folder.*No space left on device"):
        run_job(make_project(tmp_path, run_dir=str(disk / "run")), StandIns())


def test_a_read_only_run_is_bad_input_and_stays_readable(tmp_path: Path, disk: Path) -> None:
    enlarge(disk)
    job = make_project(tmp_path, run_dir=str(disk / "run"))
    run_job(job, StandIns())
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    assert status(disk / "run")["state"] == "finished"
    with pytest.raises(BadInput, match=r"a run needs a writable folder.*Read-only file system"):
        run_job(job, StandIns(), "rounds=3")


def test_a_disk_that_becomes_read_only_stops_the_run_with_one_message(tmp_path: Path, disk: Path) -> None:
    enlarge(disk)

    def on_call(name: str) -> None:
        if name == "train":
            subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)

    job = make_project(tmp_path, run_dir=str(disk / "run"))
    with pytest.raises(RatchetError, match="Read-only file system"):
        run_job(job, StandIns(on_call=on_call))
    subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
    run_job(job, StandIns())
    assert status(disk / "run")["state"] == "finished"


def test_gc_frees_a_full_disk(tmp_path: Path, disk: Path) -> None:
    """Its records need some room, which the report gives that can be made again."""
    enlarge(disk)
    job, run = make_project(tmp_path, skill=0.2, run_dir=str(disk / "run")), disk / "run"
    run_job(job, StandIns(gain=0.1))
    spare_all_but_one(run)
    fill(disk)
    assert [item.path for item in clean(run, identity())] == ["rounds/01/checkpoint"]
    assert not (run / "rounds/01/checkpoint").exists() and (run / "report.md").exists()
    assert status(run)["state"] == "finished" and waste(run) == []


def test_gc_on_a_read_only_disk_says_so(tmp_path: Path, disk: Path) -> None:
    job, run = make_project(tmp_path, skill=0.2, run_dir=str(disk / "run")), disk / "run"
    run_job(job, StandIns(gain=0.1))
    spare_all_but_one(run)
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    assert [item.path for item in waste(run)] == ["rounds/01/checkpoint"]
    with pytest.raises(RatchetError, match=r"cannot be cleaned: Read-only file system.*the same command goes on"):
        clean(run, identity())
    subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
    assert len(clean(run, identity())) == 1 and status(run)["state"] == "finished"


def spare_all_but_one(run: Path) -> None:
    ledger = Ledger(run / "ledger")
    ledger.claim(identity())
    config = ledger.state.configs[-1]
    ledger.append("config", config | {"job": config["job"] | {"keep": {"checkpoints": 1, "training_states": 1}}})
    ledger.append("end", {"state": "finished", "reason": ""})


# Other commands


def large_run(folder: Path) -> Path:
    """A run that has committed 2 MiB."""
    run = SampleRun(folder)
    run.claim()
    run.configure()
    noise = random.Random(0).randbytes(2 * 2**20)
    run.commit("rounds/01/pairs", {"pairs": 1}, {"00000.parquet": pa.table({"noise": [noise]})})
    run.end()
    return folder


def test_a_fork_looks_for_room_before_it_copies(tmp_path: Path, disk: Path) -> None:
    parent = large_run(tmp_path / "large")
    with pytest.raises(BadInput, match=r"bytes free, and 2,[\d,]+ are to be copied: .* lies on another file system"):
        fork(parent, disk / "child")
    assert os.listdir(disk) == []


def test_a_fork_on_a_disk_that_fills_is_one_message(tmp_path: Path, disk: Path) -> None:
    run_job(make_project(tmp_path), StandIns())
    ballast = fill(disk)
    with open(ballast, "ab") as file:
        file.truncate(ballast.stat().st_size - 100 * 1024)  # room to begin
    with pytest.raises(RatchetError, match=r"(No space left on device|bytes free, and)"):
        fork(tmp_path / "run", disk / "child")
    assert os.listdir(disk) == ["ballast"]
    ballast.unlink()
    fork(tmp_path / "run", disk / "child")
    assert os.listdir(disk) == ["child"]


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_grading_onto_a_full_disk_is_one_message(
    tmp_path: Path, disk: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    source = tmp_path / "in.jsonl"
    noise = random.Random(0)
    rows = [{"gold": "7", "text": "7", "noise": noise.randbytes(500).hex()} for _ in range(2500)]
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = ("--grader", "exact", "--processes", "1")
    assert ratchet("grade", source, "-o", disk / f"out.{kind}", *options) == 1
    told = capsys.readouterr().err
    assert f"-o {disk}/out.{kind}: cannot be written: " in told and told.count("\n") == 1
    assert "No space left" in told and os.listdir(disk) == []


def test_a_comparison_on_a_full_or_closed_disk_is_one_message(
    tmp_path: Path, disk: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RATCHET_HOME", str(disk))
    path = project(tmp_path, arms={"sft": {}})
    (disk / "runs/compare").mkdir(parents=True)
    ballast = fill(disk)
    for table in ([], ["--table"]):
        assert ratchet("compare", path, *table) == 1
        said = capsys.readouterr().err
        assert "cannot be written: No space left on device" in said and said.count("\n") == 1
    ballast.unlink()
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    assert ratchet("compare", path) == 1
    assert "Read-only file system" in capsys.readouterr().err


@pytest.mark.parametrize(("name", "told"), [("irpo/rounds", CURE), ("irpo", CURE), ("irpo-2/rounds", None)])
def test_rights_are_the_disks_matter_in_the_run_alone(tmp_path: Path, name: str, told: str | None) -> None:
    error = PermissionError(errno.EACCES, "Permission denied", str(tmp_path / name))
    assert cure(error, tmp_path / "irpo") == told


NETWORKS = ("ETIMEDOUT", "EHOSTUNREACH", "ESHUTDOWN", "ECONNRESET", "EPROTO", "EREMOTEIO", "ENOLCK", "ENODATA")
DISKS = ("EIO", "EUCLEAN", "EBADMSG", "EBUSY", "EXDEV", "EMLINK", "ETXTBSY", "EINVAL", "ENOSYS", "EOPNOTSUPP")


@pytest.mark.parametrize("number", [getattr(errno, name) for name in (*NETWORKS, *DISKS)])
def test_what_a_disk_or_a_network_file_system_says_of_a_file_is_told_in_words(tmp_path: Path, number: int) -> None:
    """As at the fourth fsync of a run on a mount that times out."""
    error = OSError(number, os.strerror(number), str(tmp_path / "irpo/ledger"))
    assert cure(error, tmp_path / "irpo") == (COPY if number == errno.EXDEV else CURE)
    told = unusable(error)
    assert told is not None and told.exit_code == 1 and str(told) == f"{tmp_path}/irpo/ledger: {os.strerror(number)}"


@pytest.mark.parametrize("number", [errno.ETIMEDOUT, errno.ECONNRESET, errno.EHOSTUNREACH, errno.EINVAL])
def test_what_a_socket_says_is_not_the_disks_matter(tmp_path: Path, number: int) -> None:
    assert cure(OSError(number, os.strerror(number)), tmp_path) is None
    assert unusable(OSError(number, os.strerror(number))) is None


@pytest.mark.parametrize("write", [put_if_absent, replace])
def test_an_error_of_a_descriptor_names_its_file(
    tmp_path: Path, write: Callable[[Path, bytes], object], disk: Path
) -> None:
    fill(disk)
    with pytest.raises(OSError, match="No space left") as full:
        write(disk / "record", b"x" * 2**16)
    assert str(full.value.filename).startswith(str(disk / ".record"))


def test_no_more_processes_is_told_in_words(tmp_path: Path) -> None:
    error = BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
    assert "ulimit -u" in str(unusable(error)) and "ulimit -u" in str(cure(error, tmp_path))


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOMEM])
def test_what_the_process_lacks_is_told_with_what_helps(tmp_path: Path, number: int) -> None:
    error = OSError(number, os.strerror(number))
    told, helps = unusable(error), cure(error, tmp_path)
    assert helps is not None and "ulimit" in helps
    assert told is not None and told.exit_code == 1 and str(told) == f"a file: {os.strerror(number)}: {helps}"


@pytest.mark.parametrize(("number", "code"), [(errno.EACCES, 2), (errno.ELOOP, 2), (errno.EIO, 1)])
def test_what_cannot_be_looked_at_is_bad_input_or_an_ill_disk(number: int, code: int) -> None:
    told = unusable(OSError(number, os.strerror(number), "/runs/irpo"))
    assert told is not None and told.exit_code == code and str(told) == f"/runs/irpo: {os.strerror(number)}"
    assert unusable(OSError(errno.ENOENT, "", "/runs/irpo")) is None


def test_an_archive_on_a_full_disk_takes_the_rest_once_there_is_room(disk: Path, tmp_path: Path) -> None:
    run, there = two_rounds(tmp_path / "run").root, disk / "archive"
    ballast = fill(disk)
    os.truncate(ballast, ballast.stat().st_size - 40_000)
    sender = Sender(run, str(there))
    assert not sender.flush() and "No space left on device" in str(sender.problem)
    assert not [path for path in there.rglob(".*") if path.is_file()], "nothing half is left"
    ballast.unlink()
    assert sender.flush() and {path.name for path in (run / "ledger").iterdir()} == set(os.listdir(there / "ledger"))


@pytest.mark.parametrize("then", ["See. The same command goes on.", f"Kept: {CURE}, and the same command goes on."])
def test_what_helps_is_told_whatever_else_is(tmp_path: Path, then: str) -> None:
    """As a container's file system says of a folder of its image that is to be renamed."""
    with pytest.raises(RatchetError, match="cp -a"), one_message(tmp_path, then):
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), str(tmp_path / "rounds"))
