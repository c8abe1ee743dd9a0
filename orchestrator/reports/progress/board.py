"""The board of one driver: what it is doing, as told by whoever does it and by the ledger, and kept until it is shown.

Everything is told to the board, which only notes it: nobody who works waits for a screen or a disk. A thread of its own
shows what stands there (showing.py).
"""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.ledger.ledger import Ledger, State
from orchestrator.records.progress import START
from orchestrator.reports.progress.estimate import GATE, Durations, timed_as
from orchestrator.reports.progress.model import (
    MOST_PHASES,
    MOST_ROUNDS,
    MOST_TEXT,
    Progress,
    RoundLine,
    RunState,
    Sample,
)
from orchestrator.reports.progress.samples import Graded
from orchestrator.reports.progress.track import Track
from orchestrator.reports.progress.turning import BASE, SEEN_BY, Turning, base_line
from orchestrator.reports.rounds import round_and_phase
from orchestrator.reports.symptoms import Check

LOOKING = f"{START}/ledger"
"""What is committed is looked at, before anything new is done."""
_MOMENT = 0.05  # seconds


@dataclass(frozen=True)
class Said:
    """A line for people."""

    line: str


@dataclass(frozen=True)
class Come:
    """What a step has come to; `kept`: it was in the ledger already."""

    what: str
    text: str
    kept: bool
    aside: bool = False
    """It is not what the step has come to in the end, or there is no such step."""


@dataclass(frozen=True)
class Began:
    """A start of workers begins."""

    what: str
    detail: str


@dataclass(frozen=True)
class Ended:
    """Workers are there, after so many seconds."""

    what: str
    detail: str
    seconds: float


@dataclass(frozen=True)
class Turned:
    """Something has turned in a round: a warning."""

    number: int
    text: str


@dataclass(frozen=True)
class Measured:
    """Figures of an update, or of a node; see `Watch.measure`."""

    what: str
    number: int
    time: float
    """When it was told, in seconds since 1970."""
    values: Mapping[str, Any]


Event = Said | Come | Began | Ended | Turned | Measured | RoundLine


class Board:
    """A `Watch` (records/progress.py), and a follower of the ledger."""

    def __init__(
        self,
        name: str,
        num_rounds: int,
        clock: Callable[[], float] = time.monotonic,
        checks: Sequence[Check] = (),
    ) -> None:
        """`checks` are what the source of the job's pairs looks for in its rounds, besides the usual."""
        self._turning = Turning(checks)
        self._clock, self._name, self._num_rounds = clock, name, num_rounds
        self._began, self._wall = clock(), time.time()
        self._lock = threading.RLock()  # a signal may come within
        self._tracks: dict[str, Track] = {}
        self._events: deque[Event] = deque()
        self._finished: list[RoundLine] = []
        self._durations = Durations()
        self._seen = self._epoch = 0
        self._round: int | None = None
        self._end: Mapping[str, Any] = {}
        self._sample: Sample | None = None
        self._facts: Mapping[str, Mapping[str, Any]] = {}  # of the steps that there were before this driver
        self.graded: Graded | None = None
        """The samples that were graded last."""
        self.problem: Exception | None = None
        """Why the board could not note something."""
        self.changed = threading.Event()
        """Set by whatever is noted."""
        self.heard = threading.Event()
        """Set by who shows the board, while nothing is left that was said and not shown."""
        self.is_shown = False
        """Whether somebody shows it."""

    @contextlib.contextmanager
    def _noting(self) -> Iterator[None]:
        """Nobody who works fails at telling of it. What went wrong is kept, to be said once."""
        try:
            with self._lock:
                yield
        except Exception as error:
            self.problem = self.problem or error
        self.changed.set()

    # What is told

    def say(self, line: str) -> None:
        """A line for people, such as what is waited for."""
        self.heard.clear()
        self._events.append(Said(line))
        self._hand_over()

    def begin(self, what: str, detail: str = "") -> None:
        """See `Watch`."""
        with self._noting():
            self._tracks.pop(LOOKING, None)
            self._enter(what)
            self._tracks.pop(what, None)
            self._tracks[what] = Track(what, self._clock(), detail)
            if what.startswith(f"{START}/"):
                self._events.append(Began(what, detail))

    def expect(self, what: str, total: float, unit: str, had: float = 0, **counts: float) -> None:
        """See `Watch`."""
        with self._noting():
            if (track := self._running(what)) is not None:
                track.expect(self._clock(), total, unit, had, counts)

    def grow(self, what: str, by: float = 1, newest: str = "", **counts: float) -> None:
        """See `Watch`."""
        with self._noting():
            if (track := self._running(what)) is not None:
                track.grow(self._clock(), by, newest, counts)

    def end(self, what: str) -> None:
        """See `Watch`."""
        with self._noting():
            if (track := self._running(what)) is None:
                return
            now = self._clock()
            track.finish(now, "done")
            if what.startswith(f"{START}/"):
                self._events.append(Ended(what, track.detail, now - track.began))
                for other in self._tracks.values():
                    other.could_begin(now)

    def kept(self, what: str) -> None:
        """See `Watch`."""
        with self._noting():
            number = round_and_phase(what)[0]
            if any(line.number == number for line in self._finished):
                looking = self._tracks.setdefault(LOOKING, Track(LOOKING, self._clock()))
                looking.detail = f"looks at {what}"
                return
            self._enter(what)
            track = self._tracks.setdefault(what, Track(what, self._clock(), state="kept"))
            if what in self._facts:
                track.text = track.text or _come_to(self._facts[what])
            if track.state == "running":  # it was begun, and turned out to be another run's already
                track.finish(self._clock(), "kept")

    def tell(self, what: str, text: str) -> None:
        """See `Watch`."""
        with self._noting():
            self.heard.clear()
            if (track := self._tracks.get(what)) is None:
                kept = self._was_kept(what)
                self._events.append(Come(what, text, kept, aside=not (kept or what.endswith(f"/{GATE}"))))
            elif track.state == "running":
                self._events.append(Come(what, text, False, aside=True))
            else:
                track.text = text
                self._events.append(Come(what, text, track.state == "kept"))
        self._hand_over()

    def measure(self, what: str, number: int, values: Mapping[str, Any]) -> None:
        """See `Watch`."""
        self._events.append(Measured(what, number, time.time(), values))
        self.changed.set()

    def _was_kept(self, what: str) -> bool:
        """Whether it belongs to a round that was over when this driver began."""
        return any(line.kept and line.number == round_and_phase(what)[0] for line in self._finished)

    def _running(self, what: str) -> Track | None:
        track = self._tracks.get(what)
        return track if track is not None and track.state == "running" else None

    def _enter(self, what: str) -> None:
        """A step of another round is the end of what is shown of this one."""
        if what.startswith(f"{START}/"):
            return
        number = round_and_phase(what)[0]
        if number != self._round:
            self._round = number
            self._tracks = {w: t for w, t in self._tracks.items() if w.startswith(f"{START}/") and t.ended is None}

    def _hand_over(self) -> None:
        """What is said comes out before the work goes on, unless whoever reads takes nothing: where a reader has left,
        it is better known before a library prints."""
        self.changed.set()
        if self.is_shown:
            self.heard.wait(_MOMENT)

    # What the ledger says

    def follow(self, ledger: Ledger) -> None:
        """The ledger has grown."""
        with self._noting():
            new, first = ledger.records[self._seen :], self._seen == 0
            self._seen, state = len(ledger.records), ledger.state
            self._durations.follow(new, state)
            self._epoch = state.epoch
            if first:
                self._finish_kept(state)
                self._facts = {step: commit.facts for step, commit in state.commits.items()}
            for record in new:
                if record.kind == "end":
                    self._end = record.data
                elif record.kind == "claim":
                    self._end = {}
                elif first:
                    continue
                elif record.kind == "commit":
                    self._committed(record.data["step"], record.data["facts"], state)
                elif record.kind == "promotion":
                    self._turning.look(state, number := int(record.data["round"]))
                    self._finish(self._turning.line_of(number, state))
                elif record.kind == "shard":
                    self.graded = Graded.of(state, record.data["step"], record.data["index"]) or self.graded

    def _committed(self, step: str, facts: Mapping[str, Any], state: State) -> None:
        if (track := self._tracks.get(step)) is not None:
            track.text = track.text or _come_to(facts)
        if step == BASE:
            self._finish(base_line(state))
        number, phase = round_and_phase(step)
        if phase in SEEN_BY:
            self._events.extend(itertools.starmap(Turned, self._turning.look(state, number)))

    def _finish_kept(self, state: State) -> None:
        if BASE in state.commits:
            self._finish(base_line(state), kept=True)
        self._turning.look(state)
        for number in (int(promotion["round"]) for promotion in state.promotions):
            self._finish(self._turning.line_of(number, state), kept=True)

    def _finish(self, line: RoundLine, kept: bool = False) -> None:
        own = [track for what, track in self._tracks.items() if not what.startswith(f"{START}/")]
        kept = kept or (line.number == self._round and bool(own) and all(track.state == "kept" for track in own))
        took = None if kept else self._durations.of(line.number)
        line = self._turning.said_of(line.model_copy(update={"kept": kept, "seconds": took}))
        self._finished.append(line)
        self._events.append(line)
        if line.number == self._round:
            for what, track in list(self._tracks.items()):
                if not what.startswith(f"{START}/") or track.ended is not None:
                    del self._tracks[what]

    # What is shown

    def events(self) -> list[Event]:
        """What has happened since this was asked last."""
        found = []
        while self._events:
            found.append(self._events.popleft())
        return found

    def all_heard(self) -> None:
        """What `events` gave is shown."""
        if not self._events:
            self.heard.set()

    def show_sample(self, sample: Sample) -> None:
        """Have a sample shown from now on."""
        self._sample = sample

    def break_off(self, state: RunState, reason: str) -> None:
        """It ends so, where the ledger does not say how."""
        with self._lock:
            self._end = self._end or {"state": state, "reason": reason}

    def look(self) -> Progress:
        """What stands on the board now."""
        with self._lock:
            now = self._clock()
            state: RunState = self._end.get("state", "running")
            if state != "running":
                for track in self._tracks.values():
                    if track.ended is None and track.state == "running":
                        track.finish(now, "done" if state == "finished" else "failed")
            return Progress(
                name=self._name[:MOST_TEXT],
                state=state,
                reason=str(self._end.get("reason", ""))[:MOST_TEXT],
                epoch=self._epoch,
                started=self._wall,
                updated=self._at(now),
                seconds=max(0.0, now - self._began),
                left=self._left(now) if state == "running" else None,
                round=self._round,
                rounds=self._num_rounds,
                phases=tuple(t.phase(now, self._at) for t in list(self._tracks.values())[-MOST_PHASES:]),
                finished=tuple(self._finished[-MOST_ROUNDS:]),
                sample=self._shown_sample() if state == "running" else None,
                warnings=self._turning.of(self._round),
            )

    def _shown_sample(self) -> Sample | None:
        """Of this round."""
        sample = self._sample
        return sample if sample is not None and round_and_phase(sample.step)[0] == self._round else None

    def _at(self, moment: float) -> float:
        return self._wall + (moment - self._began)

    def _left(self, now: float) -> float | None:
        if self._round is None:
            return None
        own = {w: t for w, t in self._tracks.items() if not w.startswith(f"{START}/")}
        over = {timed_as(round_and_phase(w)[1]) for w, t in own.items() if t.state != "running"}
        running = [(w, t) for w, t in own.items() if t.state == "running"]
        what, track = running[0] if running else (None, None)
        phase = timed_as(round_and_phase(what)[1]) if what else None
        over.discard(phase or "")
        by_rate = track.phase(now, self._at).left if track else None
        elapsed = now - track.began if track else 0.0
        number = max(self._round, max((line.number for line in self._finished), default=0))
        if number != self._round or (number and any(line.number == number for line in self._finished)):
            number, over, phase = number + 1, set(), None  # between two rounds
        return self._durations.left(number, self._num_rounds, over, phase, elapsed, by_rate)


def _come_to(facts: Mapping[str, Any]) -> str:
    """What a step without a line of its own has come to."""
    units = {"prompts": "prompts", "distinct_completions": "completions", "problems": "problems"}
    return next((f"{facts[key]} {unit}" for key, unit in units.items() if isinstance(facts.get(key), int)), "")
