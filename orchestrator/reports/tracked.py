"""`tracking.json` in the run folder: how far a run has been sent to MLflow. A cache, which can be deleted."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from orchestrator.errors import Damaged
from orchestrator.files import durable, strict_json

CURSOR_FILE = "tracking.json"
NAMES = 2
"""The names that metrics have now (projection.py)."""
_MAX_CURSOR = 1 << 16  # bytes


@dataclass
class Cursor:
    """How far the ledger and the journal have been sent, and to where."""

    uri: str
    experiment: str
    run_id: str
    parent: str
    """MLflow's id of the parent run: when it is gone, so is all that was sent."""
    figures: int = 0
    """Number of the first record whose figures are not sent."""
    files: int = 0
    """Number of the first record whose files are not sent."""
    folder: str = ""
    """The run folder that it was sent from: a run that was moved says all again, since MLflow holds paths."""
    experiment_id: str = ""
    """MLflow's id of the experiment, which addresses of pages name; earlier versions did not keep it."""
    journal: int = 0
    """The first byte of the journal (reports/journal.py) that is not sent."""

    names: int = 1
    """Which names metrics have: 1 in earlier versions, from which all is said again by the names of now."""

    def is_of(self, other: Cursor) -> bool:
        """Whether the other one is of the same run, sent to the same place."""
        still = {"figures": 0, "files": 0, "journal": 0, "experiment_id": ""}
        return replace(self, **still) == replace(other, **still)  # type: ignore[arg-type]

    def write(self, run_dir: Path) -> None:
        """Keep it in the run folder.

        Raises:
            OSError: it cannot be written.
        """
        durable.replace(run_dir / CURSOR_FILE, json.dumps(asdict(self)).encode())


def read(run_dir: Path, records: int) -> Cursor | None:
    """The cursor in a run folder, wherever that was when it was written; None where there is none of use. The ledger
    has so many `records`."""
    try:
        known = Cursor(**strict_json.read_object(run_dir / CURSOR_FILE, _MAX_CURSOR, run_dir))
        said = (known.uri, known.experiment, known.run_id, known.parent, known.folder, known.experiment_id)
        texts = all(isinstance(text, str) for text in said)
        counts = all(type(count) is int and 0 <= count <= records for count in (known.figures, known.files))
        return known if texts and counts and type(known.journal) is int and known.journal >= 0 else None
    except (OSError, ValueError, TypeError, Damaged):
        return None  # whatever is wrong with it, start over
