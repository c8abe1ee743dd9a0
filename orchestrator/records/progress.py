"""What is happening, told while it happens: by driver, loop and workers, to whoever shows it (reports/progress)."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ParamSpec, Protocol, TypeVar

_P = ParamSpec("_P")
_T = TypeVar("_T")
START = "start"
"""The folder of what is no step: the starts of workers, and what is looked at before any. `start/engines`, say."""
ENGINES, RANKS = f"{START}/engines", f"{START}/ranks"
NODES = "nodes"
"""The folder of what is measured of a node: `nodes/NAME`."""


class Watch(Protocol):
    """Told what is happening. Each call is cheap, from any thread, and raises nothing: whoever works may tell, and need
    not mind who hears it. `what` is a step, such as `rounds/01/samples`, or a start, such as `start/engines`."""

    def begin(self, what: str, detail: str = "") -> None:
        """It begins. `detail` says more of it for people, such as which model is loaded."""

    def expect(self, what: str, total: float, unit: str, had: float = 0, **counts: float) -> None:
        """It will be `total` (0: nobody knows) of a unit, of which `had` were done before, by an earlier driver, say.
        `counts` are those of what was done before."""

    def grow(self, what: str, by: float = 1, newest: str = "", **counts: float) -> None:
        """So much more of it is done, with `counts` to be added to those so far: `tokens`, `correct`, ... `newest` is
        what the last piece of work came to, for people."""

    def end(self, what: str) -> None:
        """It is done."""

    def kept(self, what: str) -> None:
        """It is in the ledger already, and is only looked at."""

    def tell(self, what: str, text: str) -> None:
        """What it has come to, in a line for people."""

    def measure(self, what: str, number: int, values: Mapping[str, Any]) -> None:
        """Figures of now, to be kept with the time: of an update of the training `what`, by the update's number; or of
        the node `nodes/NAME`, whose number is nothing. What is no finite number is passed over."""


class Unwatched:
    """Nobody is told."""

    def begin(self, what: str, detail: str = "") -> None:
        """Nobody is."""

    def expect(self, what: str, total: float, unit: str, had: float = 0, **counts: float) -> None:
        """Nobody is."""

    def grow(self, what: str, by: float = 1, newest: str = "", **counts: float) -> None:
        """Nobody is."""

    def end(self, what: str) -> None:
        """Nobody is."""

    def kept(self, what: str) -> None:
        """Nobody is."""

    def tell(self, what: str, text: str) -> None:
        """Nobody is."""

    def measure(self, what: str, number: int, values: Mapping[str, Any]) -> None:
        """Nobody is."""


UNWATCHED = Unwatched()


@contextlib.contextmanager
def starting(watch: Watch, what: str, total: float = 0, unit: str = "", detail: str = "") -> Iterator[None]:
    """Around a start; what fails has not ended."""
    watch.begin(what, detail)
    if total:
        watch.expect(what, total, unit)
    yield
    watch.end(what)


def during(watch: Watch, what: str, detail: str, act: Callable[_P, _T]) -> Callable[_P, _T]:
    """`act`, with each call told as such a start."""

    def told(*arguments: _P.args, **named: _P.kwargs) -> _T:
        with starting(watch, what, detail=detail):
            return act(*arguments, **named)

    return told
