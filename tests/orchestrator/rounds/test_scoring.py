"""From rewards to scores, and how far they agree with verdicts."""

from __future__ import annotations

import math
import random

import pytest

from orchestrator.rounds.scoring import Rewarded, Scale, ScoringRule, Tally, figures, score


def sample(*rewards: float | None, right: bool | None = None, ended: bool = True, prompt: str = "p") -> Rewarded:
    return Rewarded(prompt, 0, rewards, right, ended)


def test_a_score_is_the_weighted_sum_on_each_models_own_scale() -> None:
    rule = ScoringRule((1.0, -0.5), verdict_weight=2.0)
    scales = [Scale(10.0, 2.0), Scale(0.0, 1.0)]
    assert score(sample(14.0, 3.0, right=True), rule, scales) == 2.0 - 1.5 + 2.0
    assert score(sample(14.0, 3.0, right=False), rule, scales) == 0.5


def test_who_lacks_what_counts_has_no_score() -> None:
    alone, weighed = ScoringRule((1.0, 1.0)), ScoringRule((1.0, 1.0), verdict_weight=0.1)
    usual = [Scale(), Scale()]
    assert score(sample(1.0, 2.0), alone, usual) == 3.0
    assert score(sample(1.0, 2.0), weighed, usual) is None, "the verdict counts, and there is none"
    assert score(sample(1.0, None), alone, usual) is None
    assert score(sample(1.0, 2.0, ended=False), alone, usual) is None


def test_the_scale_is_that_of_the_round_and_of_samples_that_ended() -> None:
    tally = Tally(2)
    tally.add([sample(1.0, 7.0), sample(3.0, 7.0), sample(100.0, 7.0, ended=False), sample(None, None)])
    assert tally.scales(ScoringRule((1.0, 1.0))) == [Scale(2.0, 1.0), Scale(7.0, 0.0)]
    assert tally.scales(ScoringRule((1.0, 1.0), normalisation="none")) == [Scale(), Scale()]
    assert Scale(7.0, 0.0).of(7.0) == 0.0, "a model that tells nothing apart adds nothing"
    assert Tally(1).scales(ScoringRule((1.0,))) == [Scale()]


def test_scores_are_in_the_order_of_one_models_rewards() -> None:
    draw = random.Random(1)
    rewards = [draw.gauss(50, 20) for _ in range(40)]
    tally = Tally(1)
    tally.add(sample(reward) for reward in rewards)
    rule = ScoringRule((0.3,))
    scores = [score(sample(reward), rule, tally.scales(rule)) for reward in rewards]
    assert sorted(range(40), key=lambda i: rewards[i]) == sorted(range(40), key=lambda i: scores[i] or 0.0)
    assert math.isclose(math.fsum(s or 0.0 for s in scores), 0.0, abs_tol=1e-9)


def test_agreement_is_the_area_under_the_curve_of_each_prompt() -> None:
    tally = Tally(1)
    tally.add(sample(reward, right=True, prompt="a") for reward in (0.9, 0.4))
    tally.add(sample(reward, right=False, prompt="a") for reward in (0.5, 0.4))
    tally.add([sample(1.0, right=True, prompt="b"), sample(0.0, right=False, prompt="b")])
    tally.add([sample(5.0, right=True, prompt="only right"), sample(9.0, prompt="no verdict")])
    [told] = tally.figures()
    assert told["agreement"] == pytest.approx((2.5 / 4 + 1) / 2), "of 0.4 and 0.4 a half"
    assert (told["prompts"], told["rewarded"]) == (2, 8)
    assert told["error"] == pytest.approx(0.1875 / math.sqrt(2))
    assert told["right"] == pytest.approx((0.9 + 0.4 + 1.0 + 5.0) / 4)
    assert told["wrong"] == pytest.approx((0.5 + 0.4 + 0.0) / 3)


def test_agreement_of_a_million_samples_that_are_said_to_be_of_one_prompt_takes_seconds() -> None:
    """Each right one against each wrong one, it took days."""
    sides = [float(n) for n in range(500_000)], [n + 0.5 for n in range(500_000)]
    assert figures([1.0], {"p": sides})["agreement"] == pytest.approx(0.499999, abs=1e-9)


def test_quantiles_lie_between_neighbours() -> None:
    told = figures([3.0, 1.0, 2.0, 4.0, 0.0], {})
    assert told["quantiles"] == {"5": pytest.approx(0.2), "25": 1.0, "50": 2.0, "75": 3.0, "95": pytest.approx(3.8)}
    assert told["deviation"] == pytest.approx(math.sqrt(2))
    assert figures([2.5], {})["quantiles"] == dict.fromkeys(told["quantiles"], 2.5)
    assert figures([], {}) == {"rewarded": 0}, "nothing is known of nothing"
