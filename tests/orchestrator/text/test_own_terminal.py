"""A terminal that one alone draws on."""

from __future__ import annotations

import os
import subprocess
import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from orchestrator.text.own_terminal import own_terminal, unechoed
from orchestrator.text.terminal import can_be_drawn_on, shielded


@contextmanager
def standard(out: int, err: int) -> Iterator[None]:
    """These in the place of the standard streams' descriptors."""
    saved = [(number, os.dup(number)) for number in (1, 2)]
    os.dup2(out, 1)
    os.dup2(err, 2)
    try:
        yield
    finally:
        for number, kept in saved:
            os.dup2(kept, number)
            os.close(kept)


def test_what_others_write_is_handed_over_in_lines(capfd: pytest.CaptureFixture[str]) -> None:
    master, slave = os.openpty()
    with standard(slave, slave), own_terminal() as terminal:
        os.write(1, b"from C\nand half")
        subprocess.run(["sh", "-c", "echo from a child >&2"], check=True)
        assert terminal.written() == ["from C", "and halffrom a child"]
        assert terminal.written() == []
        os.write(2, b"x" * 300_000 + b"\n")
        said = [line for _ in range(10) for line in terminal.written()]
        assert "".join(said) == "x" * 300_000
        terminal.stream.write("mine")
        terminal.stream.flush()
        assert os.read(master, 100) == b"mine"
    os.close(slave)
    os.close(master)


def test_the_file_that_they_write_to_does_not_grow_for_ever(capfd: pytest.CaptureFixture[str]) -> None:
    master, slave = os.openpty()
    with standard(slave, slave), own_terminal() as terminal:
        for _ in range(40):
            os.write(1, b"y" * 65_535 + b"\n")
            assert terminal.written() == ["y" * 65_535]
        assert os.fstat(1).st_size <= 1 << 20 and terminal.size() == (80, 24)
    os.close(slave)
    os.close(master)


def test_an_error_stream_that_leads_elsewhere_is_let_be(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    master, slave = os.openpty()
    with open(tmp_path / "err", "wb") as err, standard(slave, err.fileno()), own_terminal() as terminal:
        os.write(2, b"an error\n")
        assert terminal.written() == [] and not terminal.lost
    assert (tmp_path / "err").read_bytes() == b"an error\n"
    os.close(slave)
    os.close(master)


def test_what_is_typed_does_not_stand_in_the_picture(capfd: pytest.CaptureFixture[str]) -> None:
    master, slave = os.openpty()
    with standard(slave, slave), own_terminal() as terminal:
        os.write(master, b"typed\r\r")
        terminal.stream.write("drawn")
        terminal.stream.flush()
        assert os.read(master, 100) == b"drawn"
    assert os.read(slave, 100) == b"typed\n"  # whoever reads next gets it
    os.write(master, b"again\r")
    assert os.read(master, 100) == b"again\r\n"
    os.close(slave)
    os.close(master)


def test_a_terminal_that_did_not_echo_does_not_afterwards(capfd: pytest.CaptureFixture[str]) -> None:
    master, slave = os.openpty()
    attributes = termios.tcgetattr(slave)
    attributes[3] &= ~termios.ECHO
    termios.tcsetattr(slave, termios.TCSANOW, attributes)
    with unechoed(slave):
        pass
    assert termios.tcgetattr(slave)[3] == attributes[3]
    os.close(slave)
    os.close(master)


def test_no_terminal_and_one_that_is_gone_are_let_be(tmp_path: Path) -> None:
    master, slave = os.openpty()
    with open(tmp_path / "file", "w") as file, unechoed(file.fileno()), unechoed(slave):
        os.close(master)
    os.close(slave)


A_SHELL = """
import fcntl, os, subprocess, sys, termios
os.setsid()
fcntl.ioctl(0, termios.TIOCSCTTY)
print(subprocess.run([sys.executable, "-c", sys.argv[1]], process_group=0, capture_output=True, text=True).stdout)
"""
IN_THE_BACKGROUND = """
import os, sys, termios
from orchestrator.text.own_terminal import unechoed
with unechoed(0):
    pass
print("not stopped", bool(termios.tcgetattr(0)[3] & termios.ECHO))
"""


def test_in_the_background_nothing_is_changed_and_nobody_is_stopped() -> None:
    """As a shell with job control starts it: in the session of the terminal, and not in its foreground."""
    master, slave = os.openpty()
    done = subprocess.run(
        [sys.executable, "-c", A_SHELL, IN_THE_BACKGROUND], stdin=slave, capture_output=True, text=True, timeout=60
    )
    assert "not stopped True" in done.stdout, done
    os.close(slave)
    os.close(master)


@pytest.mark.parametrize(("term", "encoding", "drawn"), [("xterm", "utf-8", True), ("dumb", "utf-8", False)])
@pytest.mark.parametrize("what", ["a terminal", "a pipe"])
def test_where_a_picture_can_be_drawn(
    monkeypatch: pytest.MonkeyPatch, term: str, encoding: str, drawn: bool, what: str
) -> None:
    monkeypatch.setenv("TERM", term)
    reading, writing = os.openpty() if what == "a terminal" else os.pipe()
    with open(writing, "w", encoding=encoding) as out:
        monkeypatch.setattr(sys, "stdout", out)
        with shielded():
            assert can_be_drawn_on() == (drawn and what == "a terminal")
    with open(os.dup(reading), "w", encoding="latin-1") as old, shielded():
        monkeypatch.setattr(sys, "stdout", old)
        assert not can_be_drawn_on()
    os.close(reading)
