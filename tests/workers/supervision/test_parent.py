from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import termios
import time

import pytest

from tests.orchestrator.test_cli import PROJECT

ASKING = """
import subprocess, sys, time
print(subprocess.Popen([sys.executable, "-m", sys.argv[1]]).pid, flush=True)
time.sleep(600)
"""
PATIENCE = 60.0


def unread(pipe: int) -> int:
    return int.from_bytes(fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)), sys.byteorder)


def alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("module", ["workers.tokens.rendering", "workers.training.trainable"])
def test_who_answers_a_command_ends_when_that_is_killed(module: str) -> None:
    reading, writing = os.pipe()
    parent = subprocess.Popen(
        [sys.executable, "-c", ASKING, module], cwd=PROJECT, stdin=reading, stdout=subprocess.PIPE
    )
    assert parent.stdout is not None
    answering = int(parent.stdout.readline())
    os.write(writing, b"{")
    while unread(reading):  # a request that never ends
        assert alive(answering)
        time.sleep(0.05)
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + PATIENCE
    while alive(answering) and time.monotonic() < deadline:
        time.sleep(0.05)
    left = alive(answering)
    os.close(writing)  # which ends it in any case
    assert not left
