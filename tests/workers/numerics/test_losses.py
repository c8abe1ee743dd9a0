"""The losses in closed form."""

from __future__ import annotations

import math

import pytest

torch = pytest.importorskip("torch")

from orchestrator.records.rows import LossWeights  # noqa: E402
from workers.numerics.losses import (  # noqa: E402
    PairLogprobs,
    dpo_losses,
    nll_sum,
    preference_loss_sum,
    reward_margins,
    squared_losses,
)
from workers.numerics.step import learning_rate, without_noise  # noqa: E402

BETA = 0.3


def pairs(chosen: object, rejected: object, reference_chosen: object, reference_rejected: object) -> PairLogprobs:
    values = [torch.as_tensor(v, dtype=torch.float64) for v in (chosen, rejected)]
    olds = [torch.as_tensor(v, dtype=torch.float64) for v in (reference_chosen, reference_rejected)]
    return PairLogprobs(*values, *olds, chosen_length=torch.full_like(values[0], 4.0))


def weights(**changes: object) -> LossWeights:
    return LossWeights(**({"beta": BETA, "dpo": 1.0, "nll": 1.0} | changes))  # type: ignore[arg-type]


def test_policy_equal_to_reference_gives_log_2() -> None:
    losses = dpo_losses(pairs([-3.0, -50.0], [-7.0, -2.0], [-3.0, -50.0], [-7.0, -2.0]), BETA)
    assert losses.tolist() == [math.log(2), math.log(2)]


def test_dpo_loss_is_that_of_the_paper_on_numbers_worked_by_hand() -> None:
    # Log-ratios +2 and -1: margin 0.3 * 3 = 0.9, loss log(1 + e^-0.9).
    example = pairs([-3.0], [-7.0], [-5.0], [-6.0])
    assert reward_margins(example, BETA).tolist() == pytest.approx([0.9])
    assert dpo_losses(example, BETA).tolist() == pytest.approx([math.log1p(math.exp(-0.9))])


def test_the_squared_form_on_numbers_worked_by_hand() -> None:
    # Log-ratios +2 and -1, pulled to +1/0.6 and -1/0.6.
    example = pairs([-3.0], [-7.0], [-5.0], [-6.0])
    expected = (2 - 1 / 0.6) ** 2 + (-1 + 1 / 0.6) ** 2
    assert squared_losses(example, BETA).tolist() == pytest.approx([expected])
    sums = preference_loss_sum(example, weights(form="squared", nll=0.0), num_pairs=1, num_tokens=4)
    assert float(sums.loss) == float(sums.dpo) == pytest.approx(expected)


def test_swapping_a_pair_flips_the_margin() -> None:
    there = reward_margins(pairs([-3.0], [-7.0], [-5.0], [-6.5]), BETA)
    back = reward_margins(pairs([-7.0], [-3.0], [-6.5], [-5.0]), BETA)
    assert there.item() == -back.item() != 0.0


def test_gradient_equals_the_one_derived_by_hand() -> None:
    """d loss / d log p(w) = -beta * sigmoid(-margin) - alpha / |w|, and + beta * sigmoid(-margin) for l."""
    example = pairs([-3.0, -4.0], [-7.0, -2.0], [-5.0, -4.5], [-6.0, -3.0])
    example.chosen.requires_grad_()
    example.rejected.requires_grad_()
    preference_loss_sum(example, weights(nll=0.7), num_pairs=2, num_tokens=8).loss.backward()
    slope = BETA * torch.sigmoid(-reward_margins(example, BETA).detach())
    torch.testing.assert_close(example.chosen.grad, -slope - 0.7 / 4)
    torch.testing.assert_close(example.rejected.grad, slope)


def test_the_two_normalisations_differ_as_in_the_worked_example() -> None:
    """Lengths 50 and 400 with 0.2 and 1.0 nats a token: 0.600 a sequence, 0.911 over all tokens."""
    lengths = torch.tensor([50.0, 400.0])
    logprobs = -torch.tensor([0.2, 1.0]) * lengths
    assert nll_sum(logprobs, lengths, "sequence", 2, 450).item() / 2 == pytest.approx(0.600, abs=1e-6)
    assert nll_sum(logprobs, lengths, "batch", 2, 450).item() / 2 == pytest.approx(0.911, abs=2e-4)


@pytest.mark.parametrize("normalisation", ["sequence", "batch"])
def test_micro_batches_add_up_to_the_batch(normalisation: str) -> None:
    torch.manual_seed(0)
    columns = [-10 * torch.rand(5, dtype=torch.float64) for _ in range(4)]
    lengths = torch.tensor([3.0, 7.0, 1.0, 9.0, 5.0], dtype=torch.float64)
    how = weights(nll_normalisation=normalisation)

    def loss(part: slice) -> float:
        return preference_loss_sum(PairLogprobs(*(c[part] for c in columns), lengths[part]), how, 5, 25).loss.item()

    assert loss(slice(0, 2)) + loss(slice(2, 5)) == pytest.approx(loss(slice(0, 5)), rel=1e-12)


def test_prompt_and_response_scope_is_the_first_version_of_the_paper() -> None:
    base = pairs([-3.0], [-7.0], [-5.0], [-6.0])
    example = PairLogprobs(
        base.chosen,
        base.rejected,
        base.reference_chosen,
        base.reference_rejected,
        base.chosen_length,
        prompt=torch.tensor([-9.0]),
        prompt_length=torch.tensor([6.0]),
    )
    sums = preference_loss_sum(example, weights(dpo=0.5, nll_scope="prompt+response"), 1, 10)
    assert sums.nll.item() == pytest.approx(12.0 / 10)
    assert sums.loss.item() == pytest.approx(0.5 * math.log1p(math.exp(-0.9)) + 1.2)
    with pytest.raises(ValueError, match="needs the log-probabilities of the prompts"):
        preference_loss_sum(base, weights(nll_scope="prompt+response"), 1, 10)


def test_a_term_of_weight_zero_takes_no_part() -> None:
    example = pairs([-3.0], [-math.inf], [-5.0], [-6.0])
    sums = preference_loss_sum(example, weights(dpo=0.0), 1, 4)
    assert sums.loss.item() == pytest.approx(0.75)


def test_accuracy_counts_positive_margins() -> None:
    sums = preference_loss_sum(pairs([-3.0, -5.0], [-7.0, -7.0], [-5.0, -4.0], [-6.0, -7.0]), weights(), 2, 8)
    assert sums.accuracy.item() == 1
    assert sums.margin.item() == pytest.approx(0.9 - 0.3)


def test_learning_rate_warms_up_from_zero_and_ends_where_told() -> None:
    rates = [learning_rate(step, 8, 1.0, "linear", 3, 0.2) for step in range(1, 9)]
    assert rates[:4] == pytest.approx([0.25, 0.5, 0.75, 1.0])
    assert rates[3:] == pytest.approx([1.0, 0.84, 0.68, 0.52, 0.36])
    assert learning_rate(9, 8, 1.0, "linear", 3, 0.2) == pytest.approx(0.2)
    assert learning_rate(3, 4, 2.0, "cosine", 0, 0.0) == pytest.approx(1.0)
    assert {learning_rate(step, 4, 2.0, "constant", 0, 0.0) for step in range(1, 5)} == {2.0}
    # A round of one step trains, and so does one that is all warm-up.
    assert learning_rate(1, 1, 1.0, "linear", 0, 0.0) == 1.0
    assert learning_rate(2, 2, 1.0, "cosine", 5, 0.0) == pytest.approx(1 / 3)


def test_reward_accuracy_is_left_out_while_margins_are_as_small_as_rounding_makes_them() -> None:
    metrics = {"loss": 0.7, "margin": 0.0, "margin_size": 0.01, "reward_accuracy": 0.19}
    assert without_noise(metrics, None) == metrics, "where policy and reference never were the same"
    assert "reward_accuracy" not in without_noise(metrics, 0.01), "the first step"
    assert "reward_accuracy" not in without_noise(metrics | {"margin_size": 0.019}, 0.01)
    assert without_noise(metrics | {"margin_size": 0.03}, 0.01)["reward_accuracy"] == 0.19
    assert "reward_accuracy" not in without_noise(metrics | {"margin_size": 0.0}, 0.0), "nothing is learned"
    assert without_noise({"loss": 0.7}, 0.01) == {"loss": 0.7}, "an imitation compares with nothing"
