"""A gold answer that is a list of accepted answers, as the one text that files and graders carry it in."""

from __future__ import annotations

from collections.abc import Sequence

SEPARATOR = "\x1e"
"""Between accepted answers: ASCII's record separator, which no answer that is read has in it."""


def joined(answers: Sequence[str]) -> str:
    """One gold answer of the accepted ones, each once, in order."""
    return SEPARATOR.join(dict.fromkeys(answers))


def accepted(gold: str) -> list[str]:
    """The answers of which each is right."""
    return gold.split(SEPARATOR)


def best(gold: str) -> str:
    """The answer that stands for all of them where one is needed: the first."""
    return gold.partition(SEPARATOR)[0]


def shown(gold: str) -> str:
    """For people: "18" or "18 | eighteen"."""
    return gold.replace(SEPARATOR, " | ")
