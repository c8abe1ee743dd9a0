"""The prompts of a round by their ids, read where they are needed: memory holds 12 bytes of each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from orchestrator.errors import Damaged
from orchestrator.records.parquet import ROWS_A_GROUP, Rows, streamed

_COLUMNS = ("prompt_id", "text", "token_ids", "messages", "solution", "solution_token_ids")


class Prompts:
    """Rows of the prompts file by id."""

    def __init__(self, file: Path) -> None:
        self.file, self._rows = file, Rows(file, _COLUMNS)
        names = (name for ids in self.ids() for name in ids)
        self._hashes = np.fromiter(map(hash, names), np.int64, len(self))
        self._places = np.argsort(self._hashes, kind="stable").astype(np.int32)
        self._hashes.sort()
        self._alike = self._places_of_alike()
        self.conversational = self._has_messages()

    def __len__(self) -> int:
        return len(self._rows)

    def ids(self) -> Iterator[list[str]]:
        """Their ids in order, some at a time."""
        for table in self._batches("prompt_id"):
            yield table["prompt_id"].to_pylist()

    def places(self, ids: Sequence[str]) -> npt.NDArray[np.int64]:
        """Which rows these are, if they are prompts of the file."""
        if not len(self):
            return np.zeros(len(ids), np.int64)
        hashes = np.fromiter(map(hash, ids), np.int64, len(ids))
        at = np.minimum(np.searchsorted(self._hashes, hashes), len(self._hashes) - 1)
        found = self._places[at].tolist()
        return np.array([self._alike.get(name, place) for name, place in zip(ids, found, strict=True)], np.int64)

    def rows(self, ids: Sequence[str]) -> pa.Table:
        """Their rows, in the order of the ids.

        Raises:
            Damaged: the file has no such prompt.
        """
        table = self._rows.take(self.places(ids)) if len(self) else self._rows.between(0, 0)
        found = table["prompt_id"].to_pylist()
        if found != list(ids):
            missing = next(name for number, name in enumerate(ids) if found[number : number + 1] != [name])
            raise Damaged(f"{self.file}: has no prompt {missing!r}, of which there are samples")
        return table

    def _places_of_alike(self) -> dict[str, int]:
        """Rows by id where the hashes of two ids are the same."""
        repeated = set(self._hashes[1:][self._hashes[1:] == self._hashes[:-1]].tolist())
        if not repeated:
            return {}
        ids = (name for part in self.ids() for name in part)
        return {name: place for place, name in enumerate(ids) if hash(name) in repeated}

    def _has_messages(self) -> bool:
        return any(table["messages"].null_count < table.num_rows for table in self._batches("messages"))

    def _batches(self, column: str) -> Iterator[pa.Table]:
        with streamed(self.file) as parquet:
            for batch in parquet.iter_batches(ROWS_A_GROUP, columns=[column]):
                yield pa.Table.from_batches([batch])
