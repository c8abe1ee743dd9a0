"""Equal as text: what does not count, and what does."""

from __future__ import annotations

import pytest

from workers.graders import exact


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        ("C++", "c++"),
        ("#FF0000", "#ff0000"),
        ("Straße", "STRASSE"),
        ("No", "NO"),
        ("f'(x)", "f′(x)"),
        ("東京", "東京。"),
        ("(ab)*", "(ab)*"),
        ("**bold**", "bold"),
        ("The Who", "the who"),
        ("cat", "a cat"),
        ("Pacific Ocean", "The Pacific Ocean"),
        ("2x-1", "2x - 1"),
        ("a", "A"),
    ],
)
def test_what_does_not_count(gold: str, answer: str) -> None:
    assert exact.grade(gold, answer).verdict == "correct"


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        ("Co", "CO"),
        ("5 MW", "5 mW"),
        ("2X", "2x"),
        ("A*", "A"),
        ("a*", "a+"),
        ("The Who", "Who"),
        ("A minor", "minor"),
        ("1 -1", "1-1"),
        ("re-sign", "resign"),
        ("C++", "C"),
        ("5 mHz", "5 MHz"),
        ("The Who", "A Who"),
        ("An Apple", "The Apple"),
        ("pH", "Ph"),
    ],
)
def test_what_counts(gold: str, answer: str) -> None:
    judgement = exact.grade(gold, answer)
    assert judgement.verdict == "wrong"
    assert judgement.weak
    assert not judgement.final
