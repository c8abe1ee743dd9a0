"""A terminal that one alone draws on: what anybody else writes to the standard streams meanwhile (a library in C, a
process that was started) would tear the picture. It goes to a file without a name, and is handed over from there."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import sys
import tempfile
import termios
from collections.abc import Callable, Iterator
from typing import Any

from orchestrator.text.terminal import Lasting

_STANDARD = (1, 2)
_MOST = 1 << 20  # bytes that the file may have before it is emptied
_PIECE = 1 << 16  # bytes that are handed over at once
_LOCAL = 3
"""The place of a terminal's local flags among its attributes."""


class OwnTerminal:
    """The terminal, and what others have written meanwhile."""

    def __init__(self, stream: Lasting, descriptor: int, others: Any) -> None:
        self.stream = stream
        """Where to draw; writing to it never fails."""
        self._descriptor, self._others, self._read = descriptor, others, 0

    @property
    def lost(self) -> bool:
        """Whether it has gone away."""
        return self.stream.lost is not None

    def size(self) -> tuple[int, int]:
        """Columns and lines."""
        try:
            found = os.get_terminal_size(self._descriptor)
        except OSError:  # it has gone away
            return 80, 24
        return found.columns or 80, found.lines or 24

    def written(self) -> list[str]:
        """The lines that others have written since this was asked last."""
        piece = os.pread(self._others.fileno(), _PIECE, self._read)
        if not piece:
            return []
        whole = piece.rfind(b"\n") + 1 or len(piece)  # the end of a line may be yet to come
        self._read += whole
        if self._read > _MOST:
            self._others.truncate(0)  # they append, so that the next line stands at its beginning
            self._read = 0
        return piece[:whole].decode(errors="backslashreplace").splitlines()


@contextlib.contextmanager
def own_terminal() -> Iterator[OwnTerminal]:
    """Have standard output's terminal alone for as long as this lasts.

    Raises:
        OSError: there is none, or no room for what others write.
    """
    flush = [stream.flush for stream in (sys.stdout, sys.stderr) if stream is not None]
    for act in flush:
        act()
    with contextlib.ExitStack() as stack:
        others = stack.enter_context(tempfile.TemporaryFile("w+b", buffering=0))
        fcntl.fcntl(others, fcntl.F_SETFL, fcntl.fcntl(others, fcntl.F_GETFL) | os.O_APPEND)
        descriptor = os.dup(1)
        file = stack.enter_context(os.fdopen(descriptor, "w", encoding="utf-8", errors="backslashreplace"))
        stream = Lasting(file)
        for number in _STANDARD:
            if os.isatty(number):  # one that leads elsewhere is let be
                stack.callback(_put_back, number, os.dup(number))
                os.dup2(others.fileno(), number)
        terminal = OwnTerminal(stream, descriptor, others)
        stack.enter_context(unechoed(descriptor))
        try:
            yield terminal
        finally:
            for act in flush:
                act()
            stream.flush()


@contextlib.contextmanager
def unechoed(descriptor: int) -> Iterator[None]:
    """Have a terminal not write what is typed into it, which would shift what is drawn there. Ctrl-C and the like do
    what they did, and what was typed comes to whoever reads next. Where there is no terminal, nothing is changed. A
    shell puts it back where this process is killed."""
    before = _changed(descriptor, lambda flags: flags & ~(termios.ECHO | termios.ECHONL))
    try:
        yield
    finally:
        if before is not None:
            echoes = before & (termios.ECHO | termios.ECHONL)
            _changed(descriptor, lambda flags: flags | echoes)


def _changed(descriptor: int, change: Callable[[int], int]) -> int | None:
    """Change a terminal's local flags, and return those that it had; None where that is not to be done."""
    # A process in the background must not, and would be stopped; it may have come there between the two lines.
    held = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTTOU})
    try:
        with contextlib.suppress(OSError):  # not this session's: no job control
            if os.tcgetpgrp(descriptor) != os.getpgrp():
                return None
        attributes = termios.tcgetattr(descriptor)
        before: int = attributes[_LOCAL]
        attributes[_LOCAL] = change(before)
        termios.tcsetattr(descriptor, termios.TCSADRAIN, attributes)
        return before
    except (termios.error, OSError):  # no terminal, or it has gone away
        return None
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, held)


def _put_back(number: int, saved: int) -> None:
    os.dup2(saved, number)
    os.close(saved)
