"""The seal of a saved training state: who made it had the key of the user's state folder."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Mapping
from typing import Any


def state_seal(key: bytes, manifest: Mapping[str, Any]) -> str:
    """The seal of a saved state: HMAC-SHA256 (RFC 2104) in hex over the training it is of and its files' hashes."""
    sealed = {"identity": manifest["identity"], "files": manifest["files"]}
    text = json.dumps(sealed, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hmac.new(key, text.encode(), hashlib.sha256).hexdigest()


def is_sealed(key: bytes, manifest: Any) -> bool:
    """Whether what was read as the manifest of a saved state has the seal of this key; `manifest` may be anything."""
    try:
        return bool(key) and hmac.compare_digest(manifest["seal"], state_seal(key, manifest))
    except (KeyError, TypeError, ValueError, RecursionError):
        return False
