"""`ratchet fetch`: a run is brought back from its archive, on a machine that need never have seen it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn

from orchestrator.archive.contents import record_name
from orchestrator.archive.marker import Marker, digest, read_marker
from orchestrator.archive.opening import open_store
from orchestrator.archive.receiver import Received, Receiver
from orchestrator.config import OWN_REFERENCES
from orchestrator.config.addresses import secret_in, without_password
from orchestrator.config.load import job_of
from orchestrator.config.places import home, require_room
from orchestrator.driver.kept import KEPT_MODEL, KEPT_PREFERENCES, KEPT_PROBLEMS, KEPT_REFERENCE
from orchestrator.driver.resume import all_kept, folders, needing_trust
from orchestrator.errors import BadInput, Damaged
from orchestrator.files import user_state
from orchestrator.files.inside import read_regular
from orchestrator.files.named import whole
from orchestrator.ledger.ledger import State
from orchestrator.ledger.record_files import MAX_RECORD
from orchestrator.text.counts import many
from orchestrator.text.terminal import Screen

_MOST_NAMED = 10
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True)
class Fetched:
    """A run that is here now."""

    root: Path
    received: Received
    trusted: bool
    """Whether nothing of its settings is left to be approved."""
    needed: tuple[str, ...]
    """What it names outside of its folder and is not on this machine: `KEY=VALUE`."""

    def lines(self) -> Iterator[str]:
        """What there is to say of it, for people."""
        yield f"fetched   {self.root}: {many(self.received.files, 'file')}, {many(self.received.bytes, 'byte')}"
        left_out = self.received.left_out
        for name in left_out[:_MOST_NAMED]:
            # Views are written anew by the next driver; what people and judges have written is not.
            cure = "; if it is whole there, copy it from the archive" if "/" in name else ""
            yield f"left out  {name}: it was being sent anew; no record names it{cure}"
        if (more := len(left_out) - _MOST_NAMED) > 0:
            yield f"left out  {more:,} more like that"
        for needed in self.needed:
            yield f"not here  {needed}: say where it is now, as {needed.partition('=')[0]}=PLACE"


def fetch(address: str, folder: Path | None, show: bool = False) -> Fetched:
    """Bring the run at an address to `folder`, by default `runs/NAME`. What an earlier try has brought is not fetched
    again. `show` draws a progress bar on stderr.

    Raises:
        BadInput: there is no archive, or `folder` is taken.
        Damaged: what is there is not what was committed.
        Unreachable: the store does not answer.
    """
    if found := secret_in(address):
        raise BadInput(f"{without_password(address)}: this address holds {found}: set it in the environment")
    store = open_store(address.rstrip("/"))
    marker = read_marker(store)
    if marker is None:
        raise BadInput(
            f"{store.address}: no archive is there (`archive.json` is missing, which is sent last). A folder that "
            "another tool has copied is copied back by it"
        )
    target = _target(marker, folder)
    columns = ("{task.description}", BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with (
        Receiver(store, marker, target) as receiver,
        Progress(*columns, console=Screen(err=True), transient=True, disable=not show) as progress,
    ):
        bar = progress.add_task("ledger", total=marker.record_bytes)
        state = receiver.state(lambda count: progress.advance(bar, count))
        bar = progress.add_task("files", total=receiver.wanted)
        received = receiver.files(state, lambda count: progress.advance(bar, count))
    try:
        trusted = user_state.is_approved([item.digest for item in needing_trust(target, state)])
        needed = tuple(_needed(target, state))
    except BadInput:  # a job that this version refuses, which a resume tells
        trusted, needed = False, ()
    return Fetched(target, received, trusted, needed)


def _target(marker: Marker, folder: Path | None) -> Path:
    if folder is None:
        if not _NAME.fullmatch(marker.name):
            raise BadInput(f"the archive names its run {marker.name[:100]!r}, which is no folder's name: give a folder")
        folder = home() / "runs" / marker.name
    target = require_room(whole(folder))
    if not os.path.lexists(target):
        return target
    try:
        first = read_regular(target / record_name(0), MAX_RECORD)
    except (OSError, Damaged):
        first = b""
    if digest(first) == marker.first:
        raise BadInput(f"{target}: this run is there already; `ratchet resume {target}` goes on with it")
    if not target.is_dir() or target.is_symlink() or any(target.iterdir()):
        raise BadInput(f"{target}: something else is there, and is left alone: give another folder")
    return target


def _needed(root: Path, state: State) -> Iterator[str]:
    config = state.configs[-1]
    file = job_of(config["job"], root / "job.yaml", (), all_kept)
    file = replace(file, recorded=(*map(Path, folders(state)), root))
    job, named = file.job, dict[str, str]()
    if KEPT_MODEL not in state.commits:
        named["model"] = job.model
    if KEPT_REFERENCE not in state.commits and job.reference not in OWN_REFERENCES:
        named["reference"] = job.reference
    if KEPT_PROBLEMS not in state.commits:
        named |= {f"data.{split}.path": source.path for split, source in job.data.sources.items() if source.path}
    if KEPT_PREFERENCES not in state.commits:
        named |= {key: source.path for kind in job.sources() for key, source in kind.rows() if source.path}
    for key, path in named.items():
        try:
            file.find(path, key)
        except BadInput:
            yield f"{key}={path}"
