"""Where a round's seconds went: what the report says was work, and what was none."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.ledger.record_files import Record
from orchestrator.reports.evidence import Evidence
from orchestrator.reports.rounds import RoundStatus
from orchestrator.reports.seconds import seconds_section, walls
from orchestrator.rounds.readiness import Readiness, ready


def records(*told: tuple[str, float, dict[str, Any]]) -> list[Record]:
    return [Record(number, 1, kind, time, data) for number, (kind, time, data) in enumerate(told)]


def step(name: str) -> dict[str, Any]:
    return {"step": name}


RUN = records(
    ("claim", 100.0, {}),
    ("config", 101.0, {}),
    ("commit", 110.0, step("baseline/evaluation")),
    ("config", 112.0, {}),
    ("shard", 115.0, step("rounds/01/samples")),
    ("commit", 120.0, step("rounds/01/samples")),
    ("claim", 9000.0, {}),  # nobody was there for hours
    ("commit", 9020.0, step("rounds/01/train")),
    ("promotion", 9021.0, {"round": 1}),
    ("commit", 9020.5, step("rounds/02/samples")),  # a clock that was set back
)


def test_the_time_of_a_round_is_that_of_its_drivers() -> None:
    assert walls(RUN) == {0: 10.0, 1: 10.0 + 20.0 + 1.0, 2: 0.0}
    assert walls([]) == {}


def cells(status: RoundStatus, took: dict[int, float]) -> dict[str, str]:
    lines = [line for line in seconds_section([Evidence(status)], took).splitlines() if line.startswith("| ")]
    names, values = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)
    return dict(zip(names, values, strict=True))


def test_what_was_no_work_is_told_with_its_share() -> None:
    facts = {
        "samples": {"seconds": 20.0, "starting": 10.0},
        "verdicts": {"seconds": 99.0, "waited": 2.0},
        "train": {"seconds": 30.0, "starting": 5.0},
    }
    found = cells(RoundStatus(1, facts), {1: 64.0})
    assert found["in all"] == "64.0" and found["starting"] == "15.0 (23.4 %)"
    assert found["waited for grading"] == "2.0 (3.1 %)"
    assert found["between steps"] == "2.0 (3.1 %)", "of 64 s, 20 + 30 are the phases', 10 before the first sample, 2"
    taken = cells(RoundStatus(1, facts, taken_over={"train", "verdicts"}), {1: 31.0})
    assert (taken["train"], taken["starting"], taken["between steps"]) == ("taken over", "10.0 (32.3 %)", "1.0 (3.2 %)")
    assert cells(RoundStatus(2, facts), {})["in all"] == ""


@pytest.mark.parametrize(("seconds", "told"), [(0.0, {}), (0.05, {}), (2.5, {"starting": 2.5})])
def test_how_long_workers_took_is_told_once(seconds: float, told: dict[str, float]) -> None:
    readiness = Readiness(seconds)
    assert readiness.once() == told and readiness.once() == {}
    assert Readiness(seconds).added({"a": 1, "starting": 0.02}) == {"a": 1} | ({"starting": 2.52} if told else {})
    assert Readiness(0.0).added({"starting": 3.0}) == {"starting": 3.0}


def test_workers_that_are_there_are_given_on() -> None:
    workers, readiness = ready(lambda: "these")
    assert workers == "these" and readiness.once() == {}
