"""One record of the ledger as a file: its bytes, and all that is asked of them when they are read or to be written.

What a record's data says is held against its model, which kinds.py has.
"""

from __future__ import annotations

import json
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from orchestrator.errors import BadInput, Closed, Damaged
from orchestrator.files import strict_json
from orchestrator.files.durable import canonical, fingerprint, fingerprint_of
from orchestrator.files.inside import read_regular
from orchestrator.files.rights import reason
from orchestrator.ledger.kinds import MAX_EPOCH, Kind, check_data, quoted

SCHEMA = 1
MAX_RECORD = 1 << 26
"""Bytes of a record that is read; those of a step with 100,000 files are a fifth of that."""
_YEAR_9999 = 253_402_300_800
_NAME = re.compile(r"[0-9]{8}\.json")


@dataclass(frozen=True, slots=True)
class Record:
    """One event. Example: Record(7, 1, "commit", 1.7e9, {"step": "rounds/01/pairs", ...})"""

    number: int
    epoch: int
    kind: Kind
    time: float
    data: dict[str, Any]


def record_numbers(folder: Path) -> list[int]:
    """The numbers of all records in a ledger folder. A record's name has eight digits; whatever has another name
    (1².json, 9999999999.json, an editor's copy) is no record, does no harm and counts among the strays.

    Raises:
        PermissionError: the folder is closed to us.
    """
    try:
        names = sorted(name for name in os.listdir(folder) if _NAME.fullmatch(name))
        if names:
            os.lstat(folder / names[0])  # else none would seem to be there, where names alone may be seen
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [int(name[:8]) for name in names]


def read_record(path: Path, number: int) -> Record:
    """The record with this number.

    Raises:
        Damaged: it is not what a driver wrote, or not what its kind says; names key, value and what is wanted.
        BadInput: a newer Ratchet wrote it, or this user may not read it (Closed).
        FileNotFoundError: there is none.
    """
    try:
        return parsed(_content(path), number)
    except FileNotFoundError:
        raise
    except _Newer as error:
        raise BadInput(f"{path}: written by a newer Ratchet ({error}, this one knows {SCHEMA})") from error
    except PermissionError as error:
        raise Closed(f"{path}: this ledger record cannot be read ({reason(error)})") from error
    except OSError as error:
        raise Damaged(f"{path}: this ledger record cannot be read ({reason(error)})") from error
    except ValueError as error:
        raise Damaged(f"{path}: this ledger record is damaged ({error}). Restore it from a copy of the run.") from error


class _Newer(Exception):
    pass


def _content(path: Path) -> bytes:
    if not stat.S_ISLNK(os.lstat(path).st_mode):
        return read_regular(path, MAX_RECORD)
    try:
        return read_regular(path, MAX_RECORD, root=path.parent.parent)
    except FileNotFoundError as error:
        raise Damaged(f"{path}: a link to nothing stands in the place of this ledger record") from error


def parsed(content: bytes, number: int) -> Record:
    """A record from its bytes; raises ValueError with what is wrong with it, and _Newer."""
    document = strict_json.loads_once(content)
    if not isinstance(document, dict):
        raise ValueError("it is no JSON object")
    said = document.get("schema")
    if type(said) is not int or said < 1:
        raise ValueError(f"`schema` is {quoted(said)} and should be {SCHEMA}")
    if said > SCHEMA:
        raise _Newer(f"schema {quoted(said)}")
    check = document.pop("check", None)  # the first runs wrote none
    spelled = canonical(document)
    if check is not None and check != fingerprint_of(spelled):
        raise ValueError("what it says does not match its `check`")
    if content != b'{"check":"%s",%s\n' % (str(check).encode(), spelled[1:]):  # as it is written, no key stands twice
        strict_json.refuse_repeated_keys(content)
    if type(document.get("number")) is not int or document["number"] != number:
        raise ValueError(f"it says number {quoted(document.get('number'))}")
    epoch, moment = document.get("epoch"), document.get("time")
    if type(epoch) is not int or not 1 <= epoch < MAX_EPOCH:
        raise ValueError(f"`epoch` is {quoted(epoch)} and should be a number from 1")
    if not isinstance(moment, int | float) or isinstance(moment, bool) or not 0 <= moment < _YEAR_9999:
        raise ValueError(f"`time` is {quoted(moment)} and should be seconds since 1970")
    kind, data = document.get("kind"), document.get("data")
    if not isinstance(kind, str) or not isinstance(data, dict):
        raise ValueError(f"`kind` is {quoted(kind)} and `data` is {quoted(data)}: a text and an object are needed")
    check_data(kind, data)
    return Record(number, epoch, cast(Kind, kind), moment, data)


def spelled(document: dict[str, Any]) -> tuple[bytes, Record]:
    """The bytes of a record, and the record as it will be read from them.

    Raises:
        ValueError, TypeError, RecursionError: reading would refuse it.
    """
    as_read = json.loads(canonical(document))  # where the keys of every object are strings
    content = canonical(document | {"check": fingerprint(as_read)}) + b"\n"
    if len(content) > MAX_RECORD:
        raise ValueError(f"it has {len(content):,} bytes, and a record has at most {MAX_RECORD:,}")
    return content, parsed(content, document["number"])
