"""Whether this process still drives a run, as a reader of its ledger sees it."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence

from orchestrator.ledger.ledger import only_cleans
from orchestrator.ledger.record_files import Record


class Drivers:
    """The drivers of a run, in order."""

    def __init__(self, pid: int | None = None) -> None:
        """`pid` is the driver's on this machine, where it is not this process."""
        self._me = (socket.gethostname(), pid or os.getpid())
        self._drivers: list[tuple[object, object]] = []
        self._num_scanned = 0

    def handed_over(self, records: Sequence[Record]) -> bool:
        """Whether a newer driver has claimed the run that this one once drove. `records` are those of its ledger,
        of which those that were looked at before are not looked at again."""
        for record in records[self._num_scanned :]:
            if record.kind == "claim" and not only_cleans(record.data):
                self._drivers.append((record.data.get("host"), record.data.get("pid")))
        self._num_scanned = len(records)
        return self._me in self._drivers and self._drivers[-1] != self._me
