"""Whether the graders of a job read its gold answers, before it starts."""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from orchestrator.config import Grade, Job
from orchestrator.config.load import JobFile
from orchestrator.config.reward import needs_golds
from orchestrator.errors import BadInput, cut
from orchestrator.inputs.problems import place_of
from orchestrator.records.golds import shown
from orchestrator.records.rows import Problem

Ask = Callable[[Grade, Iterable[str]], tuple[dict[str, str], int]]
"""Gold answers that no grader reads, with the reason, and how many different ones were looked at
(wiring.unread_golds)."""
EXAMPLES = 3
MOST = 0.5
"""A job is refused where more than this share of a split's gold answers is read by no grader."""
_TEN = frozenset("0123456789")
_COMPARE_TEXT = ("exact", "number", "math", "regex")


def check_golds(file: JobFile, problems: Mapping[str, Sequence[Problem]], ask: Ask) -> list[str]:
    """What a person should know of the gold answers, a line each: which ones no grader reads. Nothing is asked where
    `judge` or a function of the user's is among the graders: they may take any.

    Raises:
        BadInput: most of a split are read by none, or are numbers of options that `choice` cannot know.
    """
    job = file.job
    names = set(_names(job.grade.graders))
    graded = {split: rows for split, rows in problems.items() if split != "train" or _grades_samples(job)}
    lines = [_without(split, rows) for split, rows in problems.items() if not needs_golds(job, split)]
    if not graded or names & {"judge", "python"}:
        return [line for line in lines if line]
    lines += [_numbered(job, split, rows, names) for split, rows in graded.items()]
    # Of millions of gold answers, which are read once, there is room for their hashes.
    hashes = {split: array("q") for split in graded}
    given = _golds(graded, hashes)
    unread, asked = ask(job.grade, given)
    deque(given, maxlen=0)  # what was not asked
    ordered = np.sort(np.concatenate([np.frombuffer(known, np.int64) for known in hashes.values()]))
    total = len(ordered) and 1 + int(np.count_nonzero(ordered[1:] != ordered[:-1]))
    for split, rows in graded.items():
        bad = np.flatnonzero(np.isin(hashes[split], np.array(list(map(hash, unread)), np.int64))).tolist()
        if bad:
            said = _unread_line(file, split, rows, bad, unread)
            if len(bad) > MOST * len(rows):
                raise BadInput(said)
            lines.append(said)
    if asked < total:
        lines.append(f"only {asked:,} of {total:,} different gold answers were looked at, to save time")
    return [line for line in lines if line]


def _grades_samples(job: Job) -> bool:
    """Whether comparing samples of the training problems with gold answers decides anything."""
    decides = job.pairs.rejected != "any" and job.pairs.rule != "unfiltered"
    return job.source.compares_golds and decides and needs_golds(job)


def _without(split: str, rows: Sequence[Problem]) -> str:
    """What is to be said of problems that may lack a gold answer."""
    number = sum(not problem.gold for problem in rows)
    told = (
        f"data.{split}: {number:,} of {len(rows):,} problems have no gold answer, so that their samples get no verdict"
    )
    return told if number else ""


def _names(graders: Iterable[Any]) -> Iterator[str]:
    for grader in graders:
        if isinstance(grader, str):
            yield grader.partition(":")[0]
        else:
            for below in grader.values():
                yield from _names(below)


def _numbered(job: Job, split: str, rows: Sequence[Problem], names: set[str]) -> str:
    """What is to be said of gold answers 0, 1, 2, ... that `choice` takes for letters."""
    if "choice" not in names or (golds := _digits(rows)) is None or "0" not in golds:
        return ""
    said = (
        f"data.{split}: the gold answers are {', '.join(sorted(golds))}, which look like options counted from 0, and "
        "`choice` compares letters: name the field with the options as `data.choices`, and each gold answer becomes "
        "its option's letter"
    )
    if not names & set(_COMPARE_TEXT):
        raise BadInput(said)
    return said


def _digits(rows: Iterable[Problem]) -> set[str] | None:
    """The gold answers, where each is a single digit."""
    found: set[str] = set()
    for problem in rows:
        if problem.gold not in _TEN:
            return None
        found.add(problem.gold)
    return found


def _golds(graded: Mapping[str, Sequence[Problem]], hashes: Mapping[str, array[int]]) -> Iterator[str]:
    """The gold answers of each split; their `hashes` are noted as they pass."""
    for split, rows in graded.items():
        for problem in rows:
            hashes[split].append(hash(problem.gold))
            yield problem.gold


def _unread_line(file: JobFile, split: str, rows: Sequence[Problem], bad: list[int], unread: Mapping[str, str]) -> str:
    data = file.job.data
    source = data.sources[split]
    find = {split: file.find(source.path, f"data.{split}")} if source.path else {}
    examples = [
        f"{place_of(data, split, find, number)}: {shown(rows[number].gold)[:60]!r} ({cut(unread[rows[number].gold])})"
        for number in bad[:EXAMPLES]
    ]
    more = f" and {len(bad) - EXAMPLES:,} more" if len(bad) > EXAMPLES else ""
    return (
        f"data.{split}: no grader of grade.graders reads {len(bad):,} of {len(rows):,} gold answers, so that no answer "
        f"to them is ever correct: {'; '.join(examples)}{more}. Correct or remove them, or add a grader that reads "
        "them (`exact` compares any text, `judge` asks a model)"
    )
