"""What a run can do without, and `ratchet gc`, which removes it.

A run is after it what it was before, also where it is cut off: its claim leaves alone how the last driver ended, and
whatever is still there is found by the next. Only a checkpoint needs a record before it goes, and that is the claim. On
a full disk, where none can be written, the rest goes first.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.errors import BadInput, Displaced, RatchetError
from orchestrator.files import disk
from orchestrator.files.inside import remove, rename, walk
from orchestrator.files.rights import reason
from orchestrator.ledger import rollbacks
from orchestrator.ledger.borders import require_borders
from orchestrator.ledger.ledger import CLEANING, Ledger, State
from orchestrator.ledger.run import Run
from orchestrator.ledger.sharded import epoch_of
from orchestrator.reports.status import open_run, run_state
from orchestrator.reports.written import REPORTS, write_reports
from orchestrator.rounds.spare import spare_checkpoints
from orchestrator.sources.registry import SOURCES

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
_RECORDS = 2**16  # bytes, more than a cleaning writes
# Names that only a driver at work gives: what a step is writing (rounds/01/.pairs-e2-a5), what stood in the way of a
# committed file, and the temporary files of `durable`.
_TEMPORARY = re.compile(r"\.(.+-e\d+(-a\d+)?|stray-[0-9a-f]{8}-.+|.+\.[0-9a-f]{32}|probe-\d+-\d+)")
_STATES = re.compile(r"\.(.+)-state-of-\d+(\.\d+)?")


@dataclass(frozen=True)
class Waste:
    """Something that can go. `path` is relative to the run."""

    path: str
    why: str
    size: int
    """Bytes on the disk; those of a file that another run shares are only free when that run's name is gone too."""
    committed: bool = False
    at_once: bool = False
    """Whether `verify` looks into it for as long as it has its name, which it loses before anything in it goes."""


def waste(run_dir: Path) -> list[Waste]:
    """What no promoted checkpoint needs.

    Raises:
        BadInput: there is no run in this folder, or somebody drives it.
        Damaged: a ledger record cannot be read, or something of the run leads out of it.
    """
    return _waste(run_dir, _undriven(run_dir).state)


def clean(run_dir: Path, driver: dict[str, Any]) -> list[Waste]:
    """Remove what `waste` finds; returns that. It claims the run as this `driver`, which displaces one that seems dead.

    Raises:
        BadInput, Damaged: as `waste`.
        Displaced: somebody has claimed the run meanwhile, and does the rest by himself.
        RatchetError: the disk does not let it. In each case the same call goes on.
    """
    ledger = _undriven(run_dir)
    removable = _waste(run_dir, ledger.state)
    with _disk(run_dir):
        if removable or _unnamed(run_dir, ledger.state):  # the claim names what is committed
            try:
                _clean(run_dir, driver, ledger)
            except OSError as error:
                if error.errno not in _NO_ROOM:
                    raise
                _clean(run_dir, driver, _make_room(run_dir, driver))
    if ledger.state.commits and not (run_dir / REPORTS[0]).exists():  # they had to go for the records' sake
        with contextlib.suppress(OSError):  # the next one makes them
            write_reports(run_dir, SOURCES)
    return removable


def _undriven(run_dir: Path, me: dict[str, Any] | None = None) -> Ledger:
    """The ledger of a run that nobody drives but `me`, and that stays inside of its folder."""
    ledger = open_run(run_dir)
    by = ledger.state.driver
    is_me = me is not None and me.items() <= by.items()
    if not is_me and run_state(run_dir, ledger.state) == "running":
        raise BadInput(
            f"{run_dir}: process {by.get('pid')} on {by.get('host')} is driving this run, and removes what it can do "
            "without itself. Stop it first."
        )
    require_borders(run_dir, ledger.state)
    return ledger


def _clean(run_dir: Path, driver: dict[str, Any], seen: Ledger) -> None:
    """Remove all waste of a run whose ledger is as it was `seen`."""
    spare = [item.path for item in _waste(run_dir, seen.state) if item.committed]
    run = Run(run_dir)
    run.claim(driver | CLEANING | ({"paths": spare} if spare else {}), after=len(seen.records))
    _remove(run_dir, run.ledger, _waste(run_dir, run.ledger.state))  # now nobody can commit what looks left behind
    with contextlib.suppress(OSError):  # without that word it is known by the process that is gone
        if run.ledger.state.end is None:
            run.append("end", {"state": "interrupted", "reason": "its driver died"})


def _make_room(run_dir: Path, driver: dict[str, Any]) -> Ledger:
    """Remove what needs no record; returns the ledger."""
    ledger = _undriven(run_dir, driver | CLEANING)
    found = [item for item in _waste(run_dir, ledger.state) if not item.committed]
    _remove(run_dir, ledger, found)
    if sum(item.size for item in found) < _RECORDS:
        for name in REPORTS:  # which are made again
            remove(run_dir, run_dir / name)
    return ledger


def _remove(run_dir: Path, ledger: Ledger, found: Iterable[Waste]) -> None:
    epoch = ledger.state.epoch
    for item in found:
        ledger.refresh()
        if ledger.state.epoch != epoch:
            raise Displaced(f"{run_dir}: somebody has begun to drive this run, and it is left alone.")
        path = run_dir / item.path
        if item.at_once and os.path.lexists(path):
            path = _without_name(run_dir, path, epoch)
        remove(run_dir, path, strict=True)


def _without_name(run_dir: Path, path: Path, epoch: int) -> Path:
    """Where a folder is when it has the name of what a dead driver has left: its own, where a full disk, or a
    container's file system, takes no other, since room is needed more."""
    gone = path.with_name(f".{path.name.removeprefix('.')}-e{epoch}")
    try:
        rename(run_dir, path, gone, copies=False)
    except OSError as error:
        if error.errno not in (*_NO_ROOM, errno.EXDEV):
            raise
        return path
    return gone


@contextlib.contextmanager
def _disk(run_dir: Path) -> Iterator[None]:
    """What the disk does not let be done, in words."""
    try:
        yield
    except OSError as error:
        cure = "make some room beside the run" if error.errno in _NO_ROOM else disk.cure(error, run_dir) or disk.CURE
        where = f" ({error.filename})" if error.filename else ""
        raise RatchetError(
            f"{run_dir}: cannot be cleaned: {reason(error)}{where}. What is committed is kept, and the run "
            f"is what it was. {cure[0].upper()}{cure[1:]}, and the same command goes on."
        ) from error


def _waste(run_dir: Path, state: State) -> list[Waste]:
    keep = state.configs[-1]["job"].get("keep", {}).get("checkpoints") if state.configs else None
    found = [
        Waste(path, "checkpoint beyond keep.checkpoints", _size(run_dir / path), committed=True)
        for path in spare_checkpoints(state, keep)
    ]
    for looked_into, group in (
        (False, _half_gone(run_dir, state)),
        (True, _set_aside(run_dir, state)),
        (True, _untaken(run_dir, state)),
        (False, _left_behind(run_dir, state)),
    ):
        for path, why in group:
            found.append(Waste(str(path.relative_to(run_dir)), why, _size(path), at_once=looked_into))
    return found


def _unnamed(run_dir: Path, state: State) -> bool:
    """Whether something that is committed has not got its name yet."""
    places = ((run_dir / a.hidden, run_dir / a.path) for a in state.artifacts())
    return any(not final.exists() and hidden.exists() for hidden, final in places)


def _half_gone(run_dir: Path, state: State) -> Iterator[tuple[Path, str]]:
    """What was discarded by somebody who did not come to remove it."""
    paths = (run_dir / path for path in sorted(state.discarded))
    yield from ((path, "discarded before") for path in paths if os.path.lexists(path))


def _set_aside(run_dir: Path, state: State) -> Iterator[tuple[Path, str]]:
    """The rounds that rollbacks have set aside, also where a crash came before they got their hidden names."""
    here = [run_dir / folder for rollback in state.rollbacks for folder in rollback.folders()]
    waiting = [old for old, _ in rollbacks.unsettled(run_dir, state)]
    yield from ((path, "set aside by a rollback") for path in (*here, *waiting) if os.path.lexists(path))


def _untaken(run_dir: Path, state: State) -> Iterator[tuple[Path, str]]:
    """Offers that nobody will take: what they stand for is committed, or the run is over."""
    over = state.finished or (state.end is not None and state.end["state"] == "stopped")
    for offer in state.offers.values():
        if over or offer.step in state.commits or offer.index in state.shards.get(offer.step, {}):
            paths = (run_dir / artifact.hidden for artifact in offer.artifacts)
            yield from ((path, "offer that was not taken") for path in paths if os.path.lexists(path))


def _left_behind(run_dir: Path, state: State) -> Iterator[tuple[Path, str]]:
    """Hidden files and folders that dead drivers left."""
    # Committed, but a crash came before the final name: the next driver gives it.
    needed = {run_dir / a.hidden for a in state.artifacts() if not (run_dir / a.path).exists()}
    for folder, folders, files in walk(run_dir):
        here = Path(folder)
        if here == run_dir:
            folders[:] = [name for name in folders if name in ("baseline", "ledger", "rounds")]
        for path in (here / name for name in (*folders, *files) if name.startswith(".")):
            states = _STATES.fullmatch(path.name)
            later = (epoch_of(path.name) or 0) > state.epoch  # of a driver that has begun since
            if _TEMPORARY.fullmatch(path.name) and path not in needed and not later:
                yield path, "left by a dead driver"
            elif states and str((here / states[1]).relative_to(run_dir)) in state.commits:
                yield path, "states of a finished training"
        folders[:] = [name for name in folders if not name.startswith(".")]


def _size(path: Path) -> int:
    """Bytes of the files at or below a path; what is behind a link is not there."""
    found = (Path(here) / name for here, _, names in walk(path) for name in names) if _is_folder(path) else [path]
    with contextlib.suppress(FileNotFoundError):  # a driver that is overtaken may still tidy up
        return sum(status.st_size for status in (file.lstat() for file in found) if stat.S_ISREG(status.st_mode))
    return 0


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()
