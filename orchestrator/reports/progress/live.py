"""One live picture on a terminal: rounds that are over scroll away above it, a line each, and so does whatever else is
said."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from rich.live import Live as RichLive
from rich.text import Text

from orchestrator.reports.progress.board import Come, Event, Said, Turned
from orchestrator.reports.progress.lines import come
from orchestrator.reports.progress.model import Progress, RoundLine
from orchestrator.reports.progress.picture import Size, picture, told_of
from orchestrator.text.own_terminal import OwnTerminal, own_terminal
from orchestrator.text.shown import line, text
from orchestrator.text.terminal import Screen

_EVERY = 0.25  # seconds between two pictures
_TYPED = 3  # columns that are left free: the ^C that a terminal writes there would begin another line
_CLEAR = "\x1b[2J\x1b[H"


class Live:
    """A `View` (showing.py). It takes the terminal when it is first told something, and gives it back at its end."""

    name = "the live view"
    every = _EVERY

    def __init__(self, head: Sequence[str] = ()) -> None:
        """`head` are the lines that stand above all, and are printed again where the terminal had to be cleared."""
        self._head = head
        self._stack = contextlib.ExitStack()
        self._terminal: OwnTerminal | None = None
        self._rounds: list[RoundLine] = []
        self._size = Size(0, 0)

    def hear(self, event: Event) -> None:
        """See `View`."""
        self._take()
        match event:
            case Said(said):
                self._print(Text(line(said)))
            case Come(what, said, kept, True):
                self._print(Text(line(come(what, said, kept))))
            case Turned(number, said):
                self._print(Text(line(f"! round {number}: {said}"), "yellow"))
            case RoundLine():
                self._rounds.append(event)
                for told in told_of(event, self._size.width, with_warnings=event.kept):
                    self._screen.print(told)

    def look(self, progress: Progress) -> None:
        """See `View`."""
        terminal = self._take()
        if terminal.lost:
            raise OSError("the terminal has gone away")
        self._resize()
        for said in terminal.written():
            self._print(Text(text(said), "dim"))
        room = Size(self._size.width - _TYPED, self._size.height)
        self._live.update(picture(progress, room, with_rounds=False), refresh=True)

    def close(self, progress: Progress) -> None:
        """See `View`."""
        if self._terminal is None:
            return
        with self._stack:
            if not self._terminal.lost:
                self.look(progress)

    def _take(self) -> OwnTerminal:
        if self._terminal is None:
            with contextlib.ExitStack() as stack:
                terminal = stack.enter_context(own_terminal())
                self._screen = Screen(file=terminal.stream, force_terminal=True, soft_wrap=False)
                self._size = Size(*terminal.size())
                self._screen.size = self._size
                stack.callback(lambda: self._live.stop())
                self._begin()
                self._terminal = terminal
                self._stack = stack.pop_all()
        return self._terminal

    def _resize(self) -> None:
        """What was drawn for another width cannot be found again: all is drawn anew."""
        assert self._terminal is not None
        if (now := Size(*self._terminal.size())) == self._size:
            return
        self._size = now
        self._screen.size = now
        self._live.stop()  # what it has drawn is gone
        self._terminal.stream.write(_CLEAR)
        for said in self._head:
            self._print(Text(line(said)))
        for over in self._rounds[-now.height :]:
            for told in told_of(over, now.width):
                self._screen.print(told)
        self._begin()

    def _begin(self) -> None:
        screen = self._screen
        self._live = RichLive(console=screen, auto_refresh=False, redirect_stdout=False, redirect_stderr=False)
        self._live.start()
        screen.show_cursor(True)  # nobody would give it back for a process that is killed

    def _print(self, said: Text) -> None:
        self._screen.print(said, soft_wrap=True)
