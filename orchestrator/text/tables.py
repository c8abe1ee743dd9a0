"""A table that fits: on a narrow terminal without some of its columns, rather than with half of their words."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

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
            places = [place for place, heading in enumerate(self.headings) if heading not in left_out]
            if sum(self._least(place) + self.gap for place in places) <= options.max_width:
                break
        yield self._of(places)

    def _least(self, place: int) -> int:
        """Columns that a column takes at least: of names, which can be folded, a part."""
        cells = [self.headings[place], *(row[place] for row in self.rows)]
        longest = max(Text(str(cell)).cell_len for cell in cells)
        return min(longest, _NAME) if self._has_names(place) else longest

    def _has_names(self, place: int) -> bool:
        return self.names and place == 0

    def _of(self, places: Sequence[int]) -> Table:
        table = Table(box=None, padding=(0, self.gap, 0, 0), header_style="bold")
        for place in places:
            if self._has_names(place):
                table.add_column(self.headings[place], overflow="fold", min_width=self._least(place))
            else:
                justify: Literal["left", "right"] = "left" if place < self.left else "right"
                table.add_column(self.headings[place], justify=justify, no_wrap=True)
        for row in self.rows:
            table.add_row(*(row[place] for place in places))
        return table
