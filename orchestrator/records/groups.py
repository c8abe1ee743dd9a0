"""Pairs that are learned from together, and the scores of a pair's sides: columns that few files of pairs have.

A *group* is a chosen completion of a prompt with several rejected ones. In a file it stands as its pairs, one after the
other: each is a pair like any other, which shares prompt and chosen completion with the others of its `group`, named by
the id of the first of them. So whatever reads pairs reads groups; what draws from pairs draws whole groups; and a loss
that reads groups takes each for one row. A null, or a column that is not there: the pair is in no group.

`chosen_score` and `rejected_score` are what the sides were given, by the model itself or by whoever scores samples, in
its own units; they are kept where the loss goes by them.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence

import pyarrow as pa

GROUP = "group"
SCORES = ("chosen_score", "rejected_score")
FURTHER = (GROUP, *SCORES)
"""Columns of pairs that not every file has, beside those of masks."""
_FIELDS = (pa.field(GROUP, pa.string()), *(pa.field(name, pa.float64()) for name in SCORES))


def further(schema: pa.Schema, wanted: Iterable[str]) -> pa.Schema:
    """A schema of pairs with those of these columns that it lacks, behind the others."""
    wanted = set(wanted)
    lacking = [field for field in _FIELDS if field.name in wanted and field.name not in schema.names]
    return pa.schema([*schema, *lacking], schema.metadata)


def further_columns(schema: pa.Schema) -> list[str]:
    """Those that a file has."""
    return [name for name in FURTHER if name in schema.names]


def groups_in(table: pa.Table) -> list[str | None]:
    """The groups of a table's pairs, in order."""
    return table[GROUP].to_pylist() if GROUP in table.column_names else [None] * table.num_rows


class Units:
    """What is drawn whole, of pairs in order: a group's, or a pair that is in none. Where no group has come yet, which
    is so of most files to their end, a number is all that is kept."""

    def __init__(self) -> None:
        self.pairs = self._single = 0  # so many pairs before the first group
        self._starts = array("q")  # of the units behind those
        self._last: str | None = None

    def add(self, groups: Iterable[str | None]) -> Units:
        """Count further pairs, by the names of their groups."""
        for group in groups:
            if group is None and self._single == self.pairs:
                self._single += 1
            elif group is None or group != self._last:
                self._starts.append(self.pairs)
            self._last = group
            self.pairs += 1
        return self

    def __len__(self) -> int:
        return self._single + len(self._starts)

    def pairs_of(self, units: Sequence[int]) -> list[int]:
        """The numbers of the pairs of these units, in their order."""
        return [number for unit in units for number in self._range(unit)]

    def __iter__(self) -> Iterator[range]:
        """The numbers of the pairs of each."""
        return map(self._range, range(len(self)))

    def _range(self, unit: int) -> range:
        return range(self._start(unit), self._start(unit + 1))

    def _start(self, unit: int) -> int:
        if unit < self._single:
            return unit
        return self._starts[unit - self._single] if unit < len(self) else self.pairs
