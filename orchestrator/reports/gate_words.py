"""What the gate has said, in one sentence for people: the same in the terminal, the report and wherever a run is shown.
Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orchestrator.records.statistics import paired_interval
from orchestrator.text.counts import bracketed, many


def gate_said(promotion: Mapping[str, Any], evaluation: Mapping[str, Any] | None) -> str:
    """A promotion record in words. The facts of the candidate's evaluation know how many problems there were; without
    them that is left out.

    Example: "promoted: 44 problems newly solved, 11 lost, of 300; +11.0 points (95 % interval [6.2, 15.7])"
    """
    won, lost = int(promotion["won"]), int(promotion["lost"])
    said = "promoted" if promotion["promoted"] else "refused"
    problems = int(((evaluation or {}).get("gate") or {}).get("problems", 0))
    if not problems + won + lost:
        return f"{said}: there are no gate problems to compare on"
    counted = f"{many(won, 'problem') if won else 'no problems'} newly solved, {lost or 'none'} lost"
    interval = None
    if problems >= max(1, won + lost):
        interval = paired_interval(won, lost, problems)
        gain = f"{100 * (won - lost) / problems:+.1f} points (95 % interval {bracketed(*interval)})"
        counted += f", of {problems:,}; {gain}"
    return f"{said}: {counted}{_finding(promotion, interval)}"


def _finding(promotion: Mapping[str, Any], interval: tuple[float, float] | None) -> str:
    """What follows by the job's rule, where the figures do not say it."""
    rule = promotion["rule"]
    if not promotion["promoted"]:
        kind = "not surely better" if rule == "better" else "surely worse"
        tested = f"p = {promotion['p_value']:.2g}, `promotion.alpha` is {promotion['alpha']:g}"
        return f"; {kind} than the best so far ({tested}), so that {promotion['reference']} stays the reference"
    if interval is None or interval[0] > 0:
        return ""
    if rule == "always":
        return "; `promotion.rule: always` promotes whatever they are"
    drop = promotion.get("smallest_detectable_drop")
    seen = f"; a drop of less than {100 * drop:.1f} points cannot be seen here" if drop else ""
    chance = "may be chance" if promotion["won"] != promotion["lost"] else "is a tie"
    return f", which {chance} and is not surely worse{seen}"
