"""What a run's problems came to when they were read and checked, so that a restart does not do it all again.

`inputs.cache` of the run says how many problems each set has, and their fingerprints. It is believed while the files
are those that were read (inode, size and times, of which nobody can set the change time), their rows are read in the
same way, and this user's own driver has made it (files/sealed.py). Then no problem is read before one is asked for.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

from orchestrator.config import Data
from orchestrator.config.load import JobFile
from orchestrator.config.reward import needs_golds
from orchestrator.driver.kept import Problems, files_of_problems, read_all_problems
from orchestrator.errors import BadInput, Damaged
from orchestrator.files import sealed
from orchestrator.files.identity import identity, is_settled
from orchestrator.inputs.problem_set import Known, ProblemSet
from orchestrator.inputs.problems import read_problems, require_enough
from orchestrator.ledger.run import Run

INPUTS_CACHE = "inputs.cache"
MIN_PROBLEMS = 10_000
"""Fewer are read as fast."""
_LARGEST = 1 << 26


class KnownProblems:
    """The problems of a job's files, and what its run remembers of them."""

    def __init__(self, run: Run, file: JobFile, data: Data, reading: int) -> None:
        self._run, self._file, self._data, self._reading = run, file, data, reading
        self._find = files_of_problems(file, data)
        self._sets: Mapping[str, Known] = {}
        self._key: dict[str, Any] = {}
        """What is remembered with them; empty where nothing can be."""

    def read(self) -> Problems:
        """As `read_all_problems`, or what is known of them."""
        now = {split: self._identity(split) for split in self._data.sources}
        key = {"data": self._data.model_dump(mode="json"), "reading": self._reading, "files": now}
        if None not in now.values():
            self._key = key
            said = sealed.load(self._run.path(INPUTS_CACHE), _LARGEST)
            if said is not None and said["key"] == key:
                self._sets = {split: Known(**known) for split, known in said["sets"].items()}
                require_enough(self._later("train") if "train" in self._sets else (), self._data, self._file.job.rounds)
                return {split: self._later(split) for split in self._sets}
        problems = read_all_problems(self._file, self._data, self._reading)
        self._sets = {split: rows.known for split, rows in problems.items()}
        if any(self._identity(split) != was for split, was in now.items()):
            self._key = {}  # changed while they were read
        return problems

    def remember(self) -> None:
        """From now on, keep what is known of many problems in the run, whose driver this is."""
        if self._key and sum(known.number for known in self._sets.values()) >= MIN_PROBLEMS:
            for known in self._sets.values():
                known.on_digest = self._save
            self._save()

    def _save(self) -> None:
        sets = {split: known.as_json() for split, known in self._sets.items()}
        with contextlib.suppress(OSError):  # it can go
            self._run.write(INPUTS_CACHE, sealed.content(INPUTS_CACHE, {"key": self._key, "sets": sets}))

    def _later(self, split: str) -> ProblemSet:
        def read() -> ProblemSet:
            found = read_problems(self._data, split, self._find, self._reading, needs_golds(self._file.job, split))
            if self._identity(split) != self._key["files"][split]:
                raise BadInput(
                    f"data.{split}: {self._find[split]} has changed since this driver was started. What is committed "
                    "is kept: put the file back as it was, and the same command goes on."
                )
            return found

        return ProblemSet.later(self._sets[split], read)

    def _identity(self, split: str) -> list[int] | None:
        """What the file of a set is now; None where it may have been written to just now, or is none."""
        try:
            found = identity(self._find[split])
        except (KeyError, OSError, Damaged):
            return None
        settled = is_settled(max(found.written.mtime_ns, found.ctime_ns))
        return [*found.written, found.ctime_ns] if settled else None
