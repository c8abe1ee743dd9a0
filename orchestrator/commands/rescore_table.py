"""What another grading changes, on the terminal."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from orchestrator.commands.rescore import Rescored
from orchestrator.text.shown import line
from orchestrator.text.terminal import Screen


def show(rescored: Rescored, screen: Screen) -> None:
    """Print how many verdicts flip, examples of each kind, and what that does to the pairs."""
    total = sum(rescored.flips.values())
    had, has = rescored.versions
    graders = f", graded by version {has} of the graders instead of {had}" if had != has else ""
    screen.say(f"verdicts  {total} of {rescored.samples} flip{graders}")
    if total:
        table = Table("before", "after", "samples", "for instance: gold", "extracted", "the answer's end")
        for (before, after), count in rescored.flips.most_common():
            for number, example in enumerate(rescored.examples[before, after]):
                head = (before, after, str(count)) if number == 0 else ("", "", "")
                was, now = (str(said) for said in example["extracted"])
                extracted = was if was == now else f"{was} -> {now}"
                end = " ".join(example["text"].split())[-60:]
                table.add_row(*map(_cell, (*head, example["gold"], extracted, end)))
        screen.print(table)
    screen.say(
        f"pairs     {rescored.pairs_before} before, {rescored.pairs_after} after; {rescored.pairs_kept} are the same, "
        f"{rescored.pairs_before - rescored.pairs_kept} gone, {rescored.pairs_after - rescored.pairs_kept} new"
    )


def _cell(said: str) -> Text:
    return Text(line(said))
