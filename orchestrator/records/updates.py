"""Which pairs an update is made of: a pure function of the pairs, their order and a seed, whatever the ranks."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b


def epoch_batches(
    names: Sequence[str], prompts: Sequence[bytes], seed: int, epoch: int, batch_pairs: int, order: str
) -> list[list[int]]:
    """Rows of each batch of an epoch; the last batch may be smaller. `names` are the pairs' ids, and `prompts` the
    token ids of their prompts, little-endian int32, in the order of the rows.

    `pairs` shuffles pairs; `prompts` shuffles prompts and keeps a prompt's pairs together, in order.
    The shuffle sorts by a hash, since NumPy does not promise its generators' streams across versions.
    """
    if order == "pairs":
        keys = [_shuffle_key(seed, epoch, f"{row}/{name}".encode()) for row, name in enumerate(names)]
        rows = sorted(range(len(keys)), key=keys.__getitem__)
    elif order == "prompts":
        grouped: dict[bytes, list[int]] = {}
        for row, prompt in enumerate(prompts):
            grouped.setdefault(prompt, []).append(row)
        shuffled = sorted(grouped, key=lambda prompt: _shuffle_key(seed, epoch, prompt))
        rows = [row for prompt in shuffled for row in grouped[prompt]]
    else:
        raise ValueError(f"order {order!r} is unknown; use `pairs` or `prompts`")
    return [rows[i : i + batch_pairs] for i in range(0, len(rows), batch_pairs)]


def _shuffle_key(seed: int, epoch: int, name: bytes) -> bytes:
    return blake2b(f"{seed}/{epoch}/".encode() + name, digest_size=16).digest()
