"""Progress as a picture for a terminal of 60 columns or more: what a live view and `ratchet status --watch` show."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from rich.console import Group, RenderableType
from rich.constrain import Constrain
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from orchestrator.reports.health import words
from orchestrator.reports.progress.figures import amount, count, duration, fitting, gains, left, rate, time_left
from orchestrator.reports.progress.model import Phase, Progress, RoundLine, Sample
from orchestrator.text.counts import many
from orchestrator.text.shown import line

COLOURS = {"running": "cyan", "finished": "green", "failed": "red"}
_VERDICTS = {"correct": "green", "wrong": "red"}
_MARKS = {"running": ("▸", "cyan"), "done": ("✓", "green"), "kept": ("=", "dim"), "failed": ("✗", "red")}
_NAME, _TIME = 14, 8  # columns of a phase's name, and of its time


class Size(NamedTuple):
    """Of a terminal, in columns and lines."""

    width: int
    height: int


def picture(progress: Progress, size: Size, with_rounds: bool = True) -> RenderableType:
    """All of it, in no more lines than there are. `with_rounds`: the rounds that are over too, and why it has ended,
    which a live view prints by itself."""
    head = [_title(progress, size, with_reason=with_rounds)]
    tail = [_sample(progress.sample, size)] if progress.sample and size.height > 12 else []
    room = max(3, size.height - len(head) - len(tail) - 2)
    phases = list(progress.phases)
    shown = phases[-room:]
    told = [said for over in progress.finished for said in told_of(over, size.width)] if with_rounds else []
    if with_rounds and all(over.number != progress.round for over in progress.finished):
        told += [warning(progress.round or 0, said) for said in progress.warnings]
    space = max(0, room - len(shown))
    if len(told) > space:
        told = [_note(many(len(told) - space + 1, "earlier line")), *told[len(told) - space + 1 :]] if space else []
    if len(shown) < len(phases):
        shown = shown[1:]
        told.append(_note(f"{len(phases) - len(shown)} earlier phases of this round"))
    rows = [_phases(shown, size)] if shown else []
    return Constrain(Group(*told, *head, *rows, *tail), size.width)


def _note(said: str) -> Text:
    return _one(Text(f"  … {said}", "dim"))


def _title(progress: Progress, size: Size, with_reason: bool) -> Text:
    where = {None: "starting", 0: "base model"}.get(progress.round, f"round {progress.round} of {progress.rounds}")
    text = Text.assemble((line(progress.name), "bold"), "  ")
    if progress.state == "running":
        text.append(where, COLOURS["running"])
        text.append(f"  {duration(progress.seconds)} gone, ")
        text.append(time_left(progress) if size.width >= 72 or progress.left is not None else "time left not known yet")
    else:
        text.append(progress.state, COLOURS.get(progress.state, "yellow"))
        text.append(f" after {duration(progress.seconds)}")
        if progress.reason and with_reason:
            text.append(f": {line(progress.reason)}")
    return _one(text)


def told_of(over: RoundLine, width: int, with_warnings: bool = True) -> list[Text]:
    """A round that is over: its line, the gate's word, its health, and what has turned in it."""
    parts = {"gate": over.decision.replace("; ", ", ").split(", "), "health": list(words(over.health))}
    room = width - _NAME - 3
    more = [
        _one(Text(f"  {name:<{_NAME}}{line(fitting(said, room))}", "dim")) for name, said in parts.items() if any(said)
    ]
    ill = [warning(over.number, said) for said in over.warnings] if with_warnings else []
    return [round_line(over, width), *more, *ill]


def warning(number: int, said: str) -> Text:
    """What has turned in a round, in a line."""
    return _one(Text(line(f"! round {number}: {said}"), "yellow"))


def round_line(over: RoundLine, width: int) -> Text:
    """A round that is over, in a line."""
    mark, style = _MARKS["kept" if over.kept else "failed" if over.promoted is False else "done"]
    name = "base model" if over.number == 0 else f"round {over.number}"
    text = Text.assemble((mark, style), " ", f"{name:<{_NAME}}")
    took = f"  {duration(over.seconds)}" if over.seconds and not over.kept else ""
    text.append(fitting(list(_result(over)), width - len(text) - len(took)))
    text.append(took, "dim")
    return _one(text)


def _result(over: RoundLine) -> Iterator[str]:
    figures = (("test", over.test), ("gate", over.gate))
    name, accuracy = next(((n, a) for n, a in figures if a is not None), ("", None))
    if accuracy is not None:
        before = f"{100 * over.before:.1f} → " if over.before is not None and over.number else ""
        yield f"{name} {before}{100 * accuracy:.1f} %"
    if over.promoted is not None:
        yield "promoted" if over.promoted else "not promoted"
    if over.pairs is not None:
        yield f"{count(over.pairs)} pairs"
    if over.won is not None and over.lost is not None and not over.decision:
        yield f"{count(over.won)} won, {count(over.lost)} lost"


def _phases(phases: Sequence[Phase], size: Size) -> Table:
    table = Table.grid(padding=(0, 1, 0, 0), expand=True)
    table.add_column(width=1)
    table.add_column(width=_NAME, no_wrap=True, overflow="ellipsis")
    table.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
    table.add_column(justify="right", no_wrap=True)
    for phase in phases:
        mark, style = _MARKS[phase.state]
        took = "" if phase.seconds is None else duration(phase.seconds)
        name = f"start {phase.name}" if phase.starts else phase.name
        quiet = "dim" if phase.state == "kept" or (phase.starts and phase.state == "done") else ""
        table.add_row(Text(mark, style), Text(line(name), quiet), _body(phase, size, quiet), Text(took, "dim"))
    return table


def _body(phase: Phase, size: Size, style: str) -> RenderableType:
    if phase.state == "failed":
        return Text(line(", ".join(filter(None, [amount(phase), *gains(phase)]))))
    if phase.state != "running":
        return Text(line(phase.text or _come_to(phase)), style)
    wide = 8 if size.width < 72 else 12 if size.width < 100 else 24
    room = size.width - _NAME - (wide + 1 if phase.total else 0) - _TIME - 4
    words = Text(line(fitting(_words(phase), room)))
    if not phase.total:
        return words
    bar = Table.grid(padding=(0, 1, 0, 0), expand=True)
    bar.add_column(width=wide)
    bar.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
    bar.add_row(ProgressBar(phase.total, max(0, phase.done), wide), words)
    return bar


def _words(phase: Phase) -> list[str]:
    """What there is to say of a phase that is under way, the most important first."""
    pace = rate(phase).replace("tokens/s", "tok/s")
    newest = phase.detail if phase.done == phase.had else ""
    had = f"={count(phase.had)}" if phase.had else ""
    first, *more = [*gains(phase), ""]
    return [amount(phase), newest, first, pace, left(phase), had, *more]


def _come_to(phase: Phase) -> str:
    """What a phase without a line of its own has come to."""
    if phase.starts and phase.total and phase.state == "done":
        return f"{count(phase.total)} {phase.unit if phase.total > 1 else phase.unit.removesuffix('s')}"
    return f"{count(phase.done)} {phase.unit}" if phase.done and phase.state == "done" else phase.detail


def _sample(sample: Sample, size: Size) -> Text:
    """The end of a completion, which is what was graded."""
    said = "" if sample.extracted is None or sample.verdict == "ungradable" else f" ({line(sample.extracted)[:20]})"
    verdict = f"{line(sample.verdict)}{said}"
    room = max(10, size.width - _NAME - len(verdict) - 8)
    end = " ".join(line(" ".join(sample.text.split())).split())
    if len(end) > room:
        end = f"…{end[-room + 1 :]}"
    colour = _VERDICTS.get(sample.verdict, "yellow")
    text = Text.assemble((f"  {'a sample':<{_NAME}} ", "dim"), f'"{end}" ', (verdict, colour))
    return _one(text)


def _one(text: Text) -> Text:
    """One line, whatever it holds."""
    text.no_wrap, text.overflow = True, "ellipsis"
    return text
