"""How a run went, as one picture: accuracy, what was won and lost, yield, lengths, log-probabilities, time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.ledger.ledger import State
from orchestrator.ledger.taken import taken
from orchestrator.reports.rounds import round_and_phase

OVERVIEW = "overview.png"
_SIZE = (10.0, 11.0)  # inches
_DPI = 110
_MOST_PHASES = 8
_GREEN, _RED, _BLUE, _GREY = "#2e7d32", "#c62828", "#1565c0", "#757575"


@dataclass(frozen=True)
class Rounds:
    """Facts of each round by phase; round 0 is the base model."""

    facts: Mapping[int, Mapping[str, Mapping[str, Any]]]
    seconds: Mapping[int, Mapping[str, float]]
    promotions: Sequence[Mapping[str, Any]]

    @staticmethod
    def of(state: State) -> Rounds:
        """Those of a run."""
        facts: dict[int, dict[str, Mapping[str, Any]]] = {}
        seconds: dict[int, dict[str, float]] = {}
        for step, commit in state.commits.items():
            number, phase = round_and_phase(step)
            facts.setdefault(number, {})[phase] = commit.facts
            if "seconds" in commit.facts and not taken(state, step):
                phases = seconds.setdefault(number, {})
                name = phase.partition("/")[0]
                phases[name] = phases.get(name, 0.0) + float(commit.facts["seconds"])
        return Rounds(facts, seconds, state.promotions)

    def line(self, phase: str, *keys: str) -> tuple[list[int], list[float]]:
        """Rounds and the values of a fact there, which stands below these keys, where there is one."""
        found: dict[int, float] = {}
        for number in sorted(self.facts):
            value: Any = self.facts[number].get(phase)
            for key in keys:
                value = value.get(key) if isinstance(value, Mapping) else None
            if isinstance(value, int | float):
                found[number] = float(value)
        return list(found), list(found.values())


def draw(state: State, folder: Path) -> None:
    """Draw a run into `folder`: OVERVIEW. The same ledger gives the same picture.

    Raises:
        OSError: it cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    rounds = Rounds.of(state)
    figure = Figure(figsize=_SIZE, layout="constrained")
    FigureCanvasAgg(figure)
    for axes, part in zip(figure.subplots(3, 2).flat, _PARTS, strict=True):
        part(axes, rounds)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.25)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize=8)
        else:
            axes.text(0.5, 0.5, "nothing yet", ha="center", va="center", transform=axes.transAxes, color=_GREY)
    for axes in figure.axes[-2:]:
        axes.set_xlabel("round (0: base model)")
    figure.savefig(folder / OVERVIEW, format="png", dpi=_DPI, metadata={"Software": None})


def _accuracy(axes: Any, rounds: Rounds) -> None:
    axes.set_title("accuracy, % (95 % interval)", fontsize=10)
    for split, colour in (("test", _BLUE), ("gate", _GREY)):
        x, y = rounds.line("evaluation", split, "accuracy")
        low, high = (rounds.line("evaluation", split, end)[1] for end in ("low", "high"))
        if not x or not len(y) == len(low) == len(high):
            continue
        below = [100 * (value - end) for value, end in zip(y, low, strict=True)]
        above = [100 * (end - value) for value, end in zip(y, high, strict=True)]
        percent = [100 * value for value in y]
        axes.errorbar(x, percent, yerr=[below, above], marker="o", markersize=4, capsize=3, color=colour, label=split)


def _won_and_lost(axes: Any, rounds: Rounds) -> None:
    axes.set_title("gate problems won and lost against the reference", fontsize=10)
    decided = [p for p in rounds.promotions if p.get("won") is not None and p.get("lost") is not None]
    if not decided:
        return
    x = [int(p["round"]) for p in decided]
    axes.bar(x, [p["won"] for p in decided], width=0.5, color=_GREEN, label="won")
    axes.bar(x, [-p["lost"] for p in decided], width=0.5, color=_RED, label="lost")
    axes.axhline(0, color="black", linewidth=0.8)
    for promotion in decided:
        word = "promoted" if promotion["promoted"] else "not promoted"
        axes.annotate(word, (int(promotion["round"]), promotion["won"]), ha="center", va="bottom", fontsize=7)
    axes.margins(y=0.15)


def _yield(axes: Any, rounds: Rounds) -> None:
    axes.set_title("yield, %", fontsize=10)
    right: dict[int, float] = {}
    for number, phases in sorted(rounds.facts.items()):
        counts = [phases.get("verdicts", {}).get(verdict, 0) for verdict in ("correct", "wrong", "ungradable")]
        if sum(counts):
            right[number] = 100 * counts[0] / sum(counts)
    if right:
        axes.plot(list(right), list(right.values()), marker="o", markersize=4, color=_GREEN, label="samples correct")
    x, y = rounds.line("pairs", "pass_any")
    if x:
        axes.plot(x, [100 * v for v in y], marker="s", markersize=4, color=_BLUE, label="prompts with a correct one")
    x, paired = rounds.line("pairs", "prompts_paired")
    given = dict(zip(*rounds.line("prompts", "prompts"), strict=True))
    if shares := [(n, 100 * v / given[n]) for n, v in zip(x, paired, strict=True) if given.get(n)]:
        axes.plot(*zip(*shares, strict=True), marker="^", markersize=4, color=_GREY, label="prompts with pairs")


def _lengths(axes: Any, rounds: Rounds) -> None:
    axes.set_title("mean length, tokens", fontsize=10)
    for label, where, colour in (
        ("test answers", ("evaluation", "test", "mean_tokens"), _BLUE),
        ("gate answers", ("evaluation", "gate", "mean_tokens"), _GREY),
        ("chosen", ("pairs", "chosen_tokens"), _GREEN),
        ("rejected", ("pairs", "rejected_tokens"), _RED),
    ):
        _plot(axes, rounds, label, where, colour)


def _logprobs(axes: Any, rounds: Rounds) -> None:
    axes.set_title("mean log-probability of the round's pairs", fontsize=10)
    for phase, style in (("reference", "--"), ("policy", "-")):
        for side, colour in (("chosen", _GREEN), ("rejected", _RED)):
            label = f"{side}, {'before' if phase == 'reference' else 'after'} training"
            _plot(axes, rounds, label, (phase, f"{side}_logprob"), colour, style)


def _time(axes: Any, rounds: Rounds) -> None:
    axes.set_title("time by phase, seconds", fontsize=10)
    totals: dict[str, float] = {}
    for phases in rounds.seconds.values():
        for phase, took in phases.items():
            totals[phase] = totals.get(phase, 0.0) + took
    largest = sorted(totals, key=lambda phase: -totals[phase])[:_MOST_PHASES]
    x = sorted(rounds.seconds)
    bottom = [0.0] * len(x)
    for number, phase in enumerate(largest):
        heights = [rounds.seconds[n].get(phase, 0.0) for n in x]
        axes.bar(x, heights, width=0.6, bottom=bottom, color=f"C{number}", label=phase)
        bottom = [low + more for low, more in zip(bottom, heights, strict=True)]
    axes.set_ylim(0, 1.08 * max(bottom, default=0) or 1)


def _plot(axes: Any, rounds: Rounds, label: str, where: tuple[str, ...], colour: str, style: str = "-") -> None:
    x, y = rounds.line(*where)
    if x:
        axes.plot(x, y, marker="o", markersize=4, color=colour, linestyle=style, label=label)


_PARTS: tuple[Callable[[Any, Rounds], None], ...] = (_accuracy, _won_and_lost, _yield, _lengths, _logprobs, _time)
