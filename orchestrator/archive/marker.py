"""What an archive says of itself, in a file that is written last: whose it is, and what it has."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from orchestrator.archive.contents import MARKER, MOST_BESIDE, is_beside
from orchestrator.archive.store import Store, Told
from orchestrator.errors import BadInput
from orchestrator.files import strict_json

SCHEMA = 1
MOST_RECORDS = 100_000_000
_MOST_BYTES = 1 << 26
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Marker:
    """Of an archive with a whole history up to a record. Its records and their files are all there."""

    name: str
    """The job's."""
    records: int
    first: str
    """sha256 of the first record's bytes: no two runs begin with the same."""
    last: str
    """sha256 of the bytes of the last of the records."""
    record_bytes: int
    """Of all records."""
    beside: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Files that no record names: `size` and `sha256` by name."""

    def spelled(self) -> bytes:
        return json.dumps({"schema": SCHEMA} | asdict(self), sort_keys=True, indent=1).encode() + b"\n"


def digest(content: bytes) -> str:
    """The sha256 of some bytes, in hex."""
    return hashlib.sha256(content).hexdigest()


def read_marker(store: Store) -> Marker | None:
    """What an archive says of itself; None where none is at the store's address.

    Raises:
        BadInput: something else stands there, or a newer Ratchet wrote it.
        Unreachable: it cannot be read.
    """
    told: Told | None = store.told(MARKER)
    if told is None:
        return None
    if told.size > _MOST_BYTES:
        raise BadInput(f"{store.address}/{MARKER}: is larger than that of an archive")
    try:
        said = strict_json.loads(store.read(MARKER, 0, told.size))
        if not isinstance(said, dict):
            raise ValueError("it is no JSON object")
        if (schema := said.pop("schema", None)) != SCHEMA:
            raise ValueError(f"its schema is {schema!r}, and this version knows {SCHEMA}")
        marker = Marker(**said)
        _check(marker)
    except (ValueError, TypeError, FileNotFoundError) as error:
        raise BadInput(f"{store.address}/{MARKER}: is not what an archive says of itself ({error})") from error
    return marker


def _check(marker: Marker) -> None:
    numbers = (marker.records, marker.record_bytes)
    if not all(type(number) is int and number > 0 for number in numbers) or marker.records > MOST_RECORDS:
        raise ValueError("`records` and `record_bytes` are numbers of what is there")
    if not isinstance(marker.name, str) or not all(_is_digest(one) for one in (marker.first, marker.last)):
        raise ValueError("`name`, `first` and `last` are texts")
    if not isinstance(marker.beside, dict):
        raise ValueError("`beside` is an object")
    for name, said in marker.beside.items():
        good = is_beside(name) and isinstance(said, dict) and said.keys() == {"size", "sha256"}
        if not good or type(said["size"]) is not int or not 0 <= said["size"] <= MOST_BESIDE:
            raise ValueError(f"`beside` has {name!r}, which no archive has")
        if not _is_digest(said["sha256"]):
            raise ValueError(f"the sha256 of {name!r} is none")


def _is_digest(value: Any) -> bool:
    return isinstance(value, str) and _DIGEST.fullmatch(value) is not None
