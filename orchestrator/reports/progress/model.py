"""What is known of a run's progress at a moment: what `progress.json` holds, and whatever is shown is made from.

The file is a view: a driver writes it anew every few seconds, and it can be deleted. Whoever reads it may have it from
a stranger.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from orchestrator.errors import Damaged
from orchestrator.files import strict_json
from orchestrator.ledger.borders import require_borders
from orchestrator.ledger.ledger import State
from orchestrator.records.progress import START
from orchestrator.text.shown import as_json

PROGRESS_FILE = "progress.json"
VERSION = 1
MAX_PROGRESS = 1 << 22
"""Bytes of a progress.json."""
MOST_PHASES, MOST_ROUNDS, MOST_TEXT, MOST_WARNINGS = 200, 2000, 2000, 50
"""The newest so many are told."""

Text = Annotated[str, Field(max_length=MOST_TEXT)]
Seconds = Annotated[float, Field(ge=0, le=1e12)]
Amount = Annotated[float, Field(ge=-1e18, le=1e18)]
Number = Annotated[int, Field(ge=0, le=10**6)]
Share = Annotated[float, Field(ge=0, le=1)]
PhaseState = Literal["running", "done", "kept", "failed"]


RunState = Literal["running", "finished", "interrupted", "failed", "stopped", "not started"]


class Told(BaseModel):
    """Base of all: frozen, and keys of later versions are let be."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


class Phase(Told):
    """A step of the round, or a start of workers."""

    what: Text
    """The step, such as rounds/01/samples, or start/engines."""
    state: PhaseState = "running"
    """`kept`: it was in the ledger already."""
    detail: Text = ""
    done: Amount = 0
    had: Amount = 0
    """How much of `done` an earlier driver has done."""
    total: Amount | None = None
    unit: Text = ""
    rate: Amount | None = None
    """Per second: tokens where they are counted, else units; None while nothing is known, or nothing is done anew."""
    rate_unit: Text = ""
    counts: Mapping[Text, Amount] = Field(default={}, max_length=100)
    """Such as tokens, correct, wrong, ungradable."""
    newest: Text = ""
    """What its last piece of work came to, such as the loss of an update."""
    started: Seconds | None = None
    """Seconds since 1970, UTC."""
    seconds: Seconds | None = None
    """How long it has taken so far."""
    left: Seconds | None = None
    """How long it will still take, at that rate."""
    text: Text = ""
    """What it has come to, for people."""

    @property
    def name(self) -> str:
        """Without the round's folder."""
        first, _, rest = self.what.partition("/")
        return rest.partition("/")[2] if first == "rounds" else rest or first

    @property
    def starts(self) -> bool:
        """Whether it is no step, but a start of workers."""
        return self.what.startswith(f"{START}/")


class RoundLine(Told):
    """A round that is over; number 0 is the base model."""

    number: Number
    kept: bool = False
    """It was in the ledger when this driver began."""
    promoted: bool | None = None
    gate: Share | None = None
    test: Share | None = None
    """Accuracies."""
    before: Share | None = None
    """On test, of the reference before it; of gate where there is no test."""
    pairs: Amount | None = None
    won: Amount | None = None
    lost: Amount | None = None
    seconds: Seconds | None = None
    decision: Text = ""
    """What the gate has said, in a sentence."""
    health: Mapping[Text, Amount] = Field(default={}, max_length=100)
    """The round's figures (health.py), those that are known."""
    warnings: tuple[Text, ...] = Field(default=(), max_length=MOST_WARNINGS)
    """What has turned in it (symptoms.py)."""


class Sample(Told):
    """A sample that was just graded."""

    prompt_id: Text
    text: Text
    """The end of the completion."""
    verdict: Text
    extracted: Text | None = None
    step: Text = ""


class Progress(Told):
    """What is known of a run's progress."""

    version: Literal[1] = 1
    name: Text
    state: RunState = "running"
    reason: Text = ""
    epoch: Number = 0
    """Of the driver: the number of its claim."""
    started: Seconds
    """When this driver began."""
    updated: Seconds
    seconds: Seconds
    """How long this driver has been at it."""
    left: Seconds | None = None
    """How long the run will still take, by its earlier rounds; None where there is none yet."""
    round: Number | None = None
    """The round that is under way; 0 is the base model, None before any."""
    rounds: Number
    phases: tuple[Phase, ...] = Field(default=(), max_length=MOST_PHASES)
    """Of the round that is under way, and what is being started."""
    finished: tuple[RoundLine, ...] = Field(default=(), max_length=MOST_ROUNDS)
    sample: Sample | None = None
    warnings: tuple[Text, ...] = Field(default=(), max_length=MOST_WARNINGS)
    """What has turned in the round that is under way, as far as it is known."""

    def as_file(self) -> bytes:
        """The content of progress.json."""
        return (as_json(self.model_dump(mode="json")) + "\n").encode()


def read_progress(run_dir: Path, state: State) -> Progress | None:
    """What the run folder says of its progress; None where that is nothing, or nothing of use. `state` is the run's.

    Raises:
        Damaged: something of the run leads out of it.
    """
    require_borders(run_dir, state)
    try:
        found = strict_json.read_object(run_dir / PROGRESS_FILE, MAX_PROGRESS, run_dir)
        return Progress.model_validate(found)
    except (OSError, ValueError, ValidationError, Damaged):
        return None


def now() -> float:
    """Seconds since 1970, UTC."""
    return time.time()
