"""Progress in plain lines, for a pipe or a log: what has happened, and now and then what is being done."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime

from orchestrator.reports.health import words
from orchestrator.reports.progress.board import LOOKING, Began, Come, Ended, Event, Said, Turned
from orchestrator.reports.progress.estimate import GATE
from orchestrator.reports.progress.figures import amount, count, duration, gains, left, rate, time_left
from orchestrator.reports.progress.model import Phase, Progress, RoundLine

HEARTBEAT = 30.0
"""Seconds between two lines that say what is being done."""
_QUICK = 1.0  # seconds; a start that took no longer is not worth another line


class Lines:
    """A `View` (showing.py)."""

    name = "the log"

    def __init__(self, say: Callable[[str], None], heartbeat: float | None = HEARTBEAT, starts: bool = True) -> None:
        """`say` prints a line. Without `heartbeat`, only what has happened is told; without `starts`, no start of
        workers."""
        self._say, self._starts = say, starts
        self._beats = heartbeat is not None
        self.every = heartbeat or 3600.0
        self._first = True
        self._over: dict[
            str, str
        ] = {}  # the health of rounds of which the gate's word is still to be told, by its step

    def hear(self, event: Event) -> None:
        """See `View`."""
        match event:
            case Said(line):
                self._say(line)
            case Come(what, text, kept):
                self._say(come(what, text, kept))
                if over := self._over.pop(what, None):
                    self._say(over)
            case Turned(number, text):
                self._say(come(f"rounds/{number:02d}/warning", text, kept=False))
            case RoundLine(number=number, kept=kept, health=figures) if figures:
                where = f"rounds/{number:02d}"
                self._over[f"{where}/{GATE}"] = come(f"{where}/health", "; ".join(words(figures)), kept)
            case Began(what, detail) if self._starts and what != LOOKING:
                self._say(come(what, detail or "...", kept=False))
            case Ended(what, _, seconds) if self._starts and seconds >= _QUICK:
                self._say(come(what, f"done after {duration(seconds)}", kept=False))

    def look(self, progress: Progress) -> None:
        """See `View`."""
        if self._first:  # at the beginning there is nothing to say yet
            self._first = False
        elif self._beats:
            for line in heartbeat(progress):
                self._say(line)

    def close(self, progress: Progress) -> None:
        """See `View`."""
        for over in self._over.values():
            self._say(over)


def timed(say: Callable[[str], None], now: Callable[[], datetime] = datetime.now) -> Callable[[str], None]:
    """`say`, with the time of day before each line; a new day, and the first line, have their date before them."""
    day: list[str] = []

    def told(line: str) -> None:
        moment = now()
        if day != [date := f"{moment:%Y-%m-%d}"]:
            day[:] = [date]
            say(f"{moment:%H:%M:%S} {'date':<10} {date}")
        say(f"{moment:%H:%M:%S} {line}")

    return told


def come(what: str, text: str, kept: bool) -> str:
    """What a step has come to: `rounds/01  samples     2400 at 8304 tokens/s`. What the ledger had is marked `=`."""
    folder, _, phase = what.rpartition("/")
    return f"{folder:<10}{'=' if kept else ' '}{phase:<11} {text}"


def heartbeat(progress: Progress) -> Iterator[str]:
    """What is being done, a line each; the last one says how long it has been, and will be."""
    for phase in progress.phases:
        if phase.state == "running":
            yield come(phase.what, f"... {_how_far(phase)}", kept=False)
    if progress.state == "running":
        where = {None: "", 0: "base model, "}.get(progress.round, f"round {progress.round} of {progress.rounds}, ")
        yield f"{'time':<10} {where}{duration(progress.seconds)} gone, {time_left(progress)}"


def _how_far(phase: Phase) -> str:
    done = amount(phase)
    had = f"{count(phase.had)} from the ledger" if phase.had else ""
    what = [f"{done} {phase.unit}" if done else "", phase.detail if phase.starts or not done else ""]
    told = [*what, had, *gains(phase), rate(phase), left(phase)]
    so_far = "" if phase.left is not None else f"{duration(phase.seconds or 0)} so far"
    return ", ".join(filter(None, [*told, so_far]))
