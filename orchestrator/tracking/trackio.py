"""trackio: a job is one run, with the figures of all its rounds, in the user's local store (`trackio show`), or in the
Space or on the server that TRACKIO_SPACE_ID or TRACKIO_SERVER_URL names."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

from orchestrator.tracking.projection import Figure
from orchestrator.tracking.sink import RunStatus
from orchestrator.tracking.stores import Place


def open_place(place: Place) -> Run:
    """The run's place.

    Raises:
        whatever trackio raises.
    """
    return Run(place)


class Run:
    """A `Store`: a run of trackio."""

    def __init__(self, place: Place) -> None:
        import trackio

        with _quiet():
            self._run: Any = trackio.init(
                project=place.project,
                name=f"{place.name} {place.id}",  # by which trackio finds it again
                config=dict(place.parameters),
                resume="allow",
                embed=False,
                auto_log_gpu=False,
                auto_log_cpu=False,
            )

    def add(self, number: int, figures: Sequence[Figure]) -> None:
        """See `Store`."""
        if number:
            return  # those of the job have the same, with updates counted over all rounds
        rows: dict[int, dict[str, float]] = {}
        for figure in figures:
            rows.setdefault(figure.step, {})[figure.key] = figure.value
        with _quiet():
            for step, values in rows.items():
                self._run.log(values, step=step)

    def settle(self) -> None:
        """See `Store`: a thread of trackio writes it within a second."""

    def close(self, status: RunStatus | None) -> None:
        """See `Store`. Waits until it is written."""
        import trackio

        with _quiet():
            trackio.finish()  # which also forgets it, or trackio would finish it again at the end of the process


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """trackio prints, and warns of what it does not do."""
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
