"""A cache that only this user's own processes are believed about: JSON behind a seal with the key of the state folder.

    HMAC-SHA256 (RFC 2104) in hex, of the purpose and of the rest
    JSON

Who can write into the folder of a run, on a shared disk or in an image of one, could make a cache that says what is not
so. Another user's cache, or one for another purpose, is no cache.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from pathlib import Path
from typing import Any

from orchestrator import __version__
from orchestrator.errors import Damaged
from orchestrator.files import user_state
from orchestrator.files.inside import read_regular


def load(file: Path, largest: int) -> Any:
    """What the cache of this file's name says, made by this version and this user; None where it is not to be
    believed."""
    try:
        seal, _, rest = read_regular(file, largest).partition(b"\n")
        return json.loads(rest) if hmac.compare_digest(seal, _seal(file.name, rest)) else None
    except (OSError, Damaged, ValueError, RecursionError):
        return None  # derived: whatever is wrong with it, what it tells is found out again


def content(name: str, value: Any) -> bytes:
    """A cache of that name, whole."""
    rest = json.dumps(value).encode()
    return _seal(name, rest) + b"\n" + rest


def _seal(name: str, rest: bytes) -> bytes:
    said = f"{name}\n{__version__}\n".encode() + rest
    return hmac.new(user_state.sealing_key(), said, hashlib.sha256).hexdigest().encode()
