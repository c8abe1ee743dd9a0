"""What a model thinks before it answers, and where its answer begins."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

_OPENINGS = (("</", "<"), ("[/", "["), ("◁/", "◁"), ("<|end_of_", "<|begin_of_"), ("<|end_", "<|start_"))


def opening_of(end: str) -> str | None:
    """The mark that begins what `end` ends: "<think>" for "</think>"; None where there is no telling."""
    for closing, opening in _OPENINGS:
        if end.startswith(closing):
            return opening + end.removeprefix(closing)
    return None


def without_thoughts(text: str, ends: Sequence[str]) -> str:
    """What follows the last of the marks `ends`, and stands before thoughts that are begun and never ended.

    The text may lack the mark that begins the thoughts, since a prompt can end in it. Where thoughts are begun first
    and never end, nothing is left: there is no answer.
    """
    ends = [end for end in ends if _stem(end) in text]
    if not ends:
        return text
    start = max((at + len(end) for end in ends if (at := text.rfind(end)) >= 0), default=0)
    begun = [at for end in ends if (opening := opening_of(end)) and (at := text.find(opening, start)) >= 0]
    return text[start : min(begun, default=len(text))]


@lru_cache(maxsize=256)
def _stem(end: str) -> str:
    """What a mark and the one that begins what it ends have in common: "think>"; most texts have neither."""
    for closing, _ in _OPENINGS:
        if end.startswith(closing):
            return end.removeprefix(closing)
    return end
