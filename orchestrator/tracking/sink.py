"""What a place must be able to do that a run is told to: the interface behind ledger and journal.

MLflow (mlflow.py) has the whole of it, and more (tables, files, versions of models: views.py). Other stores are only
added to: `Added` (stores.py) makes a sink of each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from orchestrator.tracking.projection import Figure

FOLDER, HOST = "ratchet.folder", "ratchet.host"
"""Tags that tell a run from a copy of it."""

RunStatus = Literal["FINISHED", "FAILED", "KILLED"]


@dataclass(frozen=True, slots=True)
class DataSet:
    """A data set as it is shown.

    Example: DataSet("gate", "evaluation", "/data/gate.jsonl", "9f3c...", 256)
    """

    name: str
    context: str
    path: str
    digest: str
    num_rows: int | None


class Sink(Protocol):
    """One job's place in a store, with a place below it for each round. All may be said again."""

    @property
    def runs(self) -> Mapping[int, str]:
        """The store's ids of what was begun, by round; 0 is the job."""

    def ensure_run(self, number: int, name: str, start: int, tags: Mapping[str, str]) -> str:
        """See to it that there is a place for a round (0: the job), and return its id; `start` in milliseconds."""

    def log(
        self,
        number: int,
        figures: Sequence[Figure] = (),
        params: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """Add figures of a record, parameters and tags."""

    def log_once(self, number: int, figures: Sequence[Figure]) -> None:
        """Add those figures whose step the store does not have yet."""

    def log_inputs(self, number: int, data_sets: Sequence[DataSet]) -> None:
        """Name the data that was used."""

    def set_running(self, number: int) -> None:
        """Say that it goes on."""

    def set_ended(self, number: int, status: RunStatus, milliseconds: int) -> None:
        """Say how it ended, and when."""
