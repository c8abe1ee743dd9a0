"""Answers in steps: where they are cut, and how the first wrong one is found."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.localisation import Noise, locate, measure
from orchestrator.sources.steps.answers import Answer, BinarySearch, LinearScan, is_right, linear_probes, split

OPENING = "Let's think step by step.\nStep 1:"
TEXT = " 6 + 2 = 8\nStep 2: 8 * 2 = 18\n\nStep 3: done\nFinal answer: 18\n"


def texts(opening: str, text: str, how: str = "markers") -> list[str]:
    return [text[step.begin : step.end] for step in split(opening, text, how)]


def answer(tokens: list[str], opening: str = OPENING) -> Answer:
    """An answer of which the tokens are known; "" is one that shows no text, as EOS."""
    ends, length = [], 0
    for token in tokens:
        length += len(token)
        ends.append(length)
    return Answer(opening, "".join(tokens), ends)


def test_steps_by_the_methods_markers() -> None:
    assert texts(OPENING, TEXT) == [" 6 + 2 = 8", " 8 * 2 = 18", " done\nFinal answer: 18"]


def test_the_first_marker_may_stand_in_the_text() -> None:
    assert texts("Let us think.\n", "Step 1: a\nStep 2: b") == [" a", " b"]
    assert texts("", "Well.\nStep 1: a") == ["Well.", " a"]
    assert texts("Step", " 1: a\nStep 2: b") == [" a", " b"]  # half of it in the opening


def test_a_step_that_is_only_mentioned_begins_none() -> None:
    assert texts(OPENING, " as in Step 4: no\nSteps 5: no\nStep 2 is next") == [
        " as in Step 4: no\nSteps 5: no\nStep 2 is next"
    ]


def test_steps_by_lines() -> None:
    assert texts("Step 1:", " 6 + 2 = 8\n\n  \nso 8\n", "lines") == [" 6 + 2 = 8", "so 8"]
    assert texts("Reasoning:\n", "a\nb", "lines") == ["a", "b"]


def test_steps_by_a_pattern() -> None:
    how = r"pattern:(?m)^(?:Step \d+|Final answer):"
    assert texts(OPENING, " 1 + 1 = 2\nFinal answer: 2", how) == [" 1 + 1 = 2", " 2"]


@given(
    st.text("ab \nStep123:", max_size=60), st.sampled_from(["", OPENING, "x\n"]), st.sampled_from(["markers", "lines"])
)
def test_steps_lie_in_the_text_one_behind_the_other(text: str, opening: str, how: str) -> None:
    steps = split(opening, text, how)
    assert steps and steps[-1].stop == len(text)
    places = [place for step in steps for place in step]
    assert all(0 <= place <= len(text) for place in places)
    assert places == sorted(places)


def test_a_prefix_ends_behind_the_next_marker_and_a_step_before_the_white_space() -> None:
    tokens = [" 6", " +", " 2", "\n", "Step", " 2", ":", " 8", "\n", ""]
    found = answer(tokens)
    assert [found.prefix_tokens(right) for right in (0, 1, 2)] == [0, 7, 10]
    assert [found.step_tokens(number) for number in (1, 2)] == [3, 8]  # neither the line's end nor EOS


def test_a_token_that_reaches_beyond_a_boundary_is_left_out() -> None:
    found = answer([" 6", ".\n\n", "Step", " 2: so", " 8"])
    assert found.prefix_tokens(1) == 3  # "Step", since " 2: so" is more than the marker
    assert found.step_tokens(1) == 2  # the line's end belongs to the token of the full stop
    assert answer([" 6.\nStep", " 2:", " 8"]).step_tokens(1) == 0


def test_half_a_character_is_left_out() -> None:
    euro = answer(["a", "", "", "€", "\nStep 2:", " b"])  # of three tokens, the last one completes it
    assert euro.step_tokens(1) == 4
    cut_before = Answer(OPENING, "a€\nStep 2: b", [1, 1, 1, 2 + 9, 12])
    assert cut_before.step_tokens(1) == 1


@given(st.integers(1, 64), st.data())
def test_without_noise_both_searches_find_the_first_wrong_step(num_steps: int, data: st.DataObject) -> None:
    truth = data.draw(st.integers(1, num_steps))
    exact = Noise(1.0, 0.0, 1, 0.5)
    binary, probes = locate(BinarySearch(num_steps), truth, exact, random.Random(0))
    linear, scanned = locate(LinearScan(num_steps), truth, exact, random.Random(0))
    assert binary == linear == truth
    assert probes <= math.ceil(math.log2(num_steps))
    assert scanned == len(linear_probes(num_steps, truth))


@given(st.integers(2, 40), st.lists(st.booleans(), min_size=40, max_size=40))
def test_whatever_it_is_told_a_binary_search_ends_between_a_right_and_a_wrong_prefix(
    num_steps: int, replies: list[bool]
) -> None:
    search, told = BinarySearch(num_steps), {0: True, num_steps: False}
    for reply in replies:
        if (prefix := search.probe()) is None:
            break
        assert prefix not in told
        told[prefix] = reply
        search.tell(reply)
    assert search.probe() is None
    assert told[search.first_wrong] is False and told[search.first_wrong - 1] is True


@given(st.sampled_from([BinarySearch, LinearScan]), st.integers(1, 24), st.data())
def test_a_search_with_prefixes_that_say_nothing_is_right_or_undecided(
    kind: type[BinarySearch | LinearScan], num_steps: int, data: st.DataObject
) -> None:
    truth = data.draw(st.integers(1, num_steps))
    silent = data.draw(st.sets(st.integers(1, num_steps)))
    search, asked = kind(num_steps), []
    while (prefix := search.probe()) is not None:
        asked.append(prefix)
        search.tell(None if prefix in silent else prefix < truth)
    assert len(set(asked)) == len(asked) and all(1 <= prefix < num_steps for prefix in asked)
    # The steps before and behind the first wrong one decide, and of these those that were not sampled are known.
    decided = all(prefix in (0, num_steps) or prefix not in silent for prefix in (truth - 1, truth))
    assert search.first_wrong == (truth if decided else None)


def test_a_scan_takes_a_prefix_that_says_nothing_for_right_where_the_next_one_is() -> None:
    scan = LinearScan(4)
    for reply in (True, None, True):
        scan.tell(reply)
    assert scan.first_wrong == 4


@pytest.mark.parametrize(
    ("correct", "judged", "drawn", "right"),
    [(2, 4, 8, True), (1, 5, 8, False), (2, 3, 8, None), (0, 0, 8, None), (0, 4, 8, False), (3, 3, 8, None)],
)
def test_rollouts_without_a_verdict_leave_numerator_and_denominator(
    correct: int, judged: int, drawn: int, right: bool | None
) -> None:
    assert is_right(correct, judged, drawn, 0.4) is right


def test_with_noise_binary_search_is_nearly_as_accurate_and_far_cheaper() -> None:
    noise = Noise(solves=0.7, recovers=0.05, rollouts=8, threshold=0.25)
    binary, linear = (measure(kind, 16, noise, 2000, seed=1) for kind in ("binary", "linear"))
    assert binary["accuracy"] > 0.8 and linear["accuracy"] > 0.8
    assert abs(binary["accuracy"] - linear["accuracy"]) < 0.1
    assert binary["rollouts"] < linear["rollouts"] / 1.9


@pytest.mark.parametrize(
    ("correct", "drawn", "threshold", "right"),
    [(2, 8, 0.25, True), (1, 8, 0.25, False), (1, 8, 0.01, True), (0, 8, 0.01, False), (7, 100, 0.07, True)],
)
def test_a_prefix_is_right_when_enough_rollouts_are(correct: int, drawn: int, threshold: float, right: bool) -> None:
    assert is_right(correct, drawn, drawn, threshold) is right
