"""The gate's word in one sentence: for every way that a decision can go."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pytest

from orchestrator.reports.gate_words import gate_said
from orchestrator.rounds.gate import decide
from tests.orchestrator.rounds.test_gate import answers
from tests.support.sample_run import evaluation


def said(rule: Any, won: int, lost: int, num_problems: int = 300) -> str:
    best, candidate = answers(won, lost, num_problems - won - lost)
    decided = decide(rule, 0.05, best, candidate)
    facts = {"rule": rule, "alpha": 0.05, "reference": "rounds/01/checkpoint"} | asdict(decided)
    return gate_said(facts, {"gate": evaluation(0, num_problems)} if num_problems else {"gate": None})


def test_a_success_reads_as_one() -> None:
    expected = "promoted: 44 problems newly solved, 11 lost, of 300; +11.0 points (95 % interval [6.2, 15.7])"
    assert said("not_worse", 44, 11) == said("better", 44, 11) == said("always", 44, 11) == expected
    assert said("better", 9, 0).startswith("promoted: 9 problems newly solved, none lost, of 300; +3.0 points")


def test_what_may_be_chance_is_said_to_be_so() -> None:
    assert said("not_worse", 3, 5) == (
        "promoted: 3 problems newly solved, 5 lost, of 300; -0.7 points (95 % interval [-2.7, 1.4]), which may be "
        "chance and is not surely worse; a drop of less than 1.7 points cannot be seen here"
    )
    for tie in (said("not_worse", 0, 0), said("not_worse", 7, 7)):
        assert "+0.0 points" in tie and "which is a tie and is not surely worse" in tie
    assert said("not_worse", 1, 0, 2).startswith("promoted: 1 problem newly solved, none lost, of 2")


def test_a_refusal_says_why_and_what_stays() -> None:
    worse = said("not_worse", 1, 20)
    assert worse.startswith(
        "refused: 1 problem newly solved, 20 lost, of 300; -6.3 points (95 % interval [-9.3, -3.3]);"
    )
    assert worse.endswith(
        "surely worse than the best so far (p = 1e-05, `promotion.alpha` is 0.05), so that rounds/01/checkpoint stays "
        "the reference"
    )
    assert "; not surely better than the best so far (p = 0.14, `promotion.alpha` is 0.05)" in said("better", 6, 2)


def test_what_the_rule_always_promotes_is_told_as_it_is() -> None:
    assert said("always", 5, 30).endswith("; `promotion.rule: always` promotes whatever they are")
    assert said("always", 0, 0, 0) == "promoted: there are no gate problems to compare on"


@pytest.mark.parametrize("evaluated", [None, {}, {"gate": None}, {"gate": evaluation(3, 4)}])
def test_without_the_number_of_problems_it_says_what_it_knows(evaluated: Any) -> None:
    best, candidate = answers(4, 1)
    facts = {"rule": "always", "alpha": 0.05, "reference": "x"} | asdict(decide("always", 0.05, best, candidate))
    assert gate_said(facts, evaluated) == "promoted: 4 problems newly solved, 1 lost"
