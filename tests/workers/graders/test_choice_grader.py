"""Which option an answer names, and the doubts that keep it from naming one."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.graders import choice
from workers.graders.reading.options import MAX_LENGTH, Option, parse

CASES = [json.loads(line) for line in (Path(__file__).parent / "choice_cases.jsonl").read_text("utf-8").splitlines()]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['gold']}|{case['answer']}")
def test_labelled_choices(case: dict[str, str]) -> None:
    judgement = choice.grade(case["gold"], case["answer"])
    assert judgement.verdict == case["label"], parse(case["answer"])
    if judgement.verdict == "ungradable":  # an abstention is the answer's doing, unless the gold cannot be read
        assert judgement.unreadable == (choice.gold_kind(case["gold"]) is not None)


@pytest.mark.parametrize("letter", "ABCDEFGHIJKLMNOP")
def test_every_letter_is_read_alike(letter: str) -> None:
    other = "C" if letter != "C" else "D"
    for form in (
        "{}",
        "({})",
        "{}.",
        "{}) 5 MeV",
        "The answer is {}",
        "Option {}",
        "It's ({}).",
        "{} is correct",
        "not {1}, {0}",
    ):
        assert choice.grade(letter, form.format(letter, other)).verdict == "correct", form
    for form in (
        "{1}",
        "({1})",
        "{0} or {1}",
        "{0} and {1}",
        "({0})({1})",
        "not {0}",
        "{0} is wrong",
        "{1} rather than {0}",
        "The answer is not {0}",
        "({0}) or ({1})",
        "It isn't {0}.",
    ):
        assert choice.grade(letter, form.format(letter, other)).verdict == "wrong", form
    for form in ("{}, I think", "maybe {}", "{}?", "{} dogs", "could be {}", "{}y", "{}1"):
        assert choice.grade(letter, form.format(letter)).verdict == "ungradable", form


def test_what_a_text_says_of_options() -> None:
    assert parse("The correct answer is (b) Paris.") == Option("chosen", ("B",), "paris")
    assert parse("Paris") == Option("chosen", (), "paris")
    assert parse("A and C") == Option("several", ("A", "C"), joined=True)
    assert parse("A or C") == Option("several", ("A", "C"))
    assert parse("B is wrong") == Option("denied", ("B",))
    assert parse("I cannot choose").stance == "refused"
    assert parse("B, I think").stance == "unclear"
    assert parse("x" * (MAX_LENGTH + 1)).stance == "unclear"
    assert parse("").stance == "unclear"


@pytest.mark.parametrize(
    ("gold", "kind"),
    [
        *(("A", "letter"), ("(j)", "letter"), ("B) Paris", "letter"), ("II", "letter"), ("The answer is C", "letter")),
        *(("0", "number"), ("3", "number"), ("(2)", "number"), ("10", "number")),
        *(("A and C", "several"), ("A, C", "several"), ("ACE", "several")),
        *(("Paris", "text"), ("yes", "text"), ("A positive", "text"), ("Not enough information", "text")),
        *(("I don't know", "text"), ("3.5 m", "text"), ("", None), ("A or B", None), ("A/B", None), ("$ $", None)),
    ],
)
def test_how_a_gold_answer_is_read(gold: str, kind: str | None) -> None:
    assert choice.gold_kind(gold) == kind
    if kind is None:
        judgement = choice.grade(gold, "A")
        assert judgement.verdict == "ungradable" and not judgement.unreadable
    else:
        assert choice.grade(gold, gold).verdict == "correct"


def test_an_index_as_gold_makes_no_letter_wrong() -> None:
    # 0 to 3 for A to D, as in MMLU: 1 may be A or B, so that a letter is no evidence.
    for gold in "0123":
        for answer in ("A", "(B)", "C) Paris", "The answer is D"):
            assert choice.grade(gold, answer).unreadable


_WORDS = re.findall(
    r"\S+",
    "A B C (A) B) a I I, i II 2 0 (1) not or and is are wrong right correct the answer option both either neither no "
    "true because , . ; : ? ! — / & but maybe I'd it It's yes false Paris all none above only \\text{ } $ ** language",
)


@settings(max_examples=400, deadline=None)
@given(st.lists(st.sampled_from(_WORDS), max_size=9).map(" ".join))
def test_any_words_have_a_verdict_and_are_equal_to_themselves(words: str) -> None:
    for gold in ("B", "yes", "Paris", "2"):
        judgement = choice.grade(gold, words)
        assert (judgement.reason is None) == (judgement.verdict == "correct")
    if choice.gold_kind(words) == "text":
        assert choice.grade(words, words).verdict == "correct"


@pytest.mark.parametrize(
    "piece", ["B or ", "A and ", "(A)", "not ", "the answer ", "B, not C ", ": ", "。", "because ", "only ", "best "]
)
def test_long_texts_are_read_in_little_time(piece: str) -> None:
    # A nested repetition would try 2^100 ways.
    for text in (piece * (MAX_LENGTH // len(piece)), "B is " + piece * (900 // len(piece)) + "x", piece * 100_000):
        choice.grade("B", text)
        choice.grade("yes", text)
