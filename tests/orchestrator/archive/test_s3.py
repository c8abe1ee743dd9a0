"""A run in a real S3-speaking server: signed requests, objects in parts; and the server, or who sends, dies in it."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.archive.archiver import Archiver
from orchestrator.archive.checksums import CHUNK
from orchestrator.archive.opening import open_store
from orchestrator.commands.archive import archive
from orchestrator.commands.fetch import fetch
from orchestrator.commands.verify.command import verify
from orchestrator.driver.resume import resumed
from orchestrator.errors import Damaged, RatchetError
from orchestrator.files.durable import sha256
from orchestrator.ledger.ledger import Ledger
from tests.orchestrator.test_loop import history
from tests.orchestrator.test_resume import go
from tests.support.s3_server import S3Server, require_packages
from tests.support.sample_run import SampleRun
from tests.support.stand_ins import StandIns, make_project, run_job

PROJECT = Path(__file__).parents[3]
LARGE = 6 * CHUNK + 12345
"""Bytes of a file that goes in seven parts."""


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    require_packages()
    (tmp_path / "server").mkdir()
    made = S3Server(tmp_path / "server")
    for name, value in made.environment.items():
        monkeypatch.setenv(name, value)
    made.start()
    yield made
    made.kill()


def stored(server: S3Server) -> int:
    """Bytes on the server's disk, of uploads that are under way, too."""
    found = 0
    for folder, _, names in os.walk(server.bucket.parent):
        for name in names:
            try:
                found += os.stat(os.path.join(folder, name)).st_size
            except FileNotFoundError:
                continue
    return found


def files_of(run: Path) -> dict[str, str]:
    """The files of a run, by the hashes of their bytes; but for what says how far it is archived."""
    views = ("archiving.json", "progress.json", "metrics.jsonl")
    files = (path for path in run.rglob("*") if path.is_file() and path.name not in views)
    return {str(path.relative_to(run)): sha256(path) for path in files}


def small(root: Path, size: int = 10**6) -> Path:
    """A run that has committed two small files and one of this size."""
    run = SampleRun(root)
    run.claim()
    run.configure()
    run.baseline()
    hidden = root / "rounds/01/.checkpoint-e1"
    hidden.mkdir(parents=True)
    with open(hidden / "model.safetensors", "wb") as file:
        while left := size - file.tell():
            file.write(os.urandom(min(left, 1 << 20)))
    artifact = run.artifacts.describe(hidden, root / "rounds/01/checkpoint")
    said = {"step": "rounds/01/train", "fingerprint": "f" * 32, "artifacts": [artifact.as_json()], "facts": {}}
    run.ledger.append("commit", said)
    run.artifacts.reveal(artifact)
    run.end("interrupted")
    return root


def test_a_run_is_archived_fetched_and_goes_on_where_nobody_knew_it(
    server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = make_project(tmp_path / "project", archive="s3://bucket/my runs/{name}/")
    assert not [line for line in run_job(job, StandIns()) if line.startswith("archive")]
    shutil.copytree(tmp_path / "project/run", tmp_path / "first")
    shutil.rmtree(tmp_path / "project/run")
    monkeypatch.setenv("RATCHET_STATE_HOME", str(tmp_path / "another user"))
    monkeypatch.setenv("RATCHET_HOME", str(tmp_path / "another home"))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    found = fetch("s3://bucket/my runs/tiny", None)
    assert found.root == tmp_path / "another home/runs/tiny" and verify(found.root).findings == []
    go(resumed(found.root, ["rounds=3"], lambda _: None))
    go(resumed(tmp_path / "first", ["rounds=3", f"archive={tmp_path}/x"], lambda _: None))
    assert history(found.root) == history(tmp_path / "first")
    assert fetch("s3://bucket/my runs/tiny", tmp_path / "again").received.state.finished, "it was archived from there"
    assert len(Ledger(tmp_path / "again/ledger").state.promotions) == 3


@pytest.mark.full
@pytest.mark.parametrize("dies", ["the server", "the sender"])
def test_a_large_file_is_cut_off_and_goes_again(server: S3Server, tmp_path: Path, dies: str) -> None:
    """Killed between two of its parts. What was whole before is not sent again."""
    run, url = small(tmp_path / "run", LARGE), "s3://bucket/run"
    command = [sys.executable, "-m", "orchestrator", "archive", str(run), url]
    sending = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(PROJECT)},
    )  # fmt: skip
    deadline = time.monotonic() + 400
    while stored(server) < 2 * CHUNK:
        assert sending.poll() is None and time.monotonic() < deadline, sending.communicate()
        time.sleep(0.005)
    if dies == "the sender":
        sending.send_signal(signal.SIGKILL)
        sending.communicate()
    else:
        server.kill()
        said = sending.communicate(timeout=400)
        assert sending.returncode == 1 and "s3://bucket/run: " in said[1] and "Traceback" not in said[1], said
    assert not list(server.bucket.rglob("ledger")), "no record is there before the files that it names"
    if dies == "the server":
        server.start()
    made = archive(run, url)
    assert made.sent.there == 2 and made.sent.bytes == LARGE
    assert archive(run, url).sent.files == 0
    assert files_of(fetch(url, tmp_path / "back").root) == files_of(run)


def test_what_another_has_put_there_is_found_and_mended(server: S3Server, tmp_path: Path) -> None:
    run, url = small(tmp_path / "run"), "s3://bucket/run"
    archive(run, url)
    store = open_store(url)
    store.write("baseline/prompts/gate.parquet", b"?" * (run / "baseline/prompts/gate.parquet").stat().st_size)
    with pytest.raises(Damaged, match=r"gate\.parquet: is not what was committed"):
        fetch(url, tmp_path / "back")
    assert archive(run, url).sent.files == 1
    assert files_of(fetch(url, tmp_path / "back").root) == files_of(run)


def test_what_the_store_refuses_is_said_in_words(
    server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = small(tmp_path / "run")
    with pytest.raises(RatchetError, match="make the bucket"):
        archive(run, "s3://nowhere/run")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another")
    with pytest.raises(RatchetError, match="access denied"):
        archive(run, "s3://bucket/run")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(RatchetError, match="no credentials for it"):
        archive(run, "s3://bucket/run")


def test_a_store_that_never_answers_holds_nobody_up_at_an_interruption(
    server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        run, said = small(tmp_path / "run"), list[str]()
        archiver = Archiver(run, "s3://bucket/run", said.append)
        archiver.start(Ledger(run / "ledger"))
        archiver.close(0.5)
    assert len(said) == 1 and "is not whole" in said[0] and "ratchet archive" in said[0]
