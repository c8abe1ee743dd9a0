"""A judge's answers on the disk: no crash makes a run pay twice, and no damage changes what it believes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.children import Fault, Undisturbed, note
from tests.faults.jobs import requests_of
from tests.faults.sweeps import of_sources, sweep
from tests.faults.test_damage import HARMS, flip

JUDGE = "steps, judge"


@of_sources({JUDGE: (None, 3)})
def test_a_run_that_is_killed_pays_at_most_one_question_twice(
    calm: Undisturbed, space: Path, source: str, stride: int
) -> None:
    """Killed before any operation in the folder of the answers; a question of one at a time may be on its way."""
    paid = requests_of(calm.run)

    def killed(point: int) -> int:
        case = calm.case(space / f"judge-{point}")
        assert case.drive(Fault("SIGKILL", point)) == -9
        assert case.drive() == 0, case.output
        calm.require_same(case.run)
        again = requests_of(case.run) - paid
        case.remove()
        return again

    points = [n for n, done in enumerate(calm.operations, 1) if done.partition(" ")[2].startswith("judge/")]
    again = sweep(points[5::stride], killed)
    note("judge", {"points": len(again), "asked again": sorted(again), "questions": paid})
    assert max(again) <= 1


@pytest.mark.parametrize("source", [JUDGE])
@pytest.mark.parametrize("harm", [h if h is flip else pytest.param(h, marks=pytest.mark.faults) for h in HARMS])
def test_answers_that_are_harmed_are_asked_for_again(
    calm: Undisturbed, space: Path, source: str, harm: Callable[[Path], None]
) -> None:
    """All answers of a round, none of which was committed yet."""
    case = calm.case(space / f"answers-{harm.__name__}")
    located = next(n for n, done in enumerate(calm.operations, 1) if done.startswith("os.mkdir rounds/01/.located"))
    assert case.drive(Fault("SIGKILL", located)) == -9
    answers = list((case.run / "judge").rglob("*.json"))
    for answer in answers:
        harm(answer)
    assert case.drive() == 0, case.output
    calm.require_same(case.run)
    again = requests_of(case.run) - requests_of(calm.run)
    assert len(answers) > 2 and 0 < again <= len(answers)
