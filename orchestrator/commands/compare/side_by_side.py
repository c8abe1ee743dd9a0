"""Runs that are there, side by side: accuracies, a paired test on the problems that both answered, and the settings in
which they differ. Nothing is run."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from orchestrator.commands.fork.job import absolute
from orchestrator.config.load import changed_keys
from orchestrator.config.places import run_named
from orchestrator.driver.kept import is_kept
from orchestrator.driver.resume import folders
from orchestrator.errors import BadInput, cut
from orchestrator.records.abstentions import graders_version
from orchestrator.records.statistics import mcnemar_p_value
from orchestrator.reports.inspection.reading import RunReader
from orchestrator.reports.inspection.views import reference_before
from orchestrator.reports.tables import round_step
from orchestrator.text.counts import bracketed
from orchestrator.text.shown import line
from orchestrator.text.tables import FittingTable
from orchestrator.text.terminal import Screen, echo_json

_AT_ROUND = re.compile(r"(.+)@round(\d{1,9})", re.ASCII)
_NEVER = 1 << 62
_LONGEST = 1000  # characters of a setting that a table shows; `--json` has all of it
JUDGED_APART = "judged by different versions of the graders: their accuracies are not to be compared; fork one"
_NAMES = ("name", "run_dir", "archive")
"""Keys that differ between any two runs."""


@dataclass(frozen=True, slots=True)
class Side:
    """One of the models that are compared: the base model (round 0) or a checkpoint of a run."""

    name: str
    run: Path
    """The run's folder."""
    round: int
    job: Mapping[str, Any]
    figures: Mapping[str, Any]
    """Of its answers to the test problems: accuracy, low, high, problems, correct; empty where it has none."""
    solved: Mapping[tuple[str, str], bool]
    """Whether it solved a test problem, by the problem's text and gold answer: ids may be anybody's."""
    graders: int | None
    """Version of the graders that judged it."""
    placed: Mapping[str, Any] | None = None
    """The job with absolute paths, by which two name the same file; None: as `job`. A fork names by them what its run
    named relative to its job file."""


def opened(named: str) -> tuple[RunReader, int]:
    """A run, and the round that is meant: that of its current reference, or N with @roundN behind it.

    Raises:
        BadInput: there is no such run.
        Damaged: a record is not what it should be.
    """
    found = _AT_ROUND.fullmatch(named)
    reader = RunReader(run_named(Path(found[1] if found and not Path(named).exists() else named)))
    if not reader.state.configs:
        raise BadInput(f"{named}: this run was never started, so that there is nothing to compare")
    return reader, int(found[2]) if found else reference_before(reader.state, _NEVER)


def side(named: str) -> Side:
    """The current reference of a run, or with @roundN behind it that round's candidate.

    Raises:
        BadInput: there is no such run, or the round was not evaluated.
        Damaged: a record or a file is not what it should be.
    """
    reader, number = opened(named)
    commit = reader.state.commits.get("baseline/evaluation" if number == 0 else round_step(number, "evaluation"))
    if commit is None:
        reader.require(number, "evaluation")
    facts, job = commit.facts if commit else {}, reader.state.configs[-1]["job"]
    placed = absolute(job, folders(reader.state), [step for step in reader.state.commits if is_kept(step)])
    figures, graders = facts.get("test") or {}, graders_version(facts)
    return Side(named, reader.root, number, job, figures, _solved(reader, number), graders, placed)


def _solved(reader: RunReader, number: int) -> dict[tuple[str, str], bool]:
    table = reader.answers(number, "test")
    if table is None:
        return {}
    rows = table.select(["prompt_id", "verdict"]).to_pylist()
    prompts = reader.prompts(0, "test", {row["prompt_id"] for row in rows})
    asked = ((prompts[row["prompt_id"]], row["verdict"]) for row in rows if row["prompt_id"] in prompts)
    return {(prompt["prompt"], prompt["gold"]): verdict == "correct" for prompt, verdict in asked}


@dataclass(frozen=True, slots=True)
class Paired:
    """A model against the first one, on the test problems that both answered."""

    name: str
    shared: int
    won: int
    """Problems that only it solves."""
    lost: int
    """Problems that only the first solves."""
    p_value: float
    """Of "neither is better", two-sided, exact (McNemar 1947)."""


def paired(first: Side, other: Side) -> Paired:
    """The test of two models on what both answered."""
    shared = first.solved.keys() & other.solved.keys()
    won = sum(other.solved[key] and not first.solved[key] for key in shared)
    lost = sum(first.solved[key] and not other.solved[key] for key in shared)
    return Paired(other.name, len(shared), won, lost, min(1.0, 2 * mcnemar_p_value(max(won, lost), min(won, lost))))


def differences(sides: Sequence[Side]) -> dict[str, list[Any]]:
    """Settings that are not the same in all runs: the value of each, by key."""
    keys: dict[str, None] = {}
    for other in sides[1:]:
        jobs = (each.placed or each.job for each in (sides[0], other))
        changed = (key for key, _, _ in changed_keys(*jobs))
        keys |= dict.fromkeys(key for key in changed if key.partition(".")[0] not in _NAMES)
    return {key: _values(sides, key) for key in keys}


def _values(sides: Sequence[Side], key: str) -> list[Any]:
    """Of a path that is one text in two places, the places."""
    said = [_at(each.job, key) for each in sides]
    return said if any(one != said[0] for one in said) else [_at(each.placed or each.job, key) for each in sides]


def _at(job: Any, key: str) -> Any:
    for part in key.split("."):
        job = job.get(part) if isinstance(job, Mapping) else None
    return job


def show(named: Sequence[str], json: bool) -> None:
    """Print models side by side, or one JSON object.

    Raises:
        BadInput, Damaged: as `side`.
    """
    sides = [side(each) for each in named]
    if json:
        echo_json(as_json(sides))
    else:
        Screen().print(render(sides))


def as_json(sides: Sequence[Side]) -> dict[str, Any]:
    """For programs: `models`, `paired` (each against the first) and `settings` that differ."""
    tests = [paired(sides[0], other) for other in sides[1:]]
    return {
        "models": [_model(each) for each in sides],
        "paired": [{"against": sides[0].name, **asdict(test)} for test in tests],
        "settings": differences(sides),
    }


def _model(side: Side) -> dict[str, Any]:
    told = {"name": side.name, "round": side.round, "method": side.job.get("method")}
    return told | {"graders_version": side.graders, "test": dict(side.figures)}


_HEADINGS = ("run", "round", "method", "test", "95 %", "won", "lost", "shared", "p")
_LEFT_OUT = (("method",), ("method", "round"), ("method", "round", "95 %"))
"""What a narrow terminal does without."""


def render(sides: Sequence[Side]) -> RenderableType:
    """For a terminal."""
    rows = []
    for number, each in enumerate(sides):
        figures, what = each.figures, str(each.round) if each.round else "base"
        accuracy = f"{100 * figures['accuracy']:.1f} %" if figures else "–"
        between = bracketed(figures["low"], figures["high"]) if "low" in figures else ""
        against = _against(paired(sides[0], each)) if number else [""] * 4
        rows.append([line(each.name), what, line(each.job.get("method", "")), accuracy, between, *against])
    told = ["", "won, lost: test problems that only this model, or only the first, solves; p: McNemar's exact test"]
    if len({each.graders for each in sides}) > 1:
        told.append(JUDGED_APART)
    table = FittingTable(_HEADINGS, rows, _LEFT_OUT, left=1, names=True, gap=2)
    return Group(table, *(Text(said) for said in told), Text(""), *_settings(sides))


def _against(test: Paired) -> list[str]:
    p_value = f"{test.p_value:.3g}" if test.shared else "–"
    return [f"{test.won:,}", f"{test.lost:,}", f"{test.shared:,}", p_value]


def _settings(sides: Sequence[Side]) -> list[RenderableType]:
    found = differences(sides)
    if not found:
        return [Text("all settings are the same")]
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("setting", overflow="fold")
    for each in sides:
        table.add_column(Text(line(each.name)), overflow="fold")
    for key, values in found.items():
        table.add_row(line(key), *(line("–" if value is None else cut(str(value), _LONGEST)) for value in values))
    return [table]
