"""The gate and its statistics, against scipy, sums by hand, published figures and symmetry."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from orchestrator.records.statistics import mcnemar_p_value, paired_interval, smallest_detectable_drop, wilson_interval
from orchestrator.rounds.gate import decide

counts = st.integers(0, 60)


def answers(won: int, lost: int, both: int = 0, neither: int = 0) -> tuple[dict[str, bool], dict[str, bool]]:
    """Reference and candidate, with so many problems of each kind."""
    kinds = [(False, True)] * won + [(True, False)] * lost
    kinds += [(True, True)] * both + [(False, False)] * neither
    return {str(i): r for i, (r, _) in enumerate(kinds)}, {str(i): c for i, (_, c) in enumerate(kinds)}


@given(counts, counts)
def test_p_value_is_the_binomial_tail(won: int, lost: int) -> None:
    n = won + lost
    tail = Fraction(sum(math.comb(n, k) for k in range(won, n + 1)), 2**n)
    assert mcnemar_p_value(won, lost) == float(tail)


DISCORDANT = [
    *((won, lost) for won in range(13) for lost in range(13)),
    (44, 11),
    (130, 170),
    (5100, 4900),
    (10**5, 99_000),
]


@pytest.mark.parametrize(("won", "lost"), [pair for pair in DISCORDANT if sum(pair)])
def test_p_value_is_scipys(won: int, lost: int) -> None:
    expected = binomtest(won, won + lost, alternative="greater").pvalue
    assert mcnemar_p_value(won, lost) == pytest.approx(expected, rel=1e-9, abs=1e-300)


@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.95, 0.999])
@pytest.mark.parametrize("problems", [1, 2, 7, 100, 640, 10**6])
def test_wilson_interval_is_scipys(problems: int, confidence: float) -> None:
    for correct in {0, 1, problems // 3, problems // 2, problems - 1, problems}:
        expected = binomtest(correct, problems).proportion_ci(confidence, method="wilson")
        assert wilson_interval(correct, problems, confidence) == pytest.approx(tuple(expected), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("chances", [(0.1, 0.1), (0.2, 0.05), (0.02, 0.02), (0.4, 0.1)])
def test_the_paired_interval_covers_what_it_says(chances: tuple[float, float]) -> None:
    """Over all outcomes of 40 problems, weighted by their chances, it holds the true difference about 95 times of 100;
    never much less, which is what the adjustment is for."""
    n, (p, q) = 40, chances
    held = 0.0
    for won in range(n + 1):
        for lost in range(n + 1 - won):
            ways = math.comb(n, won) * math.comb(n - won, lost)
            low, high = paired_interval(won, lost, n)
            held += ways * p**won * q**lost * (1 - p - q) ** (n - won - lost) * (low <= p - q <= high)
    assert 0.93 < held <= 1


@given(counts, counts, counts)
def test_the_paired_interval_knows_no_side(won: int, lost: int, others: int) -> None:
    n = won + lost + others
    low, high = paired_interval(won, lost, n)
    assert (low, high) == pytest.approx(tuple(-bound for bound in reversed(paired_interval(lost, won, n))))
    assert -1 <= low < high <= 1
    if n:
        assert low <= (won - lost) / n <= high


def test_the_paired_interval_of_no_problems_and_of_impossible_counts() -> None:
    assert paired_interval(0, 0, 0) == (-1, 1)
    for impossible in ((-1, 0, 3), (2, 2, 3)):
        with pytest.raises(ValueError, match="cannot be of 3 problems"):
            paired_interval(*impossible)


@pytest.mark.parametrize("alpha", [0.2, 0.05, 0.01, 1e-6])
def test_smallest_detectable_drop_is_scipys(alpha: float) -> None:
    for problems in (1, 4, 5, 19, 400):
        lost = (n for n in range(1, problems + 1) if binomtest(n, n, alternative="greater").pvalue <= alpha)
        least = next(lost, None)
        assert smallest_detectable_drop(problems, alpha) == (None if least is None else least / problems)


def test_p_value_by_hand() -> None:
    assert mcnemar_p_value(5, 0) == 1 / 32
    assert mcnemar_p_value(3, 1) == 5 / 16
    assert mcnemar_p_value(0, 0) == 1.0
    assert mcnemar_p_value(0, 9) == 1.0


def test_p_value_of_thousands_of_discordant_problems() -> None:
    # The tail of 10,000 fair coins at 5,100, by the normal approximation with continuity correction.
    z = (5100 - 0.5 - 5000) / math.sqrt(2500)
    assert mcnemar_p_value(5100, 4900) == pytest.approx(0.5 * math.erfc(z / math.sqrt(2)), rel=1e-3)
    assert mcnemar_p_value(20_000, 0) == 0.0  # below the smallest float, and no error
    assert mcnemar_p_value(0, 20_000) == 1.0


@given(counts, counts)
def test_p_values_of_both_sides_share_the_middle(won: int, lost: int) -> None:
    n = won + lost
    both = mcnemar_p_value(won, lost) + mcnemar_p_value(lost, won)
    assert both == pytest.approx(1 + math.comb(n, won) / 2**n)


def test_wilson_interval_by_hand() -> None:
    # Newcombe 1998, table I: 81 of 263 and 15 of 148; 0 of 20.
    assert wilson_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson_interval(15, 148) == pytest.approx((0.0624, 0.1605), abs=5e-5)
    assert wilson_interval(0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)
    assert wilson_interval(0, 0) == (0.0, 1.0)
    with pytest.raises(ValueError, match="3 of 2"):
        wilson_interval(3, 2)


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_interval_holds_the_share_and_mirrors(case: tuple[int, int]) -> None:
    correct, n = case
    low, high = wilson_interval(correct, n)
    assert 0 <= low <= correct / n <= high <= 1
    mirrored = wilson_interval(n - correct, n)
    assert mirrored == pytest.approx((1 - high, 1 - low))


@given(st.integers(1, 300), st.floats(1e-4, 0.5))
def test_smallest_detectable_drop_is_where_the_gate_turns(n: int, alpha: float) -> None:
    drop = smallest_detectable_drop(n, alpha)
    lost = n + 1 if drop is None else round(drop * n)
    if drop is not None:
        assert not decide("not_worse", alpha, *answers(0, lost, both=n - lost)).promoted
    assert decide("not_worse", alpha, *answers(0, lost - 1, both=n - lost + 1)).promoted


def test_not_worse_accepts_noise_and_refuses_a_clear_loss() -> None:
    noise = decide("not_worse", 0.05, *answers(10, 14, both=50, neither=26))
    assert noise.promoted and noise.won == 10 and noise.lost == 14
    assert noise.p_value == mcnemar_p_value(14, 10)
    loss = decide("not_worse", 0.05, *answers(5, 20, both=50, neither=25))
    assert not loss.promoted and loss.p_value < 0.05
    assert "significantly worse" in loss.reason and "20 lost" in loss.reason
    assert loss.smallest_detectable_drop == 0.05  # 5 of 100 problems


def test_better_needs_evidence() -> None:
    assert not decide("better", 0.05, *answers(0, 0, both=100)).promoted
    assert not decide("better", 0.05, *answers(14, 10)).promoted
    clear = decide("better", 0.05, *answers(20, 5))
    assert clear.promoted and clear.p_value == mcnemar_p_value(20, 5)


def test_always_accepts_and_still_reports() -> None:
    decision = decide("always", 0.05, *answers(0, 40))
    assert decision.promoted and decision.lost == 40 and decision.p_value < 1e-9


def test_alpha_itself_is_significant() -> None:
    # 4 lost, none won: p is 1/16 exactly.
    assert not decide("not_worse", 1 / 16, *answers(0, 4)).promoted
    assert decide("not_worse", 1 / 16 - 1e-9, *answers(0, 4)).promoted


@given(st.sampled_from(["not_worse", "better"]), counts, counts, counts)
def test_problems_that_both_solve_or_miss_decide_nothing(rule: str, won: int, lost: int, same: int) -> None:
    few = decide(rule, 0.05, *answers(won, lost, both=1))  # type: ignore[arg-type]
    many = decide(rule, 0.05, *answers(won, lost, both=1 + same, neither=same))  # type: ignore[arg-type]
    assert (few.promoted, few.p_value) == (many.promoted, many.p_value)


def test_other_problems_are_refused() -> None:
    with pytest.raises(ValueError, match="same gate problems"):
        decide("not_worse", 0.05, {"a": True}, {"a": True, "b": True})
    with pytest.raises(ValueError, match="no problems"):
        decide("not_worse", 0.05, {}, {})
