"""Problems that are not held in memory: they lie in a temporary file, and where each ends is known by 8 bytes."""

from __future__ import annotations

import hashlib
import json
import tempfile
import threading
from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from orchestrator.errors import BadInput, RatchetError
from orchestrator.ledger.recipes import Digest
from orchestrator.records.rows import Problem

_IN_MEMORY = 2**20
"""Bytes that need no file, and that are read at a time."""


@dataclass
class Known:
    """What is known of problems without reading them."""

    number: int
    characters: int
    """Of their texts, summed."""
    digests: dict[str, str] = field(default_factory=dict)
    """Fingerprints of them, or of a selection, by their recipe."""
    on_digest: Callable[[], None] = lambda: None
    """Told of each new fingerprint."""

    def as_json(self) -> dict[str, Any]:
        """All that can be kept."""
        return {"number": self.number, "characters": self.characters, "digests": self.digests}


class _Spool:
    """Rows in a temporary file, as lines of JSON."""

    def __init__(self, rows: Iterable[Problem]) -> None:
        self._ends, self.characters, self._reading = array("q", [0]), 0, threading.Lock()
        end = 0
        try:
            self._file = tempfile.SpooledTemporaryFile(_IN_MEMORY)  # noqa: SIM115
            for row in rows:
                said = (row.prompt_id, row.text, row.gold, row.solution, row.hint)
                end += self._file.write(json.dumps(said).encode() + b"\n")
                self._ends.append(end)
                self.characters += len(row.text)
        except OSError as error:
            raise RatchetError(
                f"{tempfile.gettempdir()}: problems cannot be kept there while they are used ({error.strerror}). See "
                "to it, or name another folder in TMPDIR."
            ) from error

    def __len__(self) -> int:
        return len(self._ends) - 1

    def between(self, start: int, stop: int) -> Iterator[Problem]:
        while start < stop:
            # As many as fit, and at least one.
            part = min(stop, max(start + 1, bisect_left(self._ends, self._ends[start] + _IN_MEMORY, start + 1) - 1))
            with self._reading:
                self._file.seek(self._ends[start])
                lines = self._file.read(self._ends[part] - self._ends[start])
            yield from (Problem(*json.loads(line)) for line in lines.splitlines())
            start = part


class ProblemSet(Sequence[Problem]):
    """Problems in order. Reading them all again costs some microseconds each; what is asked more often is `known`."""

    def __init__(self, rows: Iterable[Problem] = ()) -> None:
        self._spool: _Spool | None = _Spool(rows)
        self.known = Known(len(self._spool), self._spool.characters)
        self._read: Callable[[], ProblemSet] | None = None

    @classmethod
    def later(cls, known: Known, read: Callable[[], ProblemSet]) -> ProblemSet:
        """Problems of which so much is known, and that are `read` only where one of them is asked for."""
        made = cls()
        made.known, made._spool, made._read = known, None, read
        return made

    @property
    def _rows(self) -> _Spool:
        if self._spool is None:
            assert self._read is not None
            read = self._read()
            if (len(read), read.known.characters) != (self.known.number, self.known.characters):
                raise BadInput("the problems of the job have changed while it was run: put the files back as they were")
            self._spool = read._rows
        return self._spool

    def remembered(self, recipe: str, make: Callable[[], str]) -> str:
        """A fingerprint of all of them, made where it is not known yet."""
        if recipe not in self.known.digests:
            self.known.digests[recipe] = make()
            self.known.on_digest()
        return self.known.digests[recipe]

    def __len__(self) -> int:
        return self.known.number

    @overload
    def __getitem__(self, index: int) -> Problem: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Problem]: ...
    def __getitem__(self, index: int | slice) -> Problem | Sequence[Problem]:
        if isinstance(index, slice):
            return Selection(self, np.arange(len(self), dtype=np.int32)[index])
        place = range(len(self))[index]
        return next(self._rows.between(place, place + 1))

    def __iter__(self) -> Iterator[Problem]:
        return self._rows.between(0, len(self))


class Selection(Sequence[Problem]):
    """Some problems of a set, in an order of their own."""

    def __init__(self, of: ProblemSet, order: npt.NDArray[np.int32]) -> None:
        self._of, self._order = of, order

    def remembered(self, recipe: str, make: Callable[[], str]) -> str:
        """As `ProblemSet.remembered`."""
        order = hashlib.sha256(self._order.astype("<i4").tobytes()).hexdigest()
        return self._of.remembered(f"{recipe} {order}", make)

    def __len__(self) -> int:
        return len(self._order)

    @overload
    def __getitem__(self, index: int) -> Problem: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Problem]: ...
    def __getitem__(self, index: int | slice) -> Problem | Sequence[Problem]:
        return (
            Selection(self._of, self._order[index]) if isinstance(index, slice) else self._of[int(self._order[index])]
        )

    def __iter__(self) -> Iterator[Problem]:
        return (self._of[number] for number in self._order.tolist())


def characters_of(problems: Sequence[Problem]) -> int:
    """Characters of the texts, summed."""
    if isinstance(problems, ProblemSet):
        return problems.known.characters
    return sum(len(problem.text) for problem in problems)


def selection(problems: Sequence[Problem], order: Sequence[int]) -> Sequence[Problem]:
    """Some problems by their numbers from 0, in this order."""
    if isinstance(problems, ProblemSet):
        return Selection(problems, np.array(order, np.int32))
    return [problems[number] for number in order]


def digest_of_problems(problems: Sequence[Problem]) -> Digest:
    """Problems as an input of a step."""
    return Digest(problems, problems.remembered) if isinstance(problems, ProblemSet | Selection) else Digest(problems)
