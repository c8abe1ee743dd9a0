"""What a run's workers have printed, found again by round, step, shard and worker; see workers/logs.py, which keeps it.

    logs/e2/engine-0.log    what engine 0 of driver 2 has printed, with marks that say at what it was
    logs/ray/worker-*       what Ray had of the workers of a private Ray, kept where a run failed

All of it is text from elsewhere, in a run that may be a stranger's: regular files are read, no link is followed, and a
line is as long as it may be.
"""

from __future__ import annotations

import heapq
import json
import os
import re
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from orchestrator.errors import BadInput
from orchestrator.reports.rounds import round_and_phase
from orchestrator.reports.status import open_run, run_state
from orchestrator.text import terminal

ROLES = ("engine", "rank", "grader", "rewarder", "harness", "ray")
_FOLDER = re.compile(r"e([1-9]\d{0,8})")
_FILE = re.compile(r"(engine|rank|grader|rewarder|harness)-(\d{1,6})\.log")
_OF_RAY = re.compile(r"worker-.*\.(?:out|err)")
_MARK = b'{"ratchet": '
_PIECE = 1 << 16  # bytes that are read at once, of each of perhaps thousands of files
_LONGEST = 1 << 16  # bytes of a line; a longer one is shown as several
_MOST_WORKS = 100  # at which a worker is at once; an engine has three
_LOOK_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Work:
    """A piece of work: a step, and which of its shards, where it has any."""

    step: str
    shard: int | None = None


@dataclass(frozen=True, slots=True)
class Line:
    """A line that a worker printed, or a mark."""

    at: float
    """When it was, at the earliest: the time of the mark before it, in seconds since 1970."""
    source: str
    """The worker, such as e2/engine-0."""
    works: tuple[Work, ...]
    """What the worker was at."""
    text: str

    def shown(self) -> str:
        """For people."""
        shards: dict[str, list[str]] = {}
        for work in self.works:
            shards.setdefault(work.step, []).extend([] if work.shard is None else [str(work.shard)])
        doing = ", ".join(f"{step}{_numbered(numbers)}" for step, numbers in shards.items())
        return f"{self.source}  {doing + ': ' if doing else ''}{self.text}"


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which lines are wanted; None: all."""

    round: int | None = None
    step: str | None = None
    """Its name, such as rounds/01/samples, or the last part of it."""
    shard: int | None = None
    role: str | None = None
    worker: int | None = None
    driver: int | None = None

    def __post_init__(self) -> None:
        """Raises BadInput where no worker has such a role."""
        if self.role not in (None, *ROLES):
            raise BadInput(f"--role: {self.role!r} is none. Give {', '.join(ROLES[:-1])} or {ROLES[-1]}.")

    def file(self, role: str, worker: int | None, driver: int | None) -> bool:
        """Whether a worker's file has such lines."""
        asked = ((self.role, role), (self.worker, worker), (self.driver, driver))
        return all(wanted in (None, is_) for wanted, is_ in asked)

    def line(self, line: Line) -> bool:
        """Whether a line is one."""
        if (self.round, self.step, self.shard) == (None, None, None):
            return True
        return any(self._work(work) for work in line.works)

    def _work(self, work: Work) -> bool:
        names = work.step, work.step.rpartition("/")[2], round_and_phase(work.step)[1]
        return (
            self.round in (None, round_and_phase(work.step)[0])
            and (self.step is None or self.step in names)
            and self.shard in (None, work.shard)
        )


def _numbered(shards: list[str]) -> str:
    return f" shard{'s' if len(shards) > 1 else ''} {', '.join(shards)}" if shards else ""


class _File:
    """A worker's file, read as far as it is there."""

    def __init__(self, path: Path, source: str) -> None:
        self.path, self._source = path, source
        self._offset, self._rest = 0, b""
        self._at, self._works = 0.0, dict[Work, int]()

    def lines(self, whole: bool) -> Iterator[Line]:
        """Those that are new; if that is the `whole` file, also what stands behind the last line's end: the last words
        of a process that was killed."""
        while piece := self._piece():
            self._offset += len(piece)
            *done, self._rest = (self._rest + piece).split(b"\n")
            for line in done:
                yield from self._said(line)
            if len(self._rest) > _LONGEST:
                yield from self._said(self._rest)
                self._rest = b""
        if whole and self._rest:
            rest, self._rest = self._rest, b""
            yield from self._said(rest)

    def _piece(self) -> bytes:
        """What comes next. A file that vanishes, or is no regular one, has nothing. It is not kept open: there may be
        more of them than may be open."""
        try:
            file = os.open(self.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return b""
        try:
            return os.pread(file, _PIECE, self._offset) if stat.S_ISREG(os.fstat(file).st_mode) else b""
        except OSError:
            return b""
        finally:
            os.close(file)

    def _said(self, line: bytes) -> Iterator[Line]:
        if line.startswith(_MARK) and (mark := _mark(line)) is not None:
            yield self._marked(mark)
            return
        works = tuple(self._works)
        for start in range(0, max(1, len(line)), _LONGEST):
            text = line[start : start + _LONGEST].decode(errors="replace").removesuffix("\r")
            yield Line(self._at, self._source, works, text)

    def _marked(self, mark: dict[str, Any]) -> Line:
        """At what the worker is from now on. What a process was at that another one has replaced, it is at no more."""
        self._at = max(self._at, float(mark["at"]))
        when = f"{datetime.fromtimestamp(mark['at'], UTC):%Y-%m-%d %H:%M:%S}"
        if mark["ratchet"] == "starts":
            self._works.clear()
            return Line(self._at, self._source, (), f"starts on {mark['host']}, process {mark['pid']}, {when}")
        work = Work(mark["step"], mark.get("shard"))
        if mark["ratchet"] == "begins":
            if work in self._works or len(self._works) < _MOST_WORKS:
                self._works[work] = self._works.get(work, 0) + 1
        elif self._works.get(work, 0) > 1:
            self._works[work] -= 1
        else:
            self._works.pop(work, None)
        why = f": {mark['why']}" if mark["ratchet"] == "fails" and "why" in mark else ""
        return Line(self._at, self._source, (work,), f"{mark['ratchet']} {when}{why}")


_KINDS: dict[str, type | tuple[type, ...]] = {"at": (int, float), "host": str, "pid": int}
_MORE: dict[str, type | tuple[type, ...]] = {"step": str, "shard": int, "why": str}


def _mark(line: bytes) -> dict[str, Any] | None:
    """A mark; None for what only looks like one."""
    try:
        said = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if said.get("ratchet") not in ("starts", "begins", "ends", "fails"):
        return None
    sound = all(isinstance(said.get(key), kind) for key, kind in _KINDS.items())
    sound = sound and all(isinstance(said[key], kind) for key, kind in _MORE.items() if key in said)
    sound = sound and (said["ratchet"] == "starts" or "step" in said)
    return said if sound and 0 <= said["at"] < 1e11 else None


def tell(run: Path, wanted: Wanted, say: Callable[[Line], None], follow: bool = False) -> int:
    """Say what the workers of a run have printed, in the order of time, as far as marks tell it; with `follow` also
    what comes, until no driver drives the run any more, or nobody reads. Returns how many lines that were.

    Raises:
        BadInput: there is no run in this folder.
    """
    ledger, known, told = open_run(run), dict[Path, _File](), 0
    while True:
        ledger.refresh()
        goes_on = follow and run_state(run, ledger.state) == "running" and not terminal.is_lost()
        for file in _files(run, wanted):
            known.setdefault(file.path, file)
        found = [file.lines(whole=not goes_on) for file in known.values()]
        for line in filter(wanted.line, heapq.merge(*found, key=lambda line: line.at)):
            say(line)
            told += 1
        if not goes_on:
            return told
        time.sleep(_LOOK_SECONDS)


def _files(run: Path, wanted: Wanted) -> list[_File]:
    """The files of workers that may have wanted lines, of the oldest driver first."""
    found: list[tuple[int, str, int, _File]] = []
    for name in _names(run, "logs"):
        if (driver := _FOLDER.fullmatch(name)) is None:
            continue
        for inner in _names(run, "logs", name):
            if (file := _FILE.fullmatch(inner)) and wanted.file(file[1], int(file[2]), int(driver[1])):
                source = f"{name}/{file[1]}-{file[2]}"
                found.append((int(driver[1]), file[1], int(file[2]), _File(run / "logs" / name / inner, source)))
    if wanted.file("ray", None, None):
        for parts in (("logs",), ("logs", "ray")):  # 0.1.0 kept them in `logs` itself
            names = [name for name in _names(run, *parts) if _OF_RAY.fullmatch(name)]
            files = [_File(run.joinpath(*parts, name), f"ray/{name}") for name in names]
            found += [(0, "ray", number, file) for number, file in enumerate(files)]
    return [file for *_, file in sorted(found, key=lambda each: each[:3])]


def _names(run: Path, *parts: str) -> list[str]:
    """What is in a folder of the run, to which no link leads."""
    folder = run
    try:
        for part in parts:
            if (folder := folder / part).is_symlink():
                return []
        return sorted(os.listdir(folder))
    except OSError:
        return []
