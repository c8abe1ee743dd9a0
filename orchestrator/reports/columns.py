"""Tables of a report, a row a round: what the report and the sources of pairs write theirs with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from orchestrator.config.sources import kind_of
from orchestrator.reports.evidence import Evidence
from orchestrator.reports.symptoms import Check
from orchestrator.text.shown import markdown


@dataclass(frozen=True, slots=True)
class Column:
    """A column of the tables by round: its heading, and what to write for one round's evidence."""

    heading: str
    cell: Callable[[Evidence], str]


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the report on the rounds that it is about; left out where there are none."""

    heading: str
    columns: Sequence[Column]
    text: str = ""
    about: Callable[[Evidence], bool] | None = None
    """Whether a round is among them; None for all, and then the section is there without any."""

    def parts(self, done: Sequence[Evidence]) -> list[str]:
        """Heading, text and table, in Markdown."""
        rows = [evidence for evidence in done if self.about is None or self.about(evidence)]
        return [f"## {self.heading}", self.text, table(self.columns, rows)] if rows or self.about is None else []


@dataclass(frozen=True)
class Reported:
    """What a source of pairs has in the report."""

    sections: Sequence[Section]
    settings: Sequence[tuple[str, str]] = ()
    """Further settings that name the experiment: a label, and the key of the job."""
    symptoms: Sequence[Check] = ()
    """Further ways in which its loops go wrong; see symptoms.py."""


class Reporting(Protocol):
    """A source of pairs, as far as a report asks."""

    @property
    def reported(self) -> Reported: ...


def checks_of(job: Mapping[str, Any], sources: Mapping[str, Reporting] | None) -> Sequence[Check]:
    """What the source of a job's pairs looks for besides; nothing where none is known, as before a run's first word."""
    return sources[kind_of(job).name()].reported.symptoms if sources and job else ()


def table(columns: Sequence[Column], rows: Sequence[Evidence]) -> str:
    """A table in Markdown, a row for each round's evidence."""
    lines = [
        "| " + " | ".join(markdown(column.heading) for column in columns) + " |",
        "|" + "---:|" * len(columns),
        *("| " + " | ".join(markdown(column.cell(row)) for column in columns) + " |" for row in rows),
    ]
    return "\n".join(lines)


def number(figures: Mapping[str, Any] | None, key: str, form: str) -> str:
    """A figure in this form; empty where there is none."""
    value = (figures or {}).get(key)
    return "" if value is None else format(value, form)


def count(evidence: Evidence, phase: str, key: str) -> str:
    """A count of a phase, – where the round has none."""
    found = evidence.round.known(phase, key)
    return "–" if found is None else f"{found:,}"


def fact(evidence: Evidence, phase: str, key: str, form: str) -> str:
    """A fact of a phase in this form."""
    return number(evidence.round.facts.get(phase), key, form)


def change(evidence: Evidence, column: str, form: str) -> str:
    """What became of a column of the training's metrics: the mean of its first and of its last quarter."""
    ends = evidence.change(column)
    return "" if ends is None else f"{format(ends[0], form)} → {format(ends[1], form)}"


def last(evidence: Evidence, column: str, form: str) -> str:
    """The mean over the last quarter alone."""
    ends = evidence.change(column)
    return "" if ends is None else format(ends[1], form)
