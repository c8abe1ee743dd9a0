"""A disk that is full from some operation on, a file-size limit that tears a write, a folder without rights.

`tests/orchestrator/files/test_disk.py` fills a real file system at a few moments; here every operation is one.
"""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import struct
from functools import partial
from pathlib import Path

import pytest

from orchestrator.ledger.ledger import Ledger
from tests.faults.children import ALL_THAT_FOLLOW, Case, Fault, Undisturbed, finish, note, running, wait_for
from tests.faults.sweeps import SOME_OR_ALL, spread, state_of, sweep


def require_one_message(case: Case, code: int) -> None:
    assert code in (1, 2), f"exit code {code}\n{case.output}"
    assert "Traceback" not in case.output, case.output
    assert "What is committed is kept" in case.output or "a run needs a writable folder" in case.output, case.output


def require_resumable(calm: Undisturbed, case: Case) -> None:
    """The same command goes on from what is there, and ends as if undisturbed."""
    before = Ledger(case.run / "ledger").records
    assert state_of(case.run) in ("none", "failed", "interrupted", "finished")
    assert case.drive() == 0, case.output
    assert Ledger(case.run / "ledger").records[: len(before)] == before
    calm.require_same(case.run)
    case.remove()


@SOME_OR_ALL
@pytest.mark.parametrize("times", [1, ALL_THAT_FOLLOW], ids=["once", "for good"])
def test_a_disk_that_is_full_at_any_operation(calm: Undisturbed, space: Path, times: int, stride: int) -> None:
    def full(point: int) -> int:
        case = calm.case(space / f"full-{times}-{point}")
        code = case.drive(Fault("full", point, times))
        if code:  # what only tidies up, or shows that the driver lives, may fail
            require_one_message(case, code)
        require_resumable(calm, case)
        return 1 if code else 0

    ended = sweep(spread(calm.operations, 2 * stride, 2 if times == 1 else 9), full)
    note("full disk", {"points": len(ended), "ended the run": sum(ended), "for good": times > 1})


def limit_file_size(size: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


@pytest.mark.parametrize("victim", ["config", "samples", "largest file"])
def test_a_write_that_is_torn_at_a_limit(calm: Undisturbed, space: Path, victim: str) -> None:
    largest = max(len(content) for content in calm.tree.values() if content)
    size = {"config": 2000, "samples": 2700, "largest file": largest - 1}[victim]
    folder = space / f"torn-{size}"
    case = calm.case(folder, prepare=partial(limit_file_size, size))
    require_one_message(case, case.drive())
    assert os.strerror(errno.EFBIG) in case.output
    assert calm.case(folder).drive() == 0, case.output
    calm.require_same(case.run)


def give_up_privileges() -> None:
    """Root without its capabilities is bound by the rights of what it owns, as everybody is."""
    header, none = struct.pack("Ii", 0x20080522, 0), bytes(24)  # _LINUX_CAPABILITY_VERSION_3, this thread
    if os.getuid() == 0 and ctypes.CDLL(None, use_errno=True).capset(header, none):
        raise OSError(ctypes.get_errno(), "capset")


def test_a_folder_that_may_not_be_written(calm: Undisturbed, space: Path) -> None:
    case = calm.case(space / "no-rights", prepare=give_up_privileges)
    case.run.mkdir(parents=True)
    case.run.chmod(0o555)
    assert case.drive() == 2
    assert "a run needs a writable folder with hard links (Permission denied: " in case.output
    case.run.chmod(0o755)
    assert case.drive() == 0, case.output
    calm.require_same(case.run)


@pytest.mark.parametrize("closed", ["ledger", "rounds/01"])
def test_rights_that_are_taken_away_in_the_middle(calm: Undisturbed, space: Path, closed: str) -> None:
    folder = space / f"rights-lost-{closed.replace('/', '-')}"
    case = calm.case(folder, prepare=give_up_privileges, wait_at=("train", 1))
    with running(case) as driver:
        wait_for(case.waiting, driver)
        (case.run / closed).chmod(0o555)
        case.go_on.touch()
        require_one_message(case, finish(driver))
    assert state_of(case.run) == ("interrupted" if closed == "ledger" else "failed")
    (case.run / closed).chmod(0o755)
    assert case.drive() == 0, case.output
    calm.require_same(case.run)
