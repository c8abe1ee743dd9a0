"""A table that fits: on a narrow terminal without some of its columns, rather than with half of their words."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

_WIDEST = 1000
"""Columns that no table needs."""
_NAME = 20
"""Columns of a name that are kept together."""


@dataclass(frozen=True)
class FittingTable:
    """Rows of cells, a cell a heading, aligned to the right but for the first `left` columns. Of `left_out`, which
    names headings, the first set without which the table fits is left out, or else the last. With `names`, the first
    column has names, which are folded where they are long."""

    headings: Sequence[str]
    rows: Sequence[Sequence[str | Text]]
    left_out: Sequence[Collection[str]]
    left: int = 0
    names: bool = False
    gap: int = 1

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for left_out in ((), *self.left_out):
            table = self._without(left_out)
            if Measurement.get(console, options.update(max_width=_WIDEST), table).minimum <= options.max_width:
                break
        yield table

    def _without(self, left_out: Collection[str]) -> Table:
        table = Table(box=None, padding=(0, self.gap, 0, 0), header_style="bold")
        places = [place for place, heading in enumerate(self.headings) if heading not in left_out]
        for place in places:
            heading, justify = self.headings[place], "left" if place < self.left else "right"
            if self.names and place == 0:
                longest = max((Text(str(row[0])).cell_len for row in self.rows), default=0)
                table.add_column(heading, overflow="fold", min_width=min(longest, _NAME))
            else:
                table.add_column(heading, justify=justify, no_wrap=True)  # type: ignore[arg-type]
        for row in self.rows:
            table.add_row(*(row[place] for place in places))
        return table
