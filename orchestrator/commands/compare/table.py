"""A comparison for people: its table in Markdown, as JSON and for a terminal, and its plot."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from rich.table import Table
from rich.text import Text

from orchestrator.commands.compare.comparison import ArmFigures, Point, RunFigures
from orchestrator.commands.compare.file import Plan
from orchestrator.files import unfinished
from orchestrator.text import shown
from orchestrator.text.counts import bracketed


def write(plan: Plan, arms: Sequence[ArmFigures], plotted: bool = True) -> None:
    """Write compare.md, with the plot where there is one, and compare.json into the comparison's folder."""
    unfinished.replace(plan.folder / "compare.md", markdown(plan, arms, plotted).encode())
    document = {"name": plan.name, "file": plan.path.name, "arms": [asdict(arm) for arm in arms]}
    unfinished.replace(plan.folder / "compare.json", (shown.as_json(document) + "\n").encode())


def markdown(plan: Plan, arms: Sequence[ArmFigures], plotted: bool = True) -> str:
    """The table in Markdown, with what its figures mean and what there is to say about single runs."""
    headings, rows = cells(arms)
    lines = ["| " + " | ".join(headings) + " |", "|---|---|---:|" + "---:|" * (len(headings) - 3)]
    lines += ["| " + " | ".join(map(shown.markdown, row)) + " |" for row in rows]
    parts = [f"# {shown.markdown(plan.name)}", _MEANING, "\n".join(lines)]
    if notes := [f"- {shown.markdown(note)}" for note in _notes(arms)]:
        parts.append("\n".join(notes))
    if plotted:
        parts.append("![Test accuracy by round](accuracy.svg)")
    return "\n\n".join(parts) + "\n"


_MEANING = """\
Greedy test accuracy in per cent: before the first round (base model), and after each. Of one seed with its 95 %
interval (Wilson); of several seeds the mean, and in parentheses each seed's own in the order of the seeds. Seeds
share the test problems, so that their spread says nothing about which problems were taken. Samples, training tokens,
pairs and seconds are of a whole run, on average over the seeds. Shared are samples that another run of the comparison
had drawn, from the same model with the same settings: they count as spent, and were not drawn again. A dash stands
for what no run of an arm has come to."""


def cells(arms: Sequence[ArmFigures]) -> tuple[list[str], list[list[str]]]:
    """Headings and rows of the table."""
    rounds = sorted({point.round for arm in arms for point in arm.points} - {0})
    headings = ["arm", "method", "seeds", "base model", *(f"round {number}" for number in rounds)]
    headings += ["samples", "of them shared", "training tokens", "pairs", "seconds"]
    rows = []
    for arm in arms:
        by_round = {point.round: point for point in arm.points}
        seeds = ", ".join(str(run.seed) for run in arm.runs)
        row = [arm.arm, arm.method, seeds, *(_cell(by_round.get(number)) for number in (0, *rounds))]
        spent = ("samples", "shared", "training_tokens", "pairs", "seconds")
        rows.append(row + [_number(arm.mean(what)) for what in spent])
    return headings, rows


def _number(value: float | None) -> str:
    """A dash where nothing was done yet."""
    return "–" if value is None else f"{value:,.0f}"


def _cell(point: Point | None) -> str:
    if point is None:
        return ""
    mark = "*" if point.refused else ""
    if len(point.seeds) == 1:
        return f"{_percent(point.accuracy)}{mark} {bracketed(point.low, point.high)}"
    return f"{_percent(point.accuracy)}{mark} ({', '.join(map(_percent, point.seeds))})"


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.1f}"


def _notes(arms: Sequence[ArmFigures]) -> Iterator[str]:
    if any(point.refused for arm in arms for point in arm.points):
        yield "* The gate refused such a checkpoint, and its run ended there."
    by_version: dict[int, list[str]] = {}
    for run in (run for arm in arms for run in arm.runs):
        for version in run.graders_versions:
            by_version.setdefault(version, []).append(run.run)
    if len(by_version) > 1:
        versions = "; ".join(f"version {version}: {', '.join(names)}" for version, names in sorted(by_version.items()))
        yield f"Accuracies by different versions of the graders ({versions}) are not to be compared."
    for arm in arms:
        if arm.start:
            yield f"{arm.arm} starts from what {arm.start} has trained, which is spent besides."
    for run in (run for arm in arms for run in arm.runs if run.outdated):
        yield f"{run.run} {run.outdated}: it is made anew where its folder is removed."
    for run in (run for arm in arms for run in arm.runs if run.state != "finished"):
        yield f"{run.run}: {run.state}{f': {run.reason}' if run.reason else ''}"


def terminal_table(arms: Sequence[ArmFigures]) -> Table:
    """The same table for a terminal."""
    headings, rows = cells(arms)
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="bold")
    for number, heading in enumerate(headings):
        table.add_column(heading, justify="left" if number < 2 else "right")
    for row in rows:
        table.add_row(*(Text(shown.line(text)) for text in row))
    return table


NO_PLOT = "no plot, since matplotlib is not installed: pip install 'ratchet-orchestrator[plot]'; then --table draws it"


def plot(plan: Plan, arms: Sequence[ArmFigures]) -> bool:
    """Draw test accuracy by round, one line an arm, as accuracy.svg and accuracy.png. Whether that was done: without
    matplotlib, which is an extra, it is not."""
    try:
        import matplotlib
        from matplotlib.figure import Figure
        from matplotlib.ticker import MaxNLocator
    except ModuleNotFoundError as missing:
        if missing.name != "matplotlib":  # it is there, and something of its own is not
            raise
        return False
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    drawn = [arm for arm in arms if arm.points]
    for number, arm in enumerate(drawn):
        shift = 0.02 * (number - (len(drawn) - 1) / 2)  # bars beside each other, not on top of each other
        x = [point.round + shift for point in arm.points]
        y = [100 * point.accuracy for point in arm.points]
        below = [100 * (point.accuracy - point.low) for point in arm.points]
        above = [100 * (point.high - point.accuracy) for point in arm.points]
        label = arm.arm if len(arm.runs) == 1 else f"{arm.arm} ({len(arm.runs)} seeds)"
        axes.errorbar(
            x, y, yerr=[below, above], marker="osd^vPX"[number % 7], markersize=4, capsize=2, linewidth=1.2, label=label
        )
    axes.set_xlabel("round (0: base model)")
    axes.set_ylabel("greedy test accuracy, %")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_title("Bars: 95 % interval of one seed; lowest to highest of several", fontsize=9)
    axes.grid(alpha=0.3)
    if drawn:
        axes.legend(fontsize=8)
    metadata: dict[str, Any] = {"Date": None}
    svg, png = io.BytesIO(), io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": plan.name}):  # the same figures give the same file
        figure.savefig(svg, format="svg", metadata=metadata)
    figure.savefig(png, format="png", dpi=150)
    unfinished.replace(plan.folder / "accuracy.svg", svg.getvalue())
    unfinished.replace(plan.folder / "accuracy.png", png.getvalue())
    return True


def summary_line(run: RunFigures) -> str:
    """One line about a run's figures."""
    accuracies = " → ".join(_percent(accuracy.accuracy) for accuracy in run.rounds) or "nothing"
    shared = f", {run.shared:,} of them shared" if run.shared else ""
    return f"test {accuracies}; {_number(run.samples)} samples{shared}, {_number(run.training_tokens)} training tokens"
