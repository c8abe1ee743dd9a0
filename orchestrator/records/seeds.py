"""Seeds: one of the job's, and from it one for each purpose, whatever the shards, engines and ranks. Pure."""

from __future__ import annotations

import hashlib


def derived_seed(seed: int, *purpose: str | int) -> int:
    """A seed (31 bits) for one purpose: a stable hash of the run's seed and the purpose."""
    text = "\x1f".join(map(str, (seed, *purpose)))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest(), "big") >> 1
