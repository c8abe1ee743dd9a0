"""A run whose terminal goes away ends as if it had stayed: the same records, the same files, the same exit code."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import termios
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.config.load import load_job
from orchestrator.driver.drive import drive
from orchestrator.driver.signals import signals
from orchestrator.text.terminal import echo, shielded
from tests.faults.children import Case, Undisturbed, Workers, finish, running, wait_for
from tests.support.stand_ins import all_read


class Telling(Workers):
    """Tells on its standard streams what it does, as `ratchet run` does; libraries below it do so, too."""

    def _note(self, name: str) -> None:
        super()._note(name)
        if name == "train":
            os.write(1, b"a library in C\n")
            print("a library in Python", file=sys.stderr)
            subprocess.run(["echo", "a child"], check=True)
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
            os.kill(os.getpid(), signal.SIGHUP)
            assert subprocess.run(["sh", "-c", "kill -HUP $$; exit 7"], check=False).returncode == 7

    def drive(self) -> None:
        file = load_job(self.case.job, [f"run_dir={self.case.run}", *self.case.overrides])
        with shielded(), signals() as received:
            drive(file, echo, received, lambda _job, _logs: self, ask=all_read)


def _to(out: int) -> None:
    for standard in (1, 2):
        os.dup2(out, standard)
    os.close(out)


def without_reader() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    _to(writing)


def reader_of_three_lines() -> None:
    reading, writing = os.pipe()
    subprocess.Popen(["head", "-n3"], stdin=reading, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    os.close(reading)
    _to(writing)


def full_device() -> None:
    _to(os.open("/dev/full", os.O_WRONLY))


def closed() -> None:
    for standard in (0, 1, 2):
        os.close(standard)


def closed_terminal() -> None:
    """The session's own, which the kernel then tells everybody."""
    os.setsid()
    master, slave = os.openpty()
    fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
    os.dup2(slave, 0)
    _to(slave)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # for this moment alone: what follows is what is tried
    os.close(master)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.mark.parametrize("prepare", [without_reader, reader_of_three_lines, full_device, closed, closed_terminal])
def test_a_run_that_loses_its_terminal_goes_on(calm: Undisturbed, space: Path, prepare: Callable[[], None]) -> None:
    case = Case(calm.job, space / prepare.__name__, Telling, prepare=prepare)
    assert case.drive() == 0, case.output
    calm.require_same(case.run)


def test_a_signal_still_ends_it(calm: Undisturbed, space: Path) -> None:
    case = Case(calm.job, space / "case", Telling, prepare=without_reader, wait_at=("generate", 3))
    with running(case) as driver:
        wait_for(case.waiting, driver)
        assert driver.pid
        os.kill(driver.pid, signal.SIGHUP)
        os.kill(driver.pid, signal.SIGTERM)
        assert finish(driver) == 130
    assert calm.case(case.folder).drive() == 0
    calm.require_same(case.run)


def test_who_is_told_cannot_end_a_run(calm: Undisturbed, space: Path) -> None:
    case = Case(calm.job, space / "case", Refusing)
    assert case.drive() == 0, case.output
    calm.require_same(case.run)


class Refusing(Workers):
    def drive(self) -> None:
        file = load_job(self.case.job, [f"run_dir={self.case.run}"])
        with signals() as received:
            drive(file, _refuse, received, lambda _job, _logs: self, ask=all_read)


def _refuse(_: str) -> None:
    raise BrokenPipeError
