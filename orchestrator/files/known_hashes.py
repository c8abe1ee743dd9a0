"""The hashes of a run's files, kept from one driver to the next: what nobody has touched is not hashed at each start.

`hashes.cache` of the run has the identity of each file that a driver has hashed (identity.py) and its sha256, and of
each that it has looked at and found right, for what. It is believed where this user's own driver has made it
(sealed.py), and may be deleted. `verify` hashes every file.
"""

from __future__ import annotations

from pathlib import Path

from orchestrator.files import identity, sealed
from orchestrator.files.identity import Identity, Written

HASHES_CACHE = "hashes.cache"
MIN_FILES, MIN_BYTES = 1000, 2**28
"""How much must have been hashed before it is written anew: less is hashed as fast."""
_LARGEST = 1 << 28


def load(root: Path) -> None:
    """Take over what an earlier driver of the run has hashed."""
    said = sealed.load(root / HASHES_CACHE, _LARGEST)
    if not isinstance(said, dict):
        return
    for sha, *who in said["hashes"]:
        identity.HASHED.setdefault(_identity(who), sha)
    identity.SOUND.update((what, _identity(who)) for what, *who in said["sound"])


def is_due() -> bool:
    """Whether this process has hashed so much since `content` that it is worth keeping."""
    return identity.NEW.files >= MIN_FILES or identity.NEW.size >= MIN_BYTES


def content() -> bytes:
    """The cache, of all that is known."""
    identity.NEW.files = identity.NEW.size = 0
    hashes = [[sha, *who.written, who.ctime_ns] for who, sha in list(identity.HASHED.items())]
    sound = [[what, *who.written, who.ctime_ns] for what, who in list(identity.SOUND)]
    return sealed.content(HASHES_CACHE, {"hashes": hashes, "sound": sound})


def _identity(said: list[int]) -> Identity:
    *written, ctime = said
    return Identity(Written(*written), ctime)
