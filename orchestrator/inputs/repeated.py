"""Questions that stand more than once in one set of problems, which is told before a run starts: an evaluation counts
each as another problem, so that its figures look surer than they are; and of two gold answers one is wrong."""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from orchestrator.records.rows import Problem

_COUNTED = "the gate and its intervals count each as a problem of its own"
_SAMPLED = "each is sampled as often as it stands there"


def repeated_lines(problems: Mapping[str, Sequence[Problem]]) -> list[str]:
    """A line for each set in which some problem has the very text of an earlier one: how many, an example, and of how
    many the gold answer is another one. Of a problem 16 bytes are held."""
    return [line for split, rows in problems.items() if (line := _line(split, rows))]


def _line(split: str, rows: Sequence[Problem]) -> str:
    texts, golds = array("q"), array("q")
    for problem in rows:
        texts.append(hash(problem.text))
        golds.append(hash(problem.gold))
    pairs = _repeated(np.frombuffer(texts, np.int64))
    if not len(pairs):
        return ""
    answers = np.frombuffer(golds, np.int64)
    differ = answers[pairs[:, 0]] != answers[pairs[:, 1]]
    first, again = (rows[int(number)].prompt_id for number in pairs[int(np.argmax(differ))])
    said = f"data.{split}: {len(pairs):,} of {len(rows):,} problems have the very text of an earlier one"
    if number := int(np.count_nonzero(differ)):
        said += f", {number:,} of them with another gold answer, so that one of the two is wrong"
    return f"{said} ({again!r} that of {first!r}); {_SAMPLED if split == 'train' else _COUNTED}: leave one of them out"


def _repeated(hashes: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Of each number that stands there before, the places of its first and of itself, in their order."""
    if len(hashes) < 2:
        return np.empty((0, 2), np.int64)
    order = np.argsort(hashes, kind="stable")
    new = np.concatenate([[True], hashes[order][1:] != hashes[order][:-1]])
    firsts = order[np.maximum.accumulate(np.where(new, np.arange(len(order)), 0))]
    pairs = np.stack([firsts[~new], order[~new]], axis=1)
    return pairs[np.argsort(pairs[:, 1])]
