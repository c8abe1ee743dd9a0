"""A round's health, and the warnings when it turns: each at both sides of its edge."""

from __future__ import annotations

import re
from typing import Any

import pytest

from orchestrator.ledger.ledger import State
from orchestrator.records.counts import BY_PROMPT, by_prompt, metrics, trend
from orchestrator.reports.evidence import Evidence, by_ledger
from orchestrator.reports.health import KINDS, health, words
from orchestrator.reports.rounds import RoundStatus
from orchestrator.reports.symptoms import by_round
from tests.support.sample_run import evaluation, job

BASE = Evidence(RoundStatus(0, {"evaluation": {"test": evaluation(40)}}))


def round_(number: int = 1, kinds: dict[str, int] | None = None, **facts: Any) -> Evidence:
    """A round whose verdicts are right and wrong by half, eight a prompt; `kinds` are of its prompts."""
    kinds = kinds or {"prompts_mixed": 100}
    prompts = sum(kinds.values())
    verdicts = {"correct": 4 * prompts, "wrong": 4 * prompts, "ungradable": 0, "distinct_answers": 3 * prompts}
    pairs = {name: count for name, count in kinds.items() if name in BY_PROMPT[:3]} | {"chosen_tokens": 20.0}
    known: dict[str, Any] = {
        "samples": {"samples": 8 * prompts, "tokens": 160 * prompts},
        "verdicts": verdicts | dict.fromkeys(BY_PROMPT, 0) | kinds,
        "pairs": pairs | {"prompts_ungradable": prompts - sum(kinds.get(name, 0) for name in BY_PROMPT[:3])},
    }
    return Evidence(
        RoundStatus(number, {phase: known.get(phase, {}) | facts.get(phase, {}) for phase in known | facts})
    )


def warned(*done: Evidence) -> list[str]:
    """What turns in the last one; each warning names a setting that there is."""
    found = by_round(BASE, done)[done[-1].round.number]
    for said in found:
        named = {key.partition(":")[0] for key in re.findall(r"`([^`]+)`", said)}
        assert named and all(is_setting(key) for key in named), said
    return found


def is_setting(key: str) -> bool:
    section, _, name = key.partition(".")
    settings = getattr(job(), section)
    return not name or name in type(settings).model_fields


def test_prompts_are_counted_by_what_their_samples_are() -> None:
    said = {
        "mixed": [("correct", None, "7"), ("wrong", None, "8"), ("ungradable", "truncated", None)],
        "right": [("correct", None, "7"), ("correct", None, "7.0"), ("ungradable", "failed", "8")],
        "wrong": [("wrong", None, None), ("wrong", None, "8")],
        "cut": [
            ("ungradable", "truncated", None),
            ("ungradable", "unreadable", "x"),
            ("ungradable", "truncated", None),
        ],
        "unread": [("ungradable", "unreadable", "a bit"), ("ungradable", "unreadable", "a bit")],
    }
    rows = [(prompt, *row) for prompt, rows in said.items() for row in rows]
    found = by_prompt(*zip(*rows, strict=True))
    assert found.pop("distinct_answers") == 2 + 3 + 1 + 1 + 1
    assert {name: count for name, count in found.items() if count} == {
        "prompts_mixed": 1,
        "prompts_all_correct": 1,
        "prompts_all_wrong": 1,
        "prompts_truncated": 1,
        "prompts_unreadable": 1,
    }
    assert sum(by_prompt([], [], [], []).values()) == 0


def test_the_trend_of_a_metric() -> None:
    assert trend([]) == trend([None, float("nan")]) == {}
    assert trend([3.0]) == {"first": 3.0, "last": 3.0}
    assert trend([1.0, None, 2.0, 5.0, 6.0]) == {"first": 1.0, "last": 6.0}
    found = trend([1.0, 3.0, 0, 0, 0, 0, 5.0, 9.0])
    assert (found["first"], found["last"]) == (2.0, 7.0) and found["error"] == pytest.approx((2 / 2 + 8 / 2) ** 0.5)
    rows = [{"loss": 1.0, "chosen_logprob": -float(i)} for i in range(8)]
    assert metrics(rows)["trend"] == {"chosen_logprob": trend([-float(i) for i in range(8)])}
    assert "trend" not in metrics([{"loss": 1.0}])


def test_the_figures_of_a_round_and_what_is_not_known_is_left_out() -> None:
    told = round_(
        kinds={"prompts_mixed": 60, "prompts_all_correct": 20, "prompts_all_wrong": 10, "prompts_truncated": 10},
        train={"trend": {"chosen_logprob": {"first": -10.0, "last": -12.0, "error": 0.5}}},
        evaluation={"test": evaluation(50)},
    )
    found = health(told)
    assert sum(found[kind] for kind in KINDS) == pytest.approx(1)
    assert (found["pass_1"], found["pass_n"], found["distinct_answers"]) == (0.5, 0.8, 3.0)
    assert (found["sample_tokens"], found["answer_tokens"], found["prompts_paired"]) == (20.0, 21.0, 0.6)
    assert (found["chosen_logprob_first"], found["chosen_logprob_token"]) == (-10.0, -0.6)
    assert list(words(found)) == [
        "pass@1 50.0 %, pass@N 80.0 %",
        "3.00 answers a prompt",
        "20 tokens a sample",
        "prompts 60 % mixed, 20 % all right, 10 % all wrong, 10 % truncated",
        "chosen -10.00 to -12.00 nats",
    ]
    assert health(Evidence(RoundStatus(1))) == {} and list(words({})) == []
    old = {"pairs": {"prompts_mixed": 3, "prompts_all_correct": 1, "prompts_all_wrong": 0, "pass_any": 1.0}}
    assert health(Evidence(RoundStatus(1, old))) == {
        "pass_n": 1.0,
        "prompts_mixed": 0.75,
        "prompts_all_correct": 0.25,
        "prompts_all_wrong": 0.0,
        "prompts_paired": 0.75,
    }


def test_a_round_in_good_health_is_warned_of_nothing() -> None:
    assert warned(round_(1), round_(2)) == []
    assert by_ledger(State()) == (Evidence(RoundStatus(0)), [])


def chosen(number: int, last: float, error: float = 0.5, first: float = -20.0) -> Evidence:
    return round_(number, train={"trend": {"chosen_logprob": {"first": first, "last": last, "error": error}}})


def test_numbers_that_are_none_and_a_training_that_did_not_start_at_its_reference() -> None:
    [said] = warned(Evidence(RoundStatus(1), {"loss": [1.0, float("nan")]}))
    assert "loss is no finite number in 1 update:" in said and "`train.learning_rate`" in said
    [said] = warned(Evidence(RoundStatus(1), {"dpo_loss": [0.9]}))
    assert "`init` unlike `reference`" in said


def test_the_chosen_fall_in_training_beyond_two_standard_errors() -> None:
    assert warned(chosen(1, -21.0)) == []
    [said] = warned(chosen(1, -21.1))
    assert "fell in training (-20.00 to -21.10 nats)" in said and "`loss.nll`" in said
    by_metrics = Evidence(RoundStatus(1), {"chosen_logprob": [-20.0, -20.1, -21, -21, -21, -21, -22.0, -22.1]})
    assert "fell in training" in warned(by_metrics)[0]


def test_the_chosen_sink_over_rounds() -> None:
    assert warned(chosen(1, -20.0), chosen(2, -21.4, first=-21.4)) == []
    [said] = warned(chosen(1, -20.0), chosen(2, -21.5, first=-21.5))
    assert "less likely from round to round (-1.000 to -1.075 nats" in said and "`pairs.replay`" in said
    without = round_(2, train={"trend": {"chosen_logprob": {"first": -9.0, "last": -9.0}}})
    assert warned(chosen(1, -1.0), without) == []


def test_pass_at_n_shrinks_while_pass_at_1_rises() -> None:
    before = round_(1, {"prompts_mixed": 90, "prompts_all_wrong": 10})
    narrow = {"verdicts": {"correct": 500, "wrong": 300, "distinct_answers": 150}}
    [said] = warned(before, round_(2, {"prompts_mixed": 76, "prompts_all_wrong": 24}, **narrow))
    assert "pass@N fell from 90.0 to 76.0 % while pass@1 rose from 50.0 to 62.5 %" in said
    assert "1.50 different answers a prompt instead of 3.00" in said and "`generate.temperature`" in said
    [said] = warned(before, round_(2, {"prompts_mixed": 76, "prompts_all_wrong": 24}))
    assert "fewer problems are solved by any sample" in said
    assert warned(before, round_(2, {"prompts_mixed": 84, "prompts_all_wrong": 16})) == []  # may be chance
    other_n = {"verdicts": {"correct": 800, "wrong": 800}}
    assert warned(before, round_(2, {"prompts_mixed": 76, "prompts_all_wrong": 24}, **other_n)) == []


def test_lengths_grow() -> None:
    assert warned(round_(1), round_(2, samples={"tokens": 20800})) == []
    [said] = warned(round_(1), round_(2, samples={"tokens": 20801}))
    assert "samples have grown from 20 to 26 tokens" in said and "`loss.beta`" in said
    few = {"samples": 40, "tokens": 4000}
    assert warned(round_(1), round_(2, samples=few)) == []
    [said] = warned(round_(1, evaluation={"test": evaluation(50, mean_tokens=28.0)}))
    assert "greedy answers have grown from 21 to 28 tokens" in said
    assert warned(round_(1, evaluation={"test": evaluation(20, 40, mean_tokens=28.0)})) == []


def test_pairs_run_dry() -> None:
    kinds = {"prompts_mixed": 12, "prompts_all_correct": 80, "prompts_all_wrong": 8}
    [said] = warned(round_(1, kinds))
    assert "only 12 % of the prompts give pairs, most others' samples are all right" in said and "`data.train`" in said
    assert warned(round_(1, kinds | {"prompts_mixed": 14})) == []  # 20 % are within its interval
    assert warned(round_(1, {"prompts_mixed": 1, "prompts_all_wrong": 9})) == []


def test_test_accuracy_falls() -> None:
    assert warned(round_(1, evaluation={"test": evaluation(32)})) == []
    [said] = warned(round_(1, evaluation={"test": evaluation(30)}))
    assert "test accuracy fell to 30.0 %" in said and "`promotion.rule: better`" in said
