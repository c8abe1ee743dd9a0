"""One verdict of several graders: what overrules what."""

from __future__ import annotations

import itertools

import pytest

from workers.graders import combine
from workers.graders.combine import build
from workers.graders.judgement import CORRECT, Judgement, unreadable

DEFAULT = ["exact", "number", "math"]
SAID = {
    "correct": CORRECT,
    "final": Judgement("wrong", "final", final=True),
    "wrong": Judgement("wrong", "wrong"),
    "weak": Judgement("wrong", "weak", weak=True),
    "unread": unreadable("unread"),
    "failed": Judgement("ungradable", "failed", failed=True),
    "gold": Judgement("ungradable", "gold"),
}


def _together(*names: str) -> Judgement:
    members = [("", lambda gold, answer, name=name: SAID[name]) for name in names]
    return combine._any_of(members)("7", "8")


@pytest.mark.parametrize(
    ("names", "verdict"),
    [
        (("weak", "gold"), "wrong"),
        (("weak", "unread"), "ungradable"),
        (("weak", "failed"), "ungradable"),
        (("weak", "unread", "wrong"), "wrong"),
        (("wrong", "unread"), "wrong"),
        (("wrong", "failed"), "ungradable"),
        (("final", "correct"), "wrong"),
        (("unread", "correct"), "correct"),
        (("failed", "final"), "wrong"),
        (("unread", "gold"), "ungradable"),
        (("gold",), "ungradable"),
    ],
)
def test_what_overrules_what(names: tuple[str, ...], verdict: str) -> None:
    assert _together(*names).verdict == verdict


def test_the_order_matters_for_nothing_but_final_and_correct() -> None:
    for names in itertools.combinations(["wrong", "weak", "unread", "failed", "gold"], 3):
        verdicts = {_together(*order).verdict for order in itertools.permutations(names)}
        assert len(verdicts) == 1, names


def test_an_abstention_says_why() -> None:
    both = _together("unread", "failed")
    assert both.unreadable
    assert both.failed
    assert both.reason == "unread; failed"
    assert not _together("gold").unreadable


def test_text_alone_is_evidence_where_no_other_grader_read_an_answer() -> None:
    assert build(["exact"])("7", "5 dozen eggs").verdict == "wrong"
    assert build(["exact", "number"])("7", "a multiple of 7").unreadable
    assert build(["exact", "number"])("Paris", "London").verdict == "wrong"
    assert build([{"all_of": ["exact", "number"]}])("7", "a multiple of 7").unreadable
    assert build([{"all_of": ["exact", "number"]}])("7", "7.0").verdict == "wrong"
    assert build([{"any_of": ["exact"]}, "number"])("7", "a multiple of 7").unreadable


def always(gold: str, answer: str) -> bool:
    return True


def test_an_ambiguous_number_is_settled_by_no_text_or_formula_but_left_to_others() -> None:
    for graders in (["number", "exact"], ["exact", "number", "math"], ["math"]):
        judgement = build(graders)("5", "5 dozen")
        assert judgement.unreadable
        assert not judgement.final
    asked = f"python:{__name__}:always"
    assert build(["number", asked])("5", "5 dozen").verdict == "correct"
    assert build([asked, "number"])("5", "5 dozen").verdict == "correct"


@pytest.mark.parametrize("pair", ["mW MW", "MW mW", "CO Co", "Pa PA", "AB ab", "pH ph"])
def test_case_that_means_something_is_overruled_by_no_formula(pair: str) -> None:
    gold, answer = pair.split()
    assert build(DEFAULT)(gold, answer).verdict == "wrong"
    assert build(DEFAULT)(gold, gold).verdict == "correct"


def test_case_and_articles_of_other_texts() -> None:
    assert build(DEFAULT)("a* b", "A* b").unreadable
    assert build(DEFAULT)("The Who", "A Who").verdict == "wrong"
    assert build(DEFAULT)("The Who", "Who").unreadable
    assert build(DEFAULT)("A minor", "minor").verdict != "correct"
    assert build(DEFAULT)("2X", "2x").verdict == "correct"  # an expression


@pytest.mark.parametrize("answer", ["B or C", "not B", "B and C"])
def test_several_options_and_a_denial_are_wrong_for_a_letter(answer: str) -> None:
    assert build(DEFAULT)("B", answer).verdict == "wrong"
