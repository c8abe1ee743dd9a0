"""What was asked of a run, as text for a terminal, where what a model has written is text, whatever it contains."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from orchestrator.reports.inspection.views import Document
from orchestrator.text.counts import bracketed, many
from orchestrator.text.shown import line, text

_VERDICTS = {"correct": "green", "wrong": "red", "ungradable": "yellow", "won": "green", "lost": "red"}
_MOST_LINES = 12
"""Of a text that is not asked for in full."""


class Pages:
    """Documents as pages; with `full` every text stands there in full, otherwise its first and last lines. They are
    `wrapped` to the width of a terminal, or have each line of a text as one line."""

    def __init__(self, full: bool, wrapped: bool = True) -> None:
        self._full, self._wrapped = full, wrapped

    def samples(self, found: Document) -> RenderableType:
        """`views.samples`."""
        what = "samples" if found["split"] == "train" else f"answers to {found['split']}"
        shown = len(found["samples"])
        first = f", the first {shown}" if shown < found["found"] else ""
        parts: list[RenderableType] = [Text(f"{_round(found['round'])}: {found['found']:,} {what}{first}", "bold")]
        for sample in found["samples"]:
            parts += [Rule(style="dim"), _head(sample), *self._prompt(sample), self._text(sample["text"])]
        return Group(*parts)

    def flips(self, found: Document) -> RenderableType:
        """`views.flips`."""
        against = f"against {_round(found['against'])}"
        counts = f"{found['won']} won, {found['lost']} lost of {found['problems']} {found['split']} problems"
        parts: list[RenderableType] = [Text(f"{_round(found['round'])} {against}: {counts}", "bold")]
        if (more := found["won"] + found["lost"] - len(found["flips"])) > 0:
            parts.append(Text(f"{more} more of them: --limit"))
        for flip in found["flips"]:
            head = Text.assemble((line(flip["prompt_id"]), "bold"), "  ", (flip["change"], _VERDICTS[flip["change"]]))
            parts += [Rule(style="dim"), head, *self._prompt(flip)]
            for number, side in ((found["against"], "before"), (found["round"], "after")):
                parts += [Text.assemble(f"{_round(number)}: ", _verdict(flip[side])), self._text(flip[side]["text"])]
        return Group(*parts)

    def problem(self, found: Document) -> RenderableType:
        """`views.problem`."""
        parts: list[RenderableType] = [Text(f"{line(found['prompt_id'])} ({found['split']})", "bold")]
        parts += self._prompt(found)
        for each in found["rounds"]:
            pairs = [
                f"{p['pair_id']}: {_sample(p['chosen_sample'], p)} over {_sample(p['rejected_sample'], p)}"
                for p in each["pairs"]
            ]
            parts += [
                Rule(style="dim"),
                Text(f"{_round(each['round'])}: {many(len(each['samples']), 'sample')}, {many(len(pairs), 'pair')}"),
            ]
            parts += [Text(line(f"  pair {pair}")) for pair in pairs]
            for sample in each["samples"]:
                parts += [_head(sample), self._text(sample["text"])]
        for answer in found["answers"]:
            parts += [
                Rule(style="dim"),
                Text.assemble(f"{_round(answer['round'])}: ", _verdict(answer)),
                self._text(answer["text"]),
            ]
        return Group(*parts)

    def pair(self, found: Document) -> RenderableType:
        """`pairs.pair`."""
        rule = f", by pairs.rule {found['rule']}" if found["rule"] else ""
        rule += f", of the group {found['group']}" if "group" in found else ""
        parts: list[RenderableType] = [Text(line(f"pair {found['pair_id']} of {_round(found['round'])}{rule}"), "bold")]
        parts += self._prompt(found)
        for side, told in found["sides"].items():
            parts.append(Rule(style="dim"))
            if told is None:
                parts.append(Text(f"{side}: none, the chosen completion is imitated"))
                continue
            of = f"{side}, {_sample(told['sample'], told)}, {told['tokens']} tokens"
            if "score" in told:
                of += f", score {told['score']:g}"
            if told["reference_logprob"] is not None:
                of += f", log-probability under the reference {told['reference_logprob']:.3f}"
            parts += [
                Text.assemble((of, "bold"), "  ", _verdict(told) if told.get("verdict") else ""),
                self._text(told["text"]),
            ]
        parts += [Rule(style="dim"), Text(_updates(found["updates"]))]
        return Group(*parts)

    def checkpoint(self, found: Document) -> RenderableType:
        """`checkpoints.checkpoint`."""
        reference = found["reference"]
        rows = {
            "path": found["path"] + ("" if found["there"] else "  (removed)"),
            "base model": found["model"],
            "started from": _round(found["started_from"]),
            "reference": _round(reference) if isinstance(reference, int) else reference,
            "trained on": _figures(found["training"]),
            **({"chosen": _chosen(found["chosen"])} if found["chosen"] else {}),
            **{f"on {split}": _accuracy(figures) for split, figures in found["evaluation"].items()},
            "gate": found["gate"] or "not decided yet",
        }
        table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
        table.add_column(no_wrap=True, style="bold")
        table.add_column(overflow="fold")
        for key, value in rows.items():
            table.add_row(key, line(value))
        files = [
            Text(line(f"{entry['size']:>16,}  {entry['sha256']}  {name}")) for name, entry in found["files"].items()
        ]
        return Group(Text(f"checkpoint of {_round(found['round'])}", "bold"), table, Text(""), *files)

    def overview(self, found: Document, run: str) -> RenderableType:
        """`views.overview`, and what to ask next."""
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
        keys = ("round", "correct", "wrong", "ungradable", "pairs", "won", "lost")
        for key in keys:
            table.add_column(key, justify="right")
        for row in found["rounds"]:
            table.add_row(*("–" if row[key] is None else f"{row[key]:,}" for key in keys))
        return Group(table, Text(""), *(Text(line(f"  {said}")) for said in _questions(found, run)))

    def _prompt(self, told: Mapping[str, Any]) -> Iterator[RenderableType]:
        if told.get("prompt") is not None:
            yield self._text(told["prompt"], "cyan")
            yield Text(line(f"    gold: {told['gold']}"), "bold")

    def _text(self, said: str, style: str = "") -> RenderableType:
        lines = text(said).rstrip("\n").split("\n")
        if not self._full and len(lines) > _MOST_LINES:
            half = _MOST_LINES // 2
            lines = [*lines[:half], f"… {many(len(lines) - 2 * half, 'more line')} (--full) …", *lines[-half:]]
        if not self._wrapped:  # rich cuts what it pads and may not wrap
            return Text("\n".join(f"    {each}" for each in lines), style)
        return Padding(Text("\n".join(lines), style), (0, 0, 0, 4), expand=False)


def _head(sample: Document) -> Text:
    pairs = [f"{side} in {', '.join(names)}" for side, names in sample.get("pairs", {}).items() if names]
    number = f"  sample {sample['sample']}" if "sample" in sample else ""
    told = Text.assemble((line(sample["prompt_id"]), "bold"), number, "  ", _verdict(sample))
    return told.append(line(f"  {'; '.join(pairs)}")) if pairs else told


def _verdict(graded: Mapping[str, Any]) -> Text:
    """Verdict, what was extracted by which rule, and why."""
    told = Text(line(graded["verdict"]), _VERDICTS.get(graded["verdict"], ""))
    if graded.get("extracted") is not None:
        by = f" by {graded['rule']}" if graded.get("rule") else ""
        told.append(line(f", reads {graded['extracted']!r}{by}"), "")
    for why in (graded.get("cause"), graded.get("reason")):
        if why:
            told.append(line(f", {why}"), "")
    if graded.get("finish_reason") == "length" and graded.get("cause") != "truncated":
        told.append(", truncated", "")
    if given := graded.get("rewards"):
        values = ("none" if value is None else f"{value:.3f}" for value in given)
        told.append(f", reward{'s' if len(given) > 1 else ''} {', '.join(values)}", "")
    return told


def _round(number: int) -> str:
    return "the base model" if number == 0 else f"round {number}"


def _sample(number: int | None, told: Mapping[str, Any]) -> str:
    return "no sample" if number is None else f"sample {number}{' with the hint' if told.get('hinted') else ''}"


def _updates(updates: list[int] | None) -> str:
    if updates is None:
        return "no update is known to have used it"
    if not updates:
        return "no update used it"
    return f"used by update{'s' if len(updates) > 1 else ''} {', '.join(map(str, updates))} of the round's training"


def _figures(figures: Document | None) -> str:
    """Figures of a training, whose record calls its updates `steps`."""
    named = {"updates" if key == "steps" else key: value for key, value in (figures or {}).items()}
    return ", ".join(
        f"{value:,} {key}" if isinstance(value, int) else f"{value:,.1f} {key}" for key, value in named.items()
    )


def _chosen(figures: Document) -> str:
    return f"after {figures.get('steps', 0):,} of these updates, among {figures.get('candidates', 0):,} checkpoints"


def _accuracy(figures: Document) -> str:
    between = f" {bracketed(figures['low'], figures['high'])}" if "low" in figures else ""
    return f"{100 * figures['accuracy']:.1f} %{between}, {figures['correct']:,} of {figures['problems']:,}"


def _questions(found: Document, run: str) -> Iterator[str]:
    """What to ask next, as commands that this run answers."""
    command = f"ratchet inspect {shlex.quote(run)}"
    for question, last in found["last"].items():
        yield f"{command} --round {last} --{question}"
    for name in found["problems"][:1]:
        yield f"{command} --problem={shlex.quote(name)}"
    if found["pair"]:
        yield f"{command} --round {found['pair']['round']} --pair={shlex.quote(found['pair']['pair_id'])}"
