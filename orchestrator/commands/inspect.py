"""`ratchet inspect`: what a run has in it, by round, verdict, problem, flip, pair and checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from rich.console import RenderableType

from orchestrator.errors import BadInput
from orchestrator.records.rows import CAUSES, Verdict
from orchestrator.reports.inspection import checkpoints, pairs, views
from orchestrator.reports.inspection.reading import RunReader
from orchestrator.reports.inspection.shown import Pages
from orchestrator.text import terminal
from orchestrator.text.terminal import Screen, echo_json

_CHOICES = {"split": get_args(views.Split), "verdict": get_args(Verdict), "cause": CAUSES}


@dataclass(frozen=True, slots=True)
class Asked:
    """What was asked for on the command line; None: not said."""

    round: int | None = None
    split: views.Split | None = None
    verdict: str | None = None
    cause: str | None = None
    rule: str | None = None
    text: str | None = None
    problem: str | None = None
    pair: str | None = None
    flipped: bool = False
    checkpoint: bool = False
    limit: int = 10

    def __post_init__(self) -> None:
        """Raises BadInput where a value is none of those there are, or two views are asked for at once."""
        for name, known in _CHOICES.items():
            if (value := getattr(self, name)) is not None and value not in known:
                raise BadInput(f"--{name}: {value!r} is none. Give {', '.join(known[:-1])} or {known[-1]}.")
        for name in ("rule", "text", "problem", "pair"):
            try:
                (getattr(self, name) or "").encode()
            except UnicodeEncodeError as error:
                raise BadInput(
                    f"--{name}: {getattr(self, name)!r} is no text in UTF-8, and what a run holds is"
                ) from error
        one = [f"--{name}" for name in ("problem", "pair", "flipped", "checkpoint") if getattr(self, name)]
        if len(one) > 1:
            raise BadInput(f"{' and '.join(one)}: each is a view of its own. Give one of them.")

    @property
    def nothing(self) -> bool:
        """Whether no samples are asked for either."""
        return (self.round, self.split, self.verdict, self.cause, self.rule, self.text) == (None,) * 6


def show(run: Path, asked: Asked, full: bool, as_json: bool) -> None:
    """Print what is asked for of a run; what is longer than a terminal, through a pager.

    Raises:
        BadInput: there is no run in this folder, or nothing of this name in it.
        Damaged: a record or a file is not what it should be.
    """
    wrapped = terminal.can_be_drawn_on()
    document, page = _found(RunReader(run), asked, Pages(full, wrapped), str(run))
    if as_json:
        echo_json(document)
        return
    screen = Screen()
    if wrapped:
        with screen.pager():
            screen.print(page)
    else:
        screen.print(page, soft_wrap=True)


def _found(reader: RunReader, asked: Asked, pages: Pages, run: str) -> tuple[views.Document, RenderableType]:
    if asked.problem is not None:
        return (found := views.problem(reader, asked.problem)), pages.problem(found)
    if asked.pair is not None:
        return (found := pairs.pair(reader, asked.round, asked.pair)), pages.pair(found)
    if asked.flipped:
        number = _last(reader, asked, "evaluation")
        split = "gate" if asked.split in (None, "train") else asked.split
        return (found := views.flips(reader, number, split, asked.limit)), pages.flips(found)
    if asked.checkpoint:
        number = (reader.checkpoints() or [_last(reader, asked, "train")])[-1] if asked.round is None else asked.round
        return (found := checkpoints.checkpoint(reader, number)), pages.checkpoint(found)
    if asked.nothing:
        return (found := views.overview(reader)), pages.overview(found, run)
    split = asked.split or ("gate" if asked.round == 0 else "train")
    number = _last(reader, asked, "verdicts" if split == "train" else "evaluation")
    wanted = views.Wanted(number, split, asked.verdict, asked.cause, asked.rule, asked.text)
    return (found := views.samples(reader, wanted, asked.limit)), pages.samples(found)


def _last(reader: RunReader, asked: Asked, phase: str) -> int:
    """The round that is asked for; by default the last one that has the phase."""
    if asked.round is not None:
        return asked.round
    if not (there := reader.rounds(phase)):
        raise BadInput(f"{reader.root}: no round has its {phase} yet")
    return there[-1]
