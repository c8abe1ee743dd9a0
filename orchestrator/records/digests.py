"""Digests of 16 bytes in millions. A set of them, or a dictionary by them, takes ten times the memory of their bytes.

All 16 bytes are compared, so that nothing is taken for something else by chance: of 10 million digests of blake2b two
are the same with a probability below 10^-24, which is what files themselves rely on (`pair_ids.completion_key`).
"""

from __future__ import annotations

from hashlib import blake2b

import numpy as np

SIZE = 16


def digest_of(what: bytes) -> bytes:
    """Its digest."""
    return blake2b(what, digest_size=SIZE).digest()


class Places:
    """Where each of so many digests stands among them, from 0: 28 bytes of memory for each."""

    def __init__(self, digests: bytes | bytearray) -> None:
        """`digests` are one behind the other, and stay as they are."""
        self._digests = digests
        halves = np.frombuffer(digests, "<u8")[::2]
        self._order = np.argsort(halves, kind="stable").astype(np.int32)
        self._halves = halves[self._order]

    def __len__(self) -> int:
        return len(self._order)

    def of(self, digest: bytes) -> int | None:
        """Where it stands, the last time if several; None where it does not."""
        half = int.from_bytes(digest[:8], "little")
        at = int(np.searchsorted(self._halves, np.uint64(half), side="right")) - 1
        while at >= 0 and self._halves[at] == half:  # rarely more than once
            place = int(self._order[at])
            if self._digests[SIZE * place : SIZE * (place + 1)] == digest:
                return place
            at -= 1
        return None


def repeated(digests: bytes | bytearray) -> set[bytes]:
    """Those that stand among them more than once."""
    ordered = np.sort(np.frombuffer(digests, f"S{SIZE}"))
    found = ordered[1:][ordered[1:] == ordered[:-1]]
    return {bytes(digest).ljust(SIZE, b"\0") for digest in found.tolist()}  # numpy leaves zeros out at the end
