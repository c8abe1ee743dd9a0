"""Figures as people read them, in one notation everywhere."""

from __future__ import annotations


def many(number: int, one: str, several: str = "") -> str:
    """`1 pair`, `1,280 pairs`, `0 pairs`; `several` is the plural, where it is no `s` more."""
    return f"{number:,} {one if number == 1 else several or f'{one}s'}"


def bracketed(low: float, high: float) -> str:
    """An interval of shares, or of differences of them, in per cent: `[-6.4, 39.8]`."""
    return f"[{100 * low:.1f}, {100 * high:.1f}]"


def with_replayed(pairs: int | None, replayed: int | None) -> str:
    """What a round is trained on: its own pairs, `220`, and those of `pairs.replay`, `220, and 120 of earlier rounds`;
    empty where it has none yet."""
    own = "" if pairs is None else f"{pairs:,}"
    return f"{own}, and {replayed:,} of earlier rounds" if replayed else own
