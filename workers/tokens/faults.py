"""Faults of rows, as they are told before a run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with a row. `example` is text of the row itself: rows that differ in it have the same fault."""

    what: str
    cure: str
    example: str = field(default="", compare=False)

    def __str__(self) -> str:
        return f"{self.what}{': ' if self.example else ''}{self.example}: {self.cure}"


class Faults:
    """Faults of rows, each with its first row and the number of rows that have it."""

    def __init__(self) -> None:
        self._rows: dict[tuple[Fault, bool], list[str]] = {}

    def add(self, fault: Fault, where: str, is_warning: bool = False) -> None:
        """Note it of a row, whose name is `where`."""
        rows = self._rows.setdefault((fault, is_warning), [])
        if rows[-1:] != [where]:  # several messages of a row may have it
            rows.append(where)

    def told(self, key: str) -> Iterator[tuple[str, bool]]:
        """Each fault for people, and whether it is a warning; `key` is that of the rows."""
        for (fault, is_warning), where in self._rows.items():
            more = f" ({len(where)} rows in all)" if len(where) > 1 else ""
            yield f"{key}: {where[0]} {fault}{more}", is_warning
