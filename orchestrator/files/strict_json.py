"""JSON that somebody else may have written: read as one value and in one way, or refused.

Refused are what JSON does not have (NaN, Infinity, numbers beyond float64), what no text can hold (bytes that are no
UTF-8, halves of surrogate pairs), keys that stand twice, and what is nested or long enough to harm a reader.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from orchestrator.files.durable import canonical
from orchestrator.files.inside import read_regular

MAX_DEPTH = 64
MAX_DIGITS = 100
_LONG = re.compile(rb"[0-9]{%d}" % (MAX_DIGITS + 1))


def loads(content: bytes) -> Any:
    """The value of a JSON text.

    Raises:
        ValueError: it is none, or is refused; the message says why.
    """
    value = loads_once(content)
    canonical(value)  # refuses infinite numbers and halves of surrogate pairs
    refuse_repeated_keys(content)
    return value


def loads_once(content: bytes) -> Any:
    """As `loads`, but for repeated keys and what `durable.canonical` refuses, which a caller that spells the value
    anew can see for less."""
    try:
        value = _DECODER.decode(content.decode())
    except RecursionError as error:
        raise ValueError(f"it is nested more than {MAX_DEPTH} deep") from error
    # Only what has so many brackets, or so long a number, is looked at: a ledger has thousands of records.
    if content.count(b"[") + content.count(b"{") > MAX_DEPTH or _LONG.search(content):
        _refuse_extremes(value)
    return value


def refuse_repeated_keys(content: bytes) -> None:
    """Raises ValueError where a key stands twice in an object, of which Python would take the last."""
    _PAIRS_DECODER.decode(content.decode())


def read_object(path: Path, limit: int, root: Path | None = None) -> dict[str, Any]:
    """The JSON object in a regular file of at most `limit` bytes; `root` as for `inside.read_regular`.

    Raises:
        ValueError: it holds no JSON object.
        Damaged: it is no such file.
        OSError: it cannot be read.
    """
    value = loads(read_regular(path, limit, root))
    if not isinstance(value, dict):
        raise ValueError("it is no JSON object")
    return value


def _refuse_extremes(value: Any, depth: int = 1) -> None:
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 10**MAX_DIGITS:
        raise ValueError(f"a number in it has more than {MAX_DIGITS} digits")
    if isinstance(value, dict | list):
        if depth > MAX_DEPTH:
            raise ValueError(f"it is nested more than {MAX_DEPTH} deep")
        for below in value.values() if isinstance(value, dict) else value:
            _refuse_extremes(below, depth + 1)


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number of JSON")


def no_repeated(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """For `object_pairs_hook`. Raises ValueError where a key stands twice in an object."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice[:80]!r} stands twice in an object")
    return found


_DECODER = json.JSONDecoder(parse_constant=_no_constant)
_PAIRS_DECODER = json.JSONDecoder(parse_constant=_no_constant, object_pairs_hook=no_repeated)
