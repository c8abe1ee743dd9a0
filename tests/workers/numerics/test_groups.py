"""Groups, one chosen completion with several rejected ones: the loss by hand, and whole however a batch is cut."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
import numpy as np  # noqa: E402
from hypothesis import given as drawn  # noqa: E402
from hypothesis import settings as how_often  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from tests.workers.numerics.test_batching import members  # noqa: E402
from tests.workers.numerics.test_forms import VOCAB, padded_logprobs, settings, tiny_model  # noqa: E402
from workers.numerics import batching, layout  # noqa: E402
from workers.numerics.batching import PairTokens  # noqa: E402
from workers.numerics.logprobs import PackScorer  # noqa: E402
from workers.numerics.losses import (  # noqa: E402
    FORMS,
    PairLogprobs,
    dpo_losses,
    preference_loss_sum,
    softmax_losses,
)
from workers.numerics.step import SUMS, BatchTotals, accumulate, mean_metrics  # noqa: E402

SIZES = (3, 1, 2)


def logprobs(*sizes: int, seed: int = 1) -> PairLogprobs:
    """Groups with so many rejected completions each."""
    torch.manual_seed(seed)

    def some(count: int) -> Any:
        return (-20 * torch.rand(count, dtype=torch.float64)).requires_grad_()

    chosen, rejected = len(sizes), sum(sizes)
    values = some(chosen), some(rejected), some(chosen), some(rejected)
    return PairLogprobs(*values, torch.full((chosen,), 4.0).double(), group_sizes=sizes)


def test_a_group_worked_by_hand() -> None:
    """Log-ratios +2 of the chosen, -1, +1 and +3 of the rejected: margins 0.9, 0.3 and -0.3 at beta 0.3."""
    columns = [torch.tensor(values).double() for values in ([-3.0], [-7.0, -4.0, -1.0], [-5.0], [-6.0, -5.0, -4.0])]
    group = PairLogprobs(*columns, torch.tensor([4.0]).double(), group_sizes=(3,))
    together = math.exp(-0.9) + math.exp(-0.3) + math.exp(0.3)
    expected = -math.log(1 / (1 + math.exp(math.log(together))))
    assert softmax_losses(group, 0.3).tolist() == pytest.approx([expected], rel=1e-12)
    # The same, as the chosen one's share of a softmax over all rewards.
    rewards = [0.3 * ratio for ratio in (2, -1, 1, 3)]
    assert expected == pytest.approx(-math.log(math.exp(rewards[0]) / sum(map(math.exp, rewards))), rel=1e-12)
    sums = preference_loss_sum(group, settings("softmax", dpo=0.5, nll=0.7), num_pairs=1, num_tokens=4)
    assert sums.loss.item() == pytest.approx(0.5 * expected + 0.7 * 0.75), "the chosen one is imitated once"
    assert (sums.margin.item(), sums.accuracy.item()) == (pytest.approx(-0.3), 0), "one is above the chosen one"


def test_with_one_rejected_completion_it_is_dpo_and_with_several_it_is_not() -> None:
    one = logprobs(1, 1, 1)
    torch.testing.assert_close(softmax_losses(one, 0.3), dpo_losses(one, 0.3))
    same = logprobs(4, 2)
    same = PairLogprobs(same.chosen, same.rejected, same.chosen, same.rejected, same.chosen_length, group_sizes=(4, 2))
    assert softmax_losses(same, 0.3).tolist() == pytest.approx([math.log(5), math.log(3)])


def test_the_gradient_is_that_of_the_paper() -> None:
    """-beta * sigmoid(log sum exp) on the chosen one's log-probability, shared out over the rejected ones by a softmax
    over their rewards: the likeliest gets most of it."""
    groups = logprobs(*SIZES)
    softmax_losses(groups, 0.3).sum().backward()
    rewards = 0.3 * (groups.rejected - groups.reference_rejected).detach()
    chosen = 0.3 * (groups.chosen - groups.reference_chosen).detach()
    for number, others in enumerate(rewards.split(SIZES)):
        pull = 0.3 * torch.sigmoid(torch.logsumexp(others - chosen[number], 0))
        torch.testing.assert_close(groups.chosen.grad[number], -pull)
        torch.testing.assert_close(groups.rejected.grad.split(SIZES)[number], pull * others.softmax(0))


def test_its_gradient_is_that_of_small_differences() -> None:
    groups = logprobs(*SIZES)
    columns = (groups.chosen, groups.rejected, groups.reference_chosen, groups.reference_rejected)
    lengths = groups.chosen_length

    def losses(*values: Any) -> Any:
        return FORMS["softmax"].losses(PairLogprobs(*values, lengths, group_sizes=SIZES), settings("softmax"))

    assert torch.autograd.gradcheck(losses, columns)


# Over trees


def token_pairs(sizes: tuple[int, ...] = (3, 1, 4), masked: bool = False) -> list[PairTokens]:
    """The pairs of groups with so many rejected completions, of a prompt each, and of a pair that is in none."""
    rng = np.random.default_rng(4)

    def tokens() -> Any:
        return rng.integers(2, VOCAB, rng.integers(3, 12)).astype(np.int32)

    found = []
    for number, size in enumerate(sizes):
        prompt, chosen = tokens(), tokens()
        mask = np.arange(len(chosen)) != 1 if masked else None
        found += [PairTokens(f"{number}/{k}", prompt, chosen, tokens(), mask, group=number) for k in range(size)]
    return [*found, PairTokens("alone/0", tokens(), tokens(), tokens())]


def test_pairs_become_groups() -> None:
    given = token_pairs()
    rows = batching.grouped(given)
    assert [row.pair_id for row in rows] == ["0/0", "1/0", "2/0", "alone/0"]
    assert [len(row.sides) - 1 for row in rows] == [3, 1, 4, 1]
    rejected = [completion.tokens.tolist() for row in rows for completion in row.sides[1:]]
    assert rejected == [pair.rejected.tolist() for pair in given]
    assert batching.grouped(rows) == rows
    other = PairTokens("0/9", given[0].prompt, given[1].rejected, given[0].rejected, group=0)
    with pytest.raises(ValueError, match="pair 0/9: its group has another prompt or chosen completion"):
        batching.grouped([given[0], other])


@drawn(st.lists(st.integers(1, 6), min_size=1, max_size=5), st.integers(4, 80), st.integers(1, 3))
@how_often(max_examples=60, deadline=None)
def test_a_group_is_in_exactly_one_pack(sizes: list[int], budget: int, ranks: int) -> None:
    rows = batching.grouped(token_pairs(tuple(sizes)))
    shares = batching.divide_batch(rows, range(len(rows)), budget, ranks)
    found = sorted(members([pack for share in shares for pack in share]), key=lambda member: member[0])
    whole = [[side.tokens.tolist() for side in row.sides] for row in rows]
    assert [(tag, sides) for tag, _, sides in found] == list(enumerate(whole))


def plain_loss(policy: Any, reference: Any, rows: list[PairTokens], how: Any) -> Any:
    """Mean over groups, of padded rows: one completion each, and the loss in a loop."""
    losses = []
    for row in rows:
        texts = [(row.prompt, side.tokens) for side in row.sides]
        new = padded_logprobs(policy, texts)
        with torch.no_grad():
            old = padded_logprobs(reference, texts)
        chosen, *rejected = how.beta * (new - old)
        total = torch.log(torch.stack([torch.exp(reward - chosen) for reward in rejected]).sum())
        losses.append(-torch.log(torch.sigmoid(-total)) - how.nll * new[0] / len(row.chosen))
    return torch.stack(losses).mean()


@pytest.mark.parametrize(("budget", "ranks"), [(10_000, 1), (40, 1), (10_000, 2), (40, 2), (1, 3)])
def test_over_trees_it_is_what_plain_padded_torch_gives_however_the_batch_is_cut(budget: int, ranks: int) -> None:
    policy, reference, rows = tiny_model(1), tiny_model(2), batching.grouped(token_pairs())
    ours, our_reference = PackScorer(copy.deepcopy(policy)), PackScorer(copy.deepcopy(reference))
    how = settings("softmax", nll=0.4)
    expected = plain_loss(policy, reference, rows, how)
    expected.backward()

    shares = batching.divide_batch(rows, range(len(rows)), budget, ranks)
    packs = [layout.micro_batch(trees) for share in shares for trees in share]
    assert len(packs) >= min(ranks, 2) and (budget > 1000 or len(packs) > 2)
    with torch.no_grad():
        batches = [(batch, our_reference(batch.pack)) for batch in packs]
    totals = BatchTotals(len(rows), sum(len(row.chosen) for row in rows))
    sums = accumulate(ours, batches, how, totals, lambda loss: loss.backward())
    assert sums.values[0].item() / len(rows) == pytest.approx(expected.item(), rel=1e-6)
    wanted = dict(policy.named_parameters())
    for name, parameter in ours.model.named_parameters():
        assert (parameter.grad - wanted[name].grad).norm() < 1e-5 * wanted[name].grad.norm(), name


def test_metrics_are_means_over_groups() -> None:
    models, rows = (tiny_model(1), tiny_model(2)), batching.grouped(token_pairs())
    policy, reference = (PackScorer(copy.deepcopy(model)) for model in models)
    (share,) = batching.divide_batch(rows, range(len(rows)), 40, 1)
    with torch.no_grad():
        batches = [(batch, reference(batch.pack)) for batch in map(layout.micro_batch, share)]
        totals = BatchTotals(len(rows), sum(len(row.chosen) for row in rows))
        sums = accumulate(policy, batches, settings("softmax"), totals, lambda loss: None)
        told = mean_metrics(dict(zip(SUMS, sums.values.tolist(), strict=True)))
        texts = [[(row.prompt, side.tokens) for side in row.sides] for row in rows]
        new, old = ([padded_logprobs(model, group) for group in texts] for model in models)
    assert told["pairs"] == len(rows) == 4
    assert told["chosen_logprob"] == pytest.approx(np.mean([group[0].item() for group in new]), rel=1e-5)
    assert told["rejected_logprob"] == pytest.approx(np.mean([group[1:].mean().item() for group in new]), rel=1e-5)
    lengths = np.mean([np.mean([len(side) for side in row.sides[1:]]) for row in rows])
    assert told["rejected_logprob_per_token"] == pytest.approx(told["rejected_logprob"] / lengths)
    ratios = [0.3 * (a - b) for a, b in zip(new, old, strict=True)]
    margins = [(group[0] - group[1:].max()).item() for group in ratios]
    assert told["margin"] == pytest.approx(np.mean(margins), rel=1e-4)
    assert told["reward_accuracy"] == np.mean([margin > 0 for margin in margins])


def test_masks_hold_in_groups() -> None:
    rows = batching.grouped(token_pairs(masked=True))
    (share,) = batching.divide_batch(rows, range(len(rows)), 10_000, 1)
    batch = layout.micro_batch(share[0])
    wanted = {number: len(row.chosen) - (row.group is not None) for number, row in enumerate(rows)}
    assert dict(zip(batch.rows, batch.chosen_lengths.tolist(), strict=True)) == wanted
    assert sum(batch.group_sizes) == len(batch.rejected) == 9
