"""Runs on a terminal, in one live picture: at three widths, disturbed, interrupted, failed and resumed."""

from __future__ import annotations

import fcntl
import os
import re
import signal
import struct
import subprocess
import sys
import termios
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest

from orchestrator.commands.run import shown_run
from orchestrator.commands.status import show
from orchestrator.config.load import load_job
from orchestrator.driver.signals import signals
from orchestrator.errors import Interrupted, RatchetError
from orchestrator.records.progress import ENGINES, UNWATCHED, Watch, starting
from orchestrator.text import terminal
from tests.faults.children import Case, Undisturbed, Workers, finish, running, wait_for
from tests.support.screen import Screen
from tests.support.stand_ins import StandInEngines, all_read

_LOOK = 0.4  # seconds, in which the picture is drawn once


def on_a_terminal(record: Path, width: int, height: int = 40, **environment: str) -> None:
    """Put a terminal of this size in the place of the standard streams; what is written to it goes to a file, too."""
    os.setsid()
    master, slave = os.openpty()
    size(slave, width, height)
    fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
    with open(record, "wb") as out:
        subprocess.Popen(["cat"], stdin=master, stdout=out, stderr=subprocess.DEVNULL, start_new_session=True)
    os.close(master)
    for standard in (0, 1, 2):
        os.dup2(slave, standard)
    os.close(slave)
    os.environ.pop("NO_COLOR", None)
    os.environ |= {"TERM": "xterm-256color"} | environment


def size(descriptor: int, width: int, height: int) -> None:
    fcntl.ioctl(descriptor, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))


class Watched(Workers):
    """Takes its time, so that there is something to see; and libraries below it print."""

    def _note(self, name: str) -> None:
        if name == "train" and self.calls[name] == 1:
            time.sleep(_LOOK)
            self.disturb()
        super()._note(name)

    def disturb(self) -> None:
        os.write(1, b"a library in C\n")
        os.write(2, b"\x1b[2Ja library that clears\n")
        print("a library in Python", file=sys.stderr)
        subprocess.run(["echo", "a child"], check=True)
        time.sleep(_LOOK)

    def report_to(self, say: Any, meters: Any, logs: Path, watch: Watch = UNWATCHED) -> None:
        self.watched = watch

    def engines(self, model: str, probe: Path | None = None) -> StandInEngines:
        with starting(self.watched, ENGINES, 2, "engines", "vLLM loads it"):
            self.watched.grow(ENGINES, 2)
        return super().engines(model)

    def drive(self) -> None:
        file = load_job(self.case.job, [f"run_dir={self.case.run}", *self.case.overrides])
        with terminal.shielded(), signals() as received:
            try:
                code = shown_run(file, received, False, hire=lambda _job, _logs: self, ask=all_read)
            except RatchetError as error:
                terminal.failure(error)
                sys.exit(error.exit_code)
        if code == Interrupted.exit_code:
            raise Interrupted(received[0])


class Resized(Watched):
    def disturb(self) -> None:
        size(0, 70, 30)
        time.sleep(_LOOK)


class Failing(Watched):
    def disturb(self) -> None:
        raise RatchetError("no memory \x1b[31m")


class HangingUp(Watched):
    def disturb(self) -> None:
        """The other end of the terminal goes away."""
        for child in psutil.Process().children():
            if child.name() == "cat":
                child.kill()
        time.sleep(_LOOK)


def seen(case: Case, width: int) -> Screen:
    deadline = time.monotonic() + 20
    record, before = case.folder / "screen", b""
    while (now := record.read_bytes()) != before or not now:  # `cat` may yet have to write
        assert time.monotonic() < deadline
        before = now
        time.sleep(0.05)
    return Screen(width).write(before.decode())


@pytest.fixture
def case(calm: Undisturbed, space: Path) -> Case:
    return Case(calm.job, space / "case", Watched)


def shown_on(case: Case, width: int, **environment: str) -> Case:
    case.folder.mkdir(exist_ok=True)
    return replace(case, prepare=partial(on_a_terminal, case.folder / "screen", width, **environment))


@pytest.mark.parametrize("width", [60, 80, 120])
def test_a_run_leaves_a_line_a_round(calm: Undisturbed, case: Case, width: int) -> None:
    case = shown_on(case, width)
    assert case.drive() == 0
    calm.require_same(case.run)
    screen = seen(case, width)
    rounds = [line for line in screen.text.splitlines() if line.startswith("✓")]
    assert [line.split()[1:3] for line in rounds] == [["base", "model"], ["round", "1"], ["round", "2"]]
    assert max(map(len, rounds)) <= width
    assert re.search(r"^tiny  finished after 0:0\d$", screen.text, re.MULTILINE)
    said = ("a library in C", "\\x1b[2Ja library that clears", "a library in Python", "a child")
    assert all(f"\n{text}\n" in screen.text for text in said), screen.text
    assert screen.text.count("finished; the report is") == 1 and "▸" not in screen.text


@pytest.mark.parametrize(("environment", "live"), [({"NO_COLOR": "1"}, True), ({"TERM": "dumb"}, False)])
def test_a_terminal_without_colours(calm: Undisturbed, case: Case, environment: dict[str, str], live: bool) -> None:
    case = shown_on(case, 80, **environment)
    assert case.drive() == 0
    calm.require_same(case.run)
    screen = seen(case, 80)
    assert not {style for style in screen.styles if re.search(r"(^|;)(3[0-8]|9[0-7])(;|$)", style)}
    assert ("✓ round 2" in screen.text) == live
    assert bool(re.search(r"^\d\d:\d\d:\d\d rounds/02  gate", screen.text, re.MULTILINE)) != live


def test_another_width_in_the_midst(calm: Undisturbed, case: Case) -> None:
    case = shown_on(replace(case, workers=Resized), 100)
    assert case.drive() == 0
    calm.require_same(case.run)
    screen = seen(case, 70)
    assert screen.text.count("run       ") == 1 and screen.text.count("✓ base model") == 1, screen.text
    assert max(len(line) for line in screen.text.splitlines() if line.startswith(("✓", "tiny"))) <= 70


def test_a_run_that_fails_says_where_and_once_why(case: Case) -> None:
    case = shown_on(replace(case, workers=Failing), 80)
    assert case.drive() == 1
    screen = seen(case, 80)
    assert "tiny  failed after 0:0" in screen.text and re.search(r"^✗ train ", screen.text, re.MULTILINE)
    assert screen.text.count("no memory") == 1 and "ratchet: no memory \\x1b[31m" in screen.text


def test_ctrl_c_and_what_was_there_before(calm: Undisturbed, case: Case) -> None:
    case = shown_on(replace(case, wait_at=("generate", 3)), 80)
    with running(case) as driver:
        wait_for(case.waiting, driver)
        time.sleep(_LOOK)
        assert driver.pid
        os.kill(driver.pid, signal.SIGINT)
        assert finish(driver) == 130
    screen = seen(case, 80)
    drawn = [line for line in screen.text.splitlines() if re.search(r"\d:\d\d$", line)]
    assert drawn and max(map(len, drawn)) <= 77, "a ^C has room behind it"
    assert "tiny  interrupted after 0:0" in screen.text and "interrupted by SIGINT; to go on: ratchet" in screen.text
    assert (case.run / "report.md").exists()
    assert case.drive() == 0
    calm.require_same(case.run)
    lines = seen(case, 80).text.splitlines()
    assert [line for line in lines if line.startswith("= base model")] and not [x for x in lines if "= round" in x]


class Looking(Workers):
    """Somebody who looks at the run that another process drives."""

    def drive(self) -> None:
        with terminal.shielded(), signals():
            show(self.case.run, False, watch=True)


def test_whoever_watches_sees_the_same_until_it_ends(calm: Undisturbed, case: Case) -> None:
    case, record = replace(case, wait_at=("generate", 3)), case.folder / "screen"
    looking = shown_on(replace(case, workers=Looking), 80)
    with running(case) as driver:
        wait_for(case.waiting, driver)
        with running(looking) as looker:
            wait_for(record, looker)
            deadline = time.monotonic() + 20
            while b"round 1 of 2" not in record.read_bytes():
                assert time.monotonic() < deadline
                time.sleep(0.05)
            case.go_on.touch()
            assert finish(driver) == 0 and finish(looker) == 0
    told = record.read_text()
    assert "base model" in told and "samples" in told
    table = told.rpartition("\x1b[?1049l")[2]  # after the live view
    assert re.search(r"^ +1 .* yes *$", table, re.MULTILINE), "in the end, the table of `ratchet status`"


def test_a_terminal_that_goes_away_ends_nothing(calm: Undisturbed, case: Case) -> None:
    case = shown_on(replace(case, workers=HangingUp), 80)
    assert case.drive() == 0
    calm.require_same(case.run)
