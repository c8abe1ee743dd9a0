"""One thing that is going on: how much of it is done, how fast, and for how long it will still go."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from orchestrator.reports.progress.model import MOST_TEXT, Phase, PhaseState

_MARKS = 8  # the rate is over so many pieces of work, or over `_WINDOW` seconds where that is longer
_WINDOW = 60.0
_AT_ONCE = 1e-3  # seconds
_TOKENS = "tokens"


@dataclass
class Track:
    """Moments are seconds of one clock."""

    what: str
    began: float
    detail: str = ""
    state: PhaseState = "running"
    done: float = 0
    had: float = 0
    total: float | None = None
    unit: str = ""
    counts: dict[str, float] = field(default_factory=dict)
    newest: str = ""
    ended: float | None = None
    text: str = ""
    _marks: deque[tuple[float, float, float]] = field(default_factory=deque)
    """Moment, units done and tokens, after each piece of work; before the first, when it could begin."""

    def expect(self, now: float, total: float, unit: str, had: float, counts: dict[str, float]) -> None:
        """See `Watch.expect`."""
        self.total, self.unit, self.had, self.done = total or None, unit, had, had
        self.counts = dict(counts)
        self._marks.clear()
        self._mark(now)

    def grow(self, now: float, by: float, newest: str, counts: dict[str, float]) -> None:
        """See `Watch.grow`."""
        self.done += by
        self.newest = newest or self.newest
        for name, count in counts.items():
            self.counts[name] = self.counts.get(name, 0) + count
        if len(self._marks) == 1 and now - self._marks[0][0] < _AT_ONCE:
            self._marks.clear()  # what is expected was only known with this piece of work, and its time is not
        elif not self._marks:
            self._marks.append((self.began, 0.0, 0.0))
        self._mark(now)
        while len(self._marks) > _MARKS and now - self._marks[1][0] > _WINDOW:
            self._marks.popleft()

    def could_begin(self, now: float) -> None:
        """Whom it waited for is there: the time until now is no time at work."""
        if len(self._marks) == 1:
            self._marks.clear()
            self._mark(now)

    def _mark(self, now: float) -> None:
        self._marks.append((now, self.done, self.counts.get(_TOKENS, 0.0)))

    def finish(self, now: float, state: PhaseState) -> None:
        """It is over."""
        if self.ended is None:
            self.ended = now
        self.state = state

    def rates(self, now: float) -> tuple[float | None, float | None]:
        """Units and tokens per second; None where nothing is known yet."""
        if len(self._marks) < 2:
            return None, None
        (first, done, tokens), (last, done_now, tokens_now) = self._marks[0], self._marks[-1]
        # A piece of work that is long in coming slows the rate, too.
        usual = (last - first) / (len(self._marks) - 1)
        seconds = max(last, now - usual if self.ended is None else last) - first
        if seconds <= 0 or done_now <= done:
            return None, None
        return (done_now - done) / seconds, (tokens_now - tokens) / seconds or None

    def phase(self, now: float, wall: Callable[[float], float]) -> Phase:
        """As it is now; `wall` makes a moment seconds since 1970."""
        kept = self.state == "kept"
        units, tokens = (None, None) if kept else self.rates(now)
        left = None
        if self.state == "running" and units and self.total is not None:
            left = max(0.0, self.total - self.done) / units
        return Phase(
            what=self.what[:MOST_TEXT],
            state=self.state,
            detail=self.detail[:MOST_TEXT],
            done=self.done,
            had=self.had,
            total=self.total,
            unit=self.unit,
            rate=tokens or units,
            rate_unit=_TOKENS if tokens else self.unit,
            counts=dict(self.counts),
            newest=self.newest[:MOST_TEXT] if self.ended is None else "",
            started=None if kept else wall(self.began),
            seconds=None if kept else max(0.0, (now if self.ended is None else self.ended) - self.began),
            left=left,
            text=self.text[:MOST_TEXT],
        )
