"""The pair rule of arXiv 2404.19733, section 2."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.pairing import (
    CORRECT,
    SCORES,
    WRONG,
    Candidate,
    PairChoice,
    PairingPlan,
    pair_prompt,
    random_subset,
    walk_together,
)

verdicts = st.sampled_from(["correct", "wrong", "ungradable"])
candidate_lists = st.lists(st.tuples(verdicts, st.sampled_from(["a", "b", "c", " ", ""])), max_size=12).map(
    lambda rows: [Candidate(i, text, SCORES[verdict]) for i, (verdict, text) in enumerate(rows)]
)


def test_lists_wrap_and_duplicates_are_kept() -> None:
    assert list(walk_together(["w1", "w2"], ["l1", "l2", "l3"], 7)) == [
        ("w1", "l1"), ("w2", "l2"), ("w1", "l3"), ("w2", "l1"), ("w1", "l2"), ("w2", "l3"), ("w1", "l1"),
    ]  # fmt: skip


def test_one_winner_meets_every_loser() -> None:
    candidates = [Candidate(0, "no", WRONG), Candidate(1, "yes", CORRECT), Candidate(2, "nope", WRONG)]
    pairs = pair_prompt("p", candidates, PairingPlan(4))
    assert [(p.chosen.sample_index, p.rejected.sample_index) for p in pairs] == [
        (1, 0),
        (1, 2),
        (1, 0),
        (1, 2),
    ]
    assert [p.pair_id for p in pairs] == ["p/0", "p/1", "p/2", "p/3"]


def test_gold_wins_where_nothing_else_does() -> None:
    candidates = [Candidate(0, "no", WRONG), Candidate(None, "worked solution", CORRECT)]
    assert [p.chosen.sample_index for p in pair_prompt("p", candidates, PairingPlan(2))] == [None, None]


@given(candidate_lists, st.integers(1, 20))
def test_pairs_are_what_the_rule_says(candidates: list[Candidate], per_prompt: int) -> None:
    pairs = pair_prompt("p", candidates, PairingPlan(per_prompt))
    winners = [c for c in candidates if c.score == CORRECT and c.text.strip()]
    losers = [c for c in candidates if c.score == WRONG and c.text.strip()]
    for pair in pairs:
        assert pair.chosen in winners
        assert pair.rejected in losers
        assert pair.chosen.text != pair.rejected.text
    walked = list(itertools.islice(zip(itertools.cycle(winners), itertools.cycle(losers), strict=False), per_prompt))
    assert [(p.chosen, p.rejected) for p in pairs] == [pair for pair in walked if pair[0].text != pair[1].text]
    assert len({p.pair_id for p in pairs}) == len(pairs)


def test_a_pair_checks_itself() -> None:
    right, wrong = Candidate(0, "x", CORRECT), Candidate(1, "x", WRONG)
    with pytest.raises(ValueError, match="same text"):
        PairChoice("p", 0, right, wrong)
    with pytest.raises(ValueError, match="higher score"):
        PairChoice("p", 0, Candidate(1, "y", WRONG), right)


@given(st.integers(0, 200), st.integers(1, 200), st.integers(0, 2**31 - 1))
def test_the_cap_draws_a_seeded_subset(count: int, cap: int, seed: int) -> None:
    kept = random_subset(count, cap, seed)
    if count <= cap:
        assert kept is None
    else:
        assert kept == sorted(set(kept or []))
        assert len(kept) == cap
        assert max(kept) < count
        assert kept == random_subset(count, cap, seed)
