"""How far a run is archived, by what its last driver wrote down of it: a cache, which can be deleted."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from orchestrator.config.addresses import without_password
from orchestrator.errors import Damaged
from orchestrator.files import strict_json
from orchestrator.files.durable import replace

CURSOR_FILE = "archiving.json"
_MAX_CURSOR = 1 << 26  # bytes; it names the files of a judge's answers


@dataclass
class Cursor:
    """How far a run has been sent, and to where."""

    address: str
    records: int = 0
    """Number of the first record that the archive does not have; it has all before it, and their files."""
    beside: dict[str, list[Any]] = field(default_factory=dict)
    """Files that no record names, as they were sent: size, time of the last change (ns), sha256."""
    problem: str | None = None
    """What has kept the rest from being sent at the last try."""


def read_cursor(run_dir: Path) -> Cursor | None:
    """What the run folder says of its archive; None where that is nothing, or nothing of use."""
    try:
        known = Cursor(**strict_json.read_object(run_dir / CURSOR_FILE, _MAX_CURSOR, run_dir))
    except (OSError, ValueError, TypeError, Damaged):
        return None
    good = isinstance(known.address, str) and type(known.records) is int and known.records >= 0
    good &= isinstance(known.beside, dict) and all(_is_entry(entry) for entry in known.beside.values())
    return known if good and (known.problem is None or isinstance(known.problem, str)) else None


def _is_entry(entry: Any) -> bool:
    return isinstance(entry, list) and list(map(type, entry)) == [int, int, str]


def write_cursor(run_dir: Path, cursor: Cursor) -> None:
    """Keep a cursor in the run folder."""
    replace(run_dir / CURSOR_FILE, json.dumps(asdict(cursor)).encode())


def archived(run_dir: Path, address: str | None, records: int) -> dict[str, Any] | None:
    """What `ratchet status` tells: `address`, `records` that are there (null: nothing is known of it here), of how many
    (`of`), and `problem`; None where the job has no archive and nothing was sent by hand. `address` is the job's, and
    `records` those of the run."""
    known = read_cursor(run_dir)
    if address is None and known is None:
        return None
    if known is None or (address is not None and known.address != without_password(address)):
        return {"address": without_password(str(address)), "records": None, "of": records, "problem": None}
    sent = min(known.records, records)
    return {"address": known.address, "records": sent, "of": records, "problem": known.problem}


def archive_line(said: Mapping[str, Any]) -> str:
    """The same for people."""
    if said["records"] is None:
        return f"archive: {said['address']}; what it has is not known here: `ratchet archive RUN` looks, and sends it"
    left = said["of"] - said["records"]
    rest = f"; {left} are not there" + (f": {said['problem']}" if said["problem"] else "") if left else ""
    return f"archive: {said['address']} has {said['records']} of {said['of']} records, with their files{rest}"
