"""The pair rule of arXiv 2404.19733, section 2."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.rounds.pairing import (
    CORRECT,
    SCORES,
    WRONG,
    Candidate,
    PairChoice,
    PairingPlan,
    equations,
    is_decided,
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


def scored(*scores: float | None) -> list[Candidate]:
    return [Candidate(i, f"text {i}", score, num_tokens=10 + i) for i, score in enumerate(scores)]


def sides(pairs: list[PairChoice]) -> list[tuple[int | None, int | None]]:
    return [(p.chosen.sample_index, p.rejected.sample_index if p.rejected else None) for p in pairs]


def test_best_against_worst_is_one_pair_and_ties_make_none() -> None:
    plan = PairingPlan(4, "best_worst")
    assert sides(pair_prompt("p", scored(2.0, 4.5, None, 1.0, 3.0), plan)) == [(1, 3)]
    assert pair_prompt("p", scored(3.0, 3.0, None), plan) == []
    assert pair_prompt("p", scored(), plan) == []
    drawn = {sides(pair_prompt(f"p{i}", scored(1.0, 1.0, 0.0, 0.0), plan))[0] for i in range(64)}
    assert drawn == {(0, 2), (0, 3), (1, 2), (1, 3)}, "of equals a random one"


def test_a_text_has_one_score_however_often_it_was_drawn() -> None:
    candidates = [Candidate(0, "a", 5.0), Candidate(1, "b", 4.0), Candidate(2, "a", 1.0)]
    assert sides(pair_prompt("p", candidates, PairingPlan(1, "best_worst"))) == [(1, 0)]


def test_margin_pairs_whatever_is_far_enough_apart() -> None:
    candidates = scored(5.0, 3.0, 2.5)
    assert sides(pair_prompt("p", candidates, PairingPlan(9, "margin", margin=2.0))) == [(0, 1), (0, 2)]
    assert len(pair_prompt("p", candidates, PairingPlan(1, "margin", margin=2.0))) == 1


def test_the_longest_correct_one_meets_random_wrong_ones() -> None:
    candidates = scored(CORRECT, WRONG, CORRECT, WRONG, WRONG)
    found = [sides(pair_prompt(f"p{i}", candidates, PairingPlan(1, "longest_correct")))[0] for i in range(32)]
    assert {winner for winner, _ in found} == {2}
    assert {loser for _, loser in found} == {1, 3, 4}
    assert len(set(sides(pair_prompt("p", candidates, PairingPlan(8, "longest_correct"))))) == 3


def test_the_best_one_meets_random_lower_ones_as_one_group() -> None:
    plan = PairingPlan(2, "best_rest")
    found = [pair_prompt(f"p{i}", scored(2.0, 4.5, None, 1.0, 4.5, 3.0), plan) for i in range(64)]
    assert {pair.chosen.sample_index for pairs in found for pair in pairs} == {1, 4}, "of equals a random one"
    for number, pairs in enumerate(found):
        assert [pair.pair_id for pair in pairs] == [f"p{number}/0", f"p{number}/1"]
        assert {pair.group for pair in pairs} == {f"p{number}/0"}
        assert len({pair.chosen for pair in pairs}) == 1 and len({pair.rejected for pair in pairs}) == 2
    assert {sides(pairs)[0][1] for pairs in found} == {0, 3, 5}
    assert len(pair_prompt("p", scored(CORRECT, WRONG, CORRECT, WRONG), PairingPlan(8, "best_rest"))) == 2
    assert pair_prompt("p", scored(3.0, 3.0, None), plan) == [] == pair_prompt("p", scored(), plan)
    assert {pair.group for pair in pair_prompt("p", scored(CORRECT, WRONG), PairingPlan(2))} == {None}


def test_correct_samples_are_imitated_without_a_rejected_side() -> None:
    assert sides(pair_prompt("p", scored(WRONG, CORRECT, None, CORRECT), PairingPlan(8, "correct"))) == [
        (1, None),
        (3, None),
    ]
    assert sides(pair_prompt("p", scored(CORRECT, CORRECT, CORRECT), PairingPlan(2, "correct"))) == [
        (0, None),
        (1, None),
    ]


def test_unfiltered_samples_are_imitated_unless_they_were_cut_off() -> None:
    candidates = [*scored(WRONG, CORRECT, None), Candidate(3, "cut", None, ended=False), Candidate(4, " ", WRONG)]
    assert sides(pair_prompt("p", candidates, PairingPlan(8, "unfiltered"))) == [(0, None), (1, None), (2, None)]
    assert sides(pair_prompt("p", candidates[2:], PairingPlan(1, "unfiltered"))) == [(2, None)]
    assert not is_decided(candidates[3:], [], PairingPlan(1, "unfiltered"))
    assert is_decided(candidates, [], PairingPlan(3, "unfiltered"))


def test_one_solution_for_each_way_of_reckoning() -> None:
    texts = ("Step 1: 3 + 2 = 5\nFinal answer: 5", "We add: 3+2=5.", "2 + 3 = 5", "It is 5.", "It is 5.")
    candidates = [Candidate(i, text, CORRECT) for i, text in enumerate(texts)]
    plan = PairingPlan(9, "correct", distinct="equations")
    assert [p.chosen.sample_index for p in pair_prompt("p", candidates, plan)] == [0, 2, 3]
    plan = PairingPlan(9, "correct", distinct="text")
    assert [p.chosen.sample_index for p in pair_prompt("p", candidates, plan)] == [0, 1, 2, 3]
    assert equations("so $3 * (1,000 - 2) = $2,994.") == ("3*(1000-2)=2994",)
    assert equations("Ann has 12.\n3*4=12, which makes 12. 12 + 0.5 = 12.5") == ("3*4=12", "12+0.5=12.5")
    assert equations("1. 3+4 = 7\n2. 7 - -2 = 9 = 9") == ("3+4=7", "7--2=9")
    assert equations("half of 20 = 10, x = 5, 3 pens * 4 = 12") == ()
    assert equations("((2+3) * (4 + 1))/5 = 5 and <<50%*20=10>>10") == ("((2+3)*(4+1))/5=5", "50%*20=10")


def test_equations_are_found_in_no_time_in_text_that_is_all_but_one() -> None:
    for text in ("1" * 20_000, "1+" * 10_000, "(" * 20_000, "1,1 " * 5_000):
        assert equations(text) == ()


def test_only_the_gold_solution_wins_and_anything_may_lose() -> None:
    candidates = [*scored(CORRECT, WRONG, None), Candidate(None, "worked", CORRECT)]
    plan = PairingPlan(4, gold_as_chosen="only", rejected="any")
    assert sides(pair_prompt("p", candidates, plan)) == [(None, 0), (None, 1), (None, 0), (None, 1)]
    plan = PairingPlan(4, gold_as_chosen="only")
    assert sides(pair_prompt("p", candidates, plan)) == [(None, 1)] * 4


_GOLD = [Candidate(None, "worked", CORRECT)]
PLANS = st.builds(
    PairingPlan,
    per_prompt=st.integers(1, 3),
    rule=st.sampled_from(["zip", "correct"]),
    gold_as_chosen=st.sampled_from([False, True, "only"]),
    distinct=st.sampled_from(["none", "text"]),
)


@given(candidate_lists, candidate_lists, st.sampled_from([[], _GOLD]), PLANS, st.sampled_from(["wrong", "any"]))
def test_what_is_decided_no_further_sample_changes(
    before: list[Candidate], further: list[Candidate], gold: list[Candidate], plan: PairingPlan, rejected: str
) -> None:
    gold = gold if plan.gold_as_chosen else []
    if plan.gold_as_chosen == "only":
        plan = replace(plan, rejected=rejected)
    later = [replace(c, sample_index=len(before) + i) for i, c in enumerate(further)]
    if is_decided(before, gold, plan):
        assert pair_prompt("p", [*before, *gold], plan) == pair_prompt("p", [*before, *later, *gold], plan)


@given(candidate_lists, st.integers(1, 3), st.sampled_from(["zip", "correct"]))
def test_what_is_not_decided_some_further_samples_change(
    before: list[Candidate], per_prompt: int, rule: Literal["zip", "correct"]
) -> None:
    plan = PairingPlan(per_prompt, rule)
    more = [Candidate(len(before) + i, f"new {i}", WRONG if i % 2 else CORRECT) for i in range(8)]
    if not is_decided(before, [], plan):
        assert pair_prompt("p", before, plan) != pair_prompt("p", [*before, *more], plan)


@pytest.mark.parametrize("rule", ["best_worst", "margin", "longest_correct", "best_rest"])
def test_rules_that_choose_among_all_samples_decide_nothing_early(
    rule: Literal["best_worst", "margin", "longest_correct", "best_rest"],
) -> None:
    candidates = [Candidate(i, f"t{i}", WRONG if i % 2 else CORRECT) for i in range(8)]
    assert not is_decided(candidates, [], PairingPlan(1, rule))


def test_the_best_alone_is_imitated() -> None:
    """RAFT, arXiv 2304.06767, algorithm 1: of the same text the mean of its scores, of equals a random one."""
    plan = PairingPlan(4, rule="best")
    scored = [Candidate(0, "a", -2.0), Candidate(1, "b", 0.5), Candidate(2, "c", None), Candidate(3, " ", 9.0)]
    [pair] = pair_prompt("p", scored, plan)
    assert (pair.chosen.sample_index, pair.rejected) == (1, None)
    wavering = [*scored, Candidate(4, "b", -8.0)]
    assert pair_prompt("p", wavering, plan)[0].chosen.sample_index == 0
    equals = [Candidate(i, text, -1.0) for i, text in enumerate("abcd")]
    drawn = {pair_prompt(f"p{i}", equals, plan)[0].chosen.sample_index for i in range(40)}
    assert drawn == {0, 1, 2, 3}
    assert pair_prompt("p", scored[2:], plan) == [] and not is_decided(scored, [], plan)
