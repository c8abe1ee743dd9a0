"""What is closed to a user is told with whose it is, and what is needed."""

from __future__ import annotations

import errno
import os
import pwd
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.files.rights import reason
from tests.orchestrator.driver.test_private_folder import as_another_user

as_root = pytest.mark.skipif(os.getuid() != 0, reason="becomes another user")
DENIED = os.strerror(errno.EACCES)


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that every user gets to; pytest's own are closed."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)


def said_of(attempt: Path, writes: bool = False) -> str:
    """What another user is told who reads a file or folder, or writes there."""
    told = Path(tempfile.mkdtemp()) / "told"
    told.parent.chmod(0o777)

    def act() -> None:
        try:
            if writes:
                (attempt / "new").write_text("x")
            elif attempt.is_dir():
                os.listdir(attempt)
            else:
                attempt.read_text()
        except OSError as error:
            told.write_text(reason(error))

    assert as_another_user(act) == "done"
    return told.read_text()


@as_root
def test_somebody_elses(place: Path) -> None:
    (place / "ledger").mkdir()
    (place / "ledger/record").write_text("x")
    (place / "ledger/record").chmod(0o600)
    cure = "have root let you read it, or give the command as root"
    closed = f"belongs to root, and is closed to you, {pwd.getpwuid(65534).pw_name}: {cure}"
    assert said_of(place / "ledger/record") == f"{DENIED}: it {closed}"
    (place / "ledger").chmod(0o700)
    assert said_of(place / "ledger") == f"{DENIED}: it {closed}"
    assert said_of(place / "ledger/record") == f"{DENIED}: {place}/ledger {closed}"
    assert "may not write there: give the command as root, or use a copy" in said_of(place, writes=True)


@as_root
def test_ones_own_and_of_nobody_who_is_known_here(place: Path) -> None:
    (place / "mine").write_text("x")
    (place / "mine").chmod(0)
    os.chown(place / "mine", 65534, 0)
    assert said_of(place / "mine") == f"{DENIED}: it is yours, and closed to you: `chmod u+rX` opens it"
    os.chown(place / "mine", 54321, 0)
    assert f"{DENIED}: it belongs to user 54321, and is closed to you" in said_of(place / "mine")


def test_other_errors_are_what_the_system_says(tmp_path: Path) -> None:
    assert reason(OSError(errno.ENOENT, "No such file", "x")) == "No such file"
    assert reason(PermissionError(errno.EACCES, "access denied")) == "access denied"  # of a store, that names no file
    assert reason(PermissionError(errno.EACCES, "access denied", str(tmp_path))) == "access denied", "it is not closed"
    assert reason(OSError("odd")) == "odd"
