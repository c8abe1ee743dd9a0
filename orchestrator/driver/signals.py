"""SIGTERM and Ctrl-C, as an exception; and SIGHUP, which is none."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

from orchestrator.errors import Interrupted


@contextlib.contextmanager
def signals() -> Iterator[list[str]]:
    """SIGTERM and Ctrl-C raise `Interrupted`; a second one leaves at once, which the ledger survives. A terminal that
    is closed ends no work: SIGHUP is ignored, by the processes that are started from here, too.

    Gives the list of the signals received so far, by name."""
    received: list[str] = []

    def on_signal(number: int, _: Any) -> None:
        if received:
            os._exit(130)
        received.append(signal.Signals(number).name)
        raise Interrupted(received[0])

    wanted: dict[signal.Signals, Any] = {
        signal.SIGINT: on_signal,
        signal.SIGTERM: on_signal,
        signal.SIGHUP: signal.SIG_IGN,
    }
    before = {number: signal.signal(number, handler) for number, handler in wanted.items()}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def kept() -> Iterator[None]:
    """SIGTERM and Ctrl-C are handled from here on as before, whatever is put in place of their handlers meanwhile: Ray
    puts its own for SIGTERM as it starts, and as it ends it takes away what the kernel has, of which Python knows
    nothing. A SIGTERM that its handler has made an exit of comes once more."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def again() -> None:
        for number, handler in before.items():
            if handler is not None:  # not of Python's making, so that Python cannot put it back
                signal.signal(number, handler)

    try:
        yield
    except SystemExit as left:
        again()
        if left.code == signal.SIGTERM:
            signal.raise_signal(signal.SIGTERM)
        raise
    finally:
        again()


@contextlib.contextmanager
def held() -> Iterator[None]:
    """SIGTERM and Ctrl-C wait for the end of this: while a process is started, say, that nobody could end yet."""
    came: list[int] = []
    numbers = [number for number in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, lambda number, _: came.append(number)) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for one in came:
            signal.raise_signal(one)
