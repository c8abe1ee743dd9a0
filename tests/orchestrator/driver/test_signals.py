"""Signals that wait for the end of something."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from orchestrator.driver.signals import held, kept, signals
from orchestrator.errors import Interrupted


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_waits_for_the_end_of_what_holds_it(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with signals() as received:
        with pytest.raises(Interrupted, match=number.name), held():
            signal.raise_signal(number)
            assert received == []
        assert received == [number.name]
    assert signal.getsignal(number) is before


def test_what_is_ignored_stays_so_and_no_signal_is_made_up() -> None:
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with held():
            assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
            signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)


def test_what_a_library_puts_in_place_of_the_handlers_is_taken_away_again() -> None:
    """As Ray does while it starts: its handler makes an exit of a signal, which then would be no interruption."""
    with signals() as received:
        ours = signal.getsignal(signal.SIGTERM)
        with pytest.raises(Interrupted, match="SIGTERM"), kept():
            signal.signal(signal.SIGTERM, lambda number, _: sys.exit(number))
            signal.raise_signal(signal.SIGTERM)
        assert received == ["SIGTERM"] and signal.getsignal(signal.SIGTERM) is ours
        with pytest.raises(SystemExit), kept():
            sys.exit(3)


ENDED_BY_A_LIBRARY = """
import ctypes, os, signal
from orchestrator.driver.signals import kept, signals
with signals() as received:
    with kept():
        ctypes.CDLL(None).signal(signal.SIGTERM, None)  # SIG_DFL, and Python is not told
    try:
        os.kill(os.getpid(), signal.SIGTERM)
    finally:
        print(received)
"""


def test_what_a_library_does_to_the_kernels_handlers_is_taken_back() -> None:
    """As Ray does while it ends: the next SIGTERM would kill the driver."""
    done = subprocess.run([sys.executable, "-c", ENDED_BY_A_LIBRARY], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "['SIGTERM']" in done.stdout and "Interrupted: SIGTERM" in done.stderr
