"""Shows a board, in a thread of its own: nothing that is shown slows, stops or changes what is done. A view that fails
is told of once, and no more is shown by it."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

from orchestrator.errors import Interrupted, cut, first_line
from orchestrator.reports.progress.board import Board, Event
from orchestrator.reports.progress.model import Progress

SAMPLE_SECONDS = 10.0
"""How often another sample is shown."""
PATIENCE = 5.0
"""Seconds that a terminal which takes nothing may hold up the end of a command."""


class View(Protocol):
    """A way to show a board. All calls come from one thread, but `close`, which is the last one."""

    name: str
    every: float
    """Seconds between two looks."""

    def hear(self, event: Event) -> None:
        """Something has happened."""

    def look(self, progress: Progress) -> None:
        """What stands on the board now."""

    def close(self, progress: Progress) -> None:
        """What stood there last."""


class Showing:
    """The thread. `root` is the run's folder, where samples are; `say` is told of a view that fails, and the `spare`
    view takes the place of one that has it. `patience` is in seconds."""

    def __init__(
        self,
        board: Board,
        views: Sequence[View],
        root: Path,
        say: Callable[[str], None],
        spare: View | None = None,
        patience: float = PATIENCE,
    ) -> None:
        self._patience = patience
        self._board, self._root, self._say, self._spare = board, root, say, spare
        self._views = list(views)
        self._looked: dict[str, float] = {}
        self._sampled = 0.0
        self._seen: Progress | None = None
        """What the views were given last."""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name="progress", daemon=True)

    def start(self) -> None:
        """Begin to show."""
        self._board.is_shown = True
        self._thread.start()

    def close(self) -> None:
        """Show what there is left, and end."""
        self._stop.set()
        self._board.is_shown = False
        self._board.changed.set()
        self._thread.join(self._patience)

    def _work(self) -> None:
        try:
            self._show()
        except Exception as error:  # the board cannot be looked at, such as by a clock that is before 1970
            if self._seen is not None:
                for view in self._views:
                    with contextlib.suppress(Exception):
                        view.close(self._seen)  # which gives back what it has taken
            self._say(f"progress  cannot be shown any more: {cut(' '.join(str(error).split()))}")

    def _show(self) -> None:
        while not self._stop.is_set():
            pause = min((view.every for view in self._views), default=None)
            self._board.changed.wait(pause)
            self._board.changed.clear()
            self._hear()
            self._look()
        self._hear()
        last = self._board.look()
        for view in list(self._views):
            self._try(view, lambda view=view: view.close(last))  # type: ignore[misc]

    def _hear(self) -> None:
        for event in self._board.events():
            for view in list(self._views):  # the spare one hears of what comes next
                self._try(view, lambda view=view, event=event: view.hear(event))  # type: ignore[misc]
        if self._board.problem is not None:
            problem, self._board.problem = self._board.problem, None
            self._say(f"progress  cannot be told rightly any more: {first_line(problem)}")

    def _look(self) -> None:
        self._board.all_heard()
        now = time.monotonic()
        due = [v for v in self._views if now - self._looked.get(v.name, -1e9) >= v.every]
        if not due:
            return
        self._take_sample(now)
        progress = self._seen = self._board.look()
        for view in due:
            self._looked[view.name] = now
            self._try(view, lambda view=view: view.look(progress))  # type: ignore[misc]

    def _take_sample(self, now: float) -> None:
        graded = self._board.graded
        if graded is None or now - self._sampled < SAMPLE_SECONDS:
            return
        self._sampled, self._board.graded = now, None
        with contextlib.suppress(Exception):  # its files may be gone by now; the next one's are there
            if (sample := graded.one(self._root)) is not None:
                self._board.show_sample(sample)

    def _try(self, view: View, act: Callable[[], None]) -> None:
        try:
            act()
        except Exception as error:
            self._views.remove(view)
            with contextlib.suppress(Exception):
                view.close(self._board.look())  # which gives back what it has taken
            self._say(f"progress  {view.name} shows no more: {first_line(error)}")
            if self._spare is not None and not self._stop.is_set():
                self._views.append(self._spare)
                self._spare = None


@contextlib.contextmanager
def shown(
    board: Board,
    views: Sequence[View],
    root: Path,
    say: Callable[[str], None],
    spare: View | None = None,
    patience: float = PATIENCE,
) -> Iterator[None]:
    """While a board is told, show it; see `Showing`."""
    showing = Showing(board, views, root, say, spare, patience)
    showing.start()
    try:
        yield
    except BaseException as error:
        board.break_off("interrupted" if isinstance(error, Interrupted) else "failed", first_line(error))
        raise
    finally:
        showing.close()
