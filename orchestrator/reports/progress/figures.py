"""Figures of progress, in words that a line of 60 columns has room for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from orchestrator.reports.progress.model import Phase, Progress

_MINUTE, _HOUR, _DAY = 60, 3600, 86400


def duration(seconds: float) -> str:
    """0:07, 12:34, 3:25:10, 2 d 03:10."""
    whole = max(0, int(seconds + 0.5))
    if whole >= _DAY:
        return f"{whole // _DAY} d {whole % _DAY // _HOUR:02d}:{whole % _HOUR // _MINUTE:02d}"
    if whole >= _HOUR:
        return f"{whole // _HOUR}:{whole % _HOUR // _MINUTE:02d}:{whole % _MINUTE:02d}"
    return f"{whole // _MINUTE}:{whole % _MINUTE:02d}"


def time_left(progress: Progress) -> str:
    """How long a run will still take, or that nothing can tell."""
    if progress.left is not None:
        return f"about {duration(progress.left)} left"
    return "time left not known before a round is over"


def count(amount: float) -> str:
    """1,280; what is no whole number with one digit."""
    return f"{amount:,.0f}" if abs(amount) >= 10 or float(amount).is_integer() else f"{amount:,.1f}"


def amount(phase: Phase) -> str:
    """How much of a phase is done; empty where nobody counts."""
    if phase.total is not None:
        return f"{count(phase.done)}/{count(phase.total)}"
    return count(phase.done) if phase.done else ""


def gains(phase: Phase) -> Iterator[str]:
    """The yield of a phase so far."""
    graded = sum(phase.counts.get(verdict, 0) for verdict in ("correct", "wrong", "ungradable"))
    if graded:
        yield f"{100 * phase.counts.get('correct', 0) / graded:.0f} % right"
        if ungradable := phase.counts.get("ungradable"):
            yield f"{count(ungradable)} ungradable"
    if phase.newest:
        yield phase.newest


def rate(phase: Phase) -> str:
    """How fast it goes; empty where nobody knows."""
    return "" if phase.rate is None else f"{count(phase.rate)} {phase.rate_unit}/s"


def left(phase: Phase) -> str:
    """For how long it still goes; empty where nobody knows."""
    return "" if phase.left is None else f"{duration(phase.left)} left"


def fitting(parts: Sequence[str], width: int) -> str:
    """The parts, the first ones being the most important, as far as they fit."""
    said = ""
    for part in filter(None, parts):
        longer = f"{said}, {part}" if said else part
        if len(longer) <= width:
            said = longer
    return said or next(filter(None, parts), "")
