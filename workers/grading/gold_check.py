"""Gold answers, each as an answer to itself: where no grader reads one, no answer to it is ever correct."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterable, Iterator, Sequence

from orchestrator.config import Grade
from orchestrator.records.golds import accepted
from workers.graders.combine import Spec, name_of
from workers.graders.golds import unwrapped
from workers.grading.process import GraderDied, GraderProcess

_LIGHT: list[Spec] = ["exact"]
"""The grader that reads most texts, and whose process starts at once."""


def unread_golds(settings: Grade, golds: Iterable[str], seconds: float) -> tuple[dict[str, str], int]:
    """Those of the different gold answers that are not correct as an answer to themselves, with the reason; and how
    many were looked at, which are not all where that takes longer than so many seconds.

    Raises:
        BadInput: a grader cannot be made.
    """
    deadline = time.monotonic() + seconds
    left: Iterable[str] = _different(golds)
    read = 0
    if _LIGHT[0] in settings.graders:
        unread, asked = _asked(_LIGHT, settings, left, deadline)
        left, read = list(unread), asked - len(unread)
    unread, asked = _asked(settings.graders, settings, left, deadline)
    return unread, read + asked


def opinions_on_golds(settings: Grade, golds: Iterable[str]) -> list[list[tuple[str, str, str]]]:
    """What each grader of a job says of each gold answer as an answer to itself: its name, the verdict, and the reason,
    which is empty for `correct`. A judge is not asked, since that costs.

    Raises:
        BadInput: a grader cannot be made.
    """
    told = []
    alone = [spec for spec in settings.graders if "judge" not in json.dumps(spec)]
    with contextlib.closing(GraderProcess(settings.timeout, settings.memory, alone, [])) as process:
        for gold in golds:
            said = [(name_of(spec), *_opinion(process, gold, name_of(spec))) for spec in alone]
            unasked = [(name_of(spec), "not asked", "") for spec in settings.graders if spec not in alone]
            told.append([*said, *unasked])
    return told


def _opinion(process: GraderProcess, gold: str, name: str) -> tuple[str, str]:
    try:
        reply = process.ask("opinion", gold, unwrapped(gold), name)
    except GraderDied as died:
        return "ungradable", str(died)
    return reply["verdict"], "" if reply["verdict"] == "correct" else str(reply["reason"])


def _asked(
    graders: Sequence[Spec], settings: Grade, golds: Iterable[str], deadline: float
) -> tuple[dict[str, str], int]:
    unread, number = dict[str, str](), 0
    with contextlib.closing(GraderProcess(settings.timeout, settings.memory, graders, [])) as process:
        for gold in golds:
            if time.monotonic() > deadline:
                break
            number += 1
            for one in accepted(gold):
                if (reason := _reason(process, one)) is not None:
                    unread[gold] = reason
                    break
    return unread, number


def _different(golds: Iterable[str]) -> Iterator[str]:
    """Each once. There may be millions, and no more of them are held than are asked for."""
    seen: set[str] = set()
    for gold in golds:
        if gold not in seen:
            seen.add(gold)
            yield gold


def _reason(process: GraderProcess, gold: str) -> str | None:
    """Why a gold answer is not correct as an answer to itself; None where it is."""
    reason = ""
    for answer in dict.fromkeys((unwrapped(gold), gold)):  # a pattern of the user's may want all of it
        try:
            reply = process.ask("grade", gold, answer)
        except GraderDied as died:
            reason = reason or str(died)
            continue
        if reply["verdict"] == "correct":
            return None
        reason = reason or str(reply["reason"])
    return reason
