"""Stores that are only added to: TensorBoard, Weights & Biases, trackio. Each is a file beside this one, and an extra.

None can say what it has without being asked over a network, or change what it was told. So what was added is remembered
in the run (feed.py), and a store that is told anew gets a new run.
"""

from __future__ import annotations

import importlib
import importlib.util
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from orchestrator.errors import BadInput
from orchestrator.tracking.projection import SYSTEM, Figure
from orchestrator.tracking.sink import DataSet, RunStatus

NAMES: Mapping[str, str] = {"tensorboard": "TensorBoard", "wandb": "Weights & Biases", "trackio": "trackio"}
"""The stores by their names in a job, which are those of their packages and extras."""


@dataclass(frozen=True, slots=True)
class Place:
    """What a store is told of the run that it gets."""

    run_dir: Path
    name: str
    project: str
    id: str
    """Of the run in the store, given by us: the same one goes on with it."""
    fresh: bool
    """Whether nothing was added under this id yet."""
    parameters: Mapping[str, str]
    """The resolved job."""


class Store(Protocol):
    """One run's place in such a store."""

    def add(self, number: int, figures: Sequence[Figure]) -> None:
        """Add figures of a round (0: of the job). Every figure of a round that is not the round's alone is among those
        of the job, too, so a store without rounds may pass over all others.

        Raises:
            whatever the store raises.
        """

    def settle(self) -> None:
        """See to it that what was added is there, where that is in this process's hands."""

    def close(self, status: RunStatus | None) -> None:
        """Let go of it. `status` is how the run ended; None where it goes on later."""


def require_installed(names: Iterable[str], key: str = "tracking.sinks") -> None:
    """Look whether the packages of some stores are there; nothing is imported.

    Raises:
        BadInput: one is not; the message has the command that installs it.
    """
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise BadInput(
                f"{key}: {name} needs a package that is not installed: pip install 'ratchet-orchestrator[{name}]'"
            )


def look_lines(names: Iterable[str], run_dir: Path, project: str) -> Iterator[str]:
    """How a run is looked at in some stores, a line each."""
    told = {
        "tensorboard": shlex.join(["tensorboard", "--logdir", str(run_dir / "tensorboard")]),
        "trackio": shlex.join(["trackio", "show", "--project", project]),
        "wandb": f"Weights & Biases, project {project}; what was kept offline: "
        f"wandb sync --append {shlex.quote(str(run_dir / 'wandb'))}/offline-run-*",
    }
    return (told[name] for name in names)


def open_store(name: str, place: Place) -> Store:
    """A store's place for a run.

    Raises:
        BadInput: its package is not installed.
        whatever the store raises.
    """
    require_installed([name])
    opened: Callable[[Place], Store] = importlib.import_module(f"orchestrator.tracking.{name}").open_place
    return opened(place)


class Added:
    """A `Sink` over a store that is only added to."""

    def __init__(self, store: Store, sent: dict[int, set[int]]) -> None:
        """`sent` are the updates that the store has, by round; it grows with what is told."""
        self.runs: dict[int, str] = {}
        self.status: RunStatus | None = None
        self._store, self._sent = store, sent
        self._latest: dict[str, int] = {}  # of a node's figures

    def ensure_run(self, number: int, name: str, start: int, tags: Mapping[str, str]) -> str:
        """See `Sink`."""
        return self.runs.setdefault(number, name)

    def log(
        self,
        number: int,
        figures: Sequence[Figure] = (),
        params: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """See `Sink`. Parameters are told when a store is opened, and tags are MLflow's."""
        if figures:
            self._store.add(number, figures)

    def log_once(self, number: int, figures: Sequence[Figure]) -> None:
        """See `Sink`. Of a node the steps are seconds, of which the journal has those that follow."""
        known, seen, new = self._sent.setdefault(number, set()), set[tuple[str, int]](), []
        for figure in figures:
            if figure.key.startswith(f"{SYSTEM}/"):
                is_new = figure.step > self._latest.get(figure.key, -1)
                self._latest[figure.key] = max(figure.step, self._latest.get(figure.key, -1))
            else:
                is_new = figure.step not in known and (figure.key, figure.step) not in seen
                seen.add((figure.key, figure.step))
            if is_new:
                new.append(figure)
        known |= {step for _, step in seen}
        if new:
            self._store.add(number, new)

    def log_inputs(self, number: int, data_sets: Sequence[DataSet]) -> None:
        """See `Sink`. Not told: a resolved job names its data."""

    def set_running(self, number: int) -> None:
        """See `Sink`."""
        self.status = None

    def set_ended(self, number: int, status: RunStatus, milliseconds: int) -> None:
        """See `Sink`. Of rounds it is not told."""
        if not number:
            self.status = status
