"""The forms of the preference term: what each declares, its numbers worked by hand, and its gradients over trees."""

from __future__ import annotations

import copy
import math
from typing import Any, get_args

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
import numpy as np  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from transformers import LlamaConfig, LlamaForCausalLM  # noqa: E402

from orchestrator.config import RoundLoss, forms  # noqa: E402
from workers.numerics import batching, layout  # noqa: E402
from workers.numerics.batching import PairTokens  # noqa: E402
from workers.numerics.logprobs import PackScorer  # noqa: E402
from workers.numerics.losses import FORMS, PairLogprobs, odds_margins, preference_loss_sum  # noqa: E402
from workers.numerics.step import BatchTotals, accumulate, mean_metrics  # noqa: E402

VOCAB = 53
OTHER = {"beta": 0.7, "smoothing": 0.2, "penalty": 3.0, "target_margin": 0.9, "score_scale": 2.0}
EVERY = sorted(FORMS)


def settings(form: str, **changes: Any) -> RoundLoss:
    given = {"beta": 0.3, "dpo": 1.0, "nll": 0.0, "form": form, "smoothing": 0.1, "penalty": 2.0, "target_margin": 0.5}
    given["score_scale"] = 0.8
    return RoundLoss(**(given | changes))  # type: ignore[arg-type]


def pairs(*values: float) -> PairLogprobs:
    """One pair: chosen and rejected under the policy, then under the reference; of 4 and 5 tokens, 1.5 points apart."""
    columns = [torch.tensor([value], dtype=torch.float64, requires_grad=True) for value in values]
    lengths = [torch.tensor([number], dtype=torch.float64) for number in (4, 5)]
    gap = torch.tensor([1.5], dtype=torch.float64)
    return PairLogprobs(*columns, chosen_length=lengths[0], rejected_length=lengths[1], score_gaps=gap)


def loss_of(example: PairLogprobs, form: str, **changes: Any) -> float:
    return FORMS[form].losses(example, settings(form, **changes)).item()


def sigmoid_loss(margin: float) -> float:
    return math.log1p(math.exp(-margin))


# Worked by hand: log-ratios +2 and -1; -3/4 and -7/5 nats a token, log-ratios of +2/4 and -1/5 a token.
EXAMPLE = (-3.0, -7.0, -5.0, -6.0)
TOLD = 1 / (1 + math.exp(-0.8 * 1.5))  # how often a coin says what the scores say
ODDS = -0.75 - math.log(1 - math.exp(-0.75)) + 1.4 + math.log(1 - math.exp(-1.4))


@pytest.mark.parametrize(
    ("form", "loss", "margin"),
    [
        ("sigmoid", 0.9 * sigmoid_loss(0.9) + 0.1 * sigmoid_loss(-0.9), 0.9),
        ("robust", (0.9 * sigmoid_loss(0.9) - 0.1 * sigmoid_loss(-0.9)) / 0.8, 0.9),
        ("squared", (2 - 1 / 0.6) ** 2 + (-1 + 1 / 0.6) ** 2, 0.9),
        ("ipo", (3 - 1 / 0.6) ** 2, 0.9),
        ("ipo_mean", (0.7 - 1 / 0.6) ** 2, 0.21),
        ("dpop", sigmoid_loss(0.9), 0.9),  # nothing is lost
        ("simpo", sigmoid_loss(0.3 * 0.65 - 0.5), 0.3 * 0.65),
        ("orpo", sigmoid_loss(ODDS), ODDS),
        ("softmax", sigmoid_loss(0.9), 0.9),  # of one rejected completion
        ("odpo", sigmoid_loss(0.9 - 0.8 * math.log(1.5)), 0.9),
        (
            "reward_aware",
            TOLD * (math.log(TOLD) + sigmoid_loss(0.9)) + (1 - TOLD) * (math.log(1 - TOLD) + sigmoid_loss(-0.9)),
            0.9,
        ),
        ("scaled", 0.8 * 1.5 * sigmoid_loss(0.9), 0.9),
    ],
)
def test_numbers_worked_by_hand(form: str, loss: float, margin: float) -> None:
    example = pairs(*EXAMPLE)
    assert loss_of(example, form) == pytest.approx(loss, rel=1e-12)
    sums = preference_loss_sum(example, settings(form, dpo=0.5, nll=0.7), num_pairs=1, num_tokens=4)
    assert sums.loss.item() == pytest.approx(0.5 * loss + 0.7 * 0.75)
    assert (sums.dpo.item(), sums.margin.item()) == pytest.approx((loss, margin))
    assert sums.accuracy.item() == 1


def test_dpop_takes_off_what_the_chosen_one_has_lost() -> None:
    """Log-ratios of -1 and -3: a margin of 0.6, of which 0.3 * 2 * 1 is taken."""
    example = pairs(-6.0, -9.0, -5.0, -6.0)
    assert loss_of(example, "dpop") == pytest.approx(math.log(2))
    assert loss_of(example, "dpop", penalty=0) == pytest.approx(sigmoid_loss(0.6))


def test_without_smoothing_cdpo_and_robust_dpo_are_dpo() -> None:
    for form in ("sigmoid", "robust"):
        assert loss_of(pairs(*EXAMPLE), form, smoothing=0) == pytest.approx(sigmoid_loss(0.9), rel=1e-12)


def test_robust_dpo_is_dpo_in_the_mean_over_wrong_labels() -> None:
    there, back = pairs(-3.0, -7.0, -5.0, -6.0), pairs(-7.0, -3.0, -6.0, -5.0)
    mean = 0.9 * loss_of(there, "robust") + 0.1 * loss_of(back, "robust")
    assert mean == pytest.approx(loss_of(there, "sigmoid", smoothing=0), rel=1e-12)


def test_where_policy_is_reference() -> None:
    same = pairs(-3.0, -7.0, -3.0, -7.0)
    for form in ("sigmoid", "robust", "dpop", "softmax"):
        assert loss_of(same, form) == pytest.approx(math.log(2))
    assert loss_of(same, "scaled") == pytest.approx(1.2 * math.log(2))
    for form in ("ipo", "ipo_mean"):
        assert loss_of(same, form) == pytest.approx(1 / (4 * 0.3**2))


def in_trl(form: str, p: PairLogprobs) -> Any:
    """What TRL 1.16 computes of a pair, from its text: DPOTrainer of `ipo` and `robust`, CPOTrainer of `simpo`,
    ORPOTrainer's odds ratio, which has beta before it."""
    beta, smoothing, gamma = 0.3, 0.1, 0.5
    chosen, rejected = p.chosen - p.reference_chosen, p.rejected - p.reference_rejected
    if form == "ipo_mean":
        return (chosen / p.chosen_length - rejected / p.rejected_length - 1 / (2 * beta)) ** 2
    if form == "robust":
        clean = -(1 - smoothing) * F.logsigmoid(beta * (chosen - rejected))
        flipped = -smoothing * F.logsigmoid(-beta * (chosen - rejected))
        return (clean - flipped) / (1 - 2 * smoothing)
    won, lost = p.chosen / p.chosen_length, p.rejected / p.rejected_length
    if form == "simpo":
        return -F.logsigmoid(beta * (won - lost - gamma / beta))
    if form == "orpo":
        return -F.logsigmoid((won - lost) - (torch.log1p(-torch.exp(won)) - torch.log1p(-torch.exp(lost))))
    assert form == "sigmoid"
    margin = beta * (chosen - rejected)
    return -F.logsigmoid(margin) * (1 - smoothing) - F.logsigmoid(-margin) * smoothing


@pytest.mark.parametrize("form", ["sigmoid", "robust", "ipo_mean", "simpo", "orpo"])
def test_values_and_gradients_are_those_of_trl(form: str) -> None:
    torch.manual_seed(1)
    columns = [(-20 * torch.rand(9, dtype=torch.float64)).requires_grad_() for _ in range(4)]
    lengths = [torch.randint(1, 12, (9,), dtype=torch.float64) for _ in range(2)]
    example = PairLogprobs(*columns, chosen_length=lengths[0], rejected_length=lengths[1])
    ours, theirs = FORMS[form].losses(example, settings(form)), in_trl(form, example)
    torch.testing.assert_close(ours, theirs)
    for found, wanted in zip(*(torch.autograd.grad(each.sum(), columns[:2]) for each in (ours, theirs)), strict=True):
        torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("form", EVERY)
def test_gradients_are_those_of_small_differences(form: str) -> None:
    old = (torch.tensor([-5.0]).double(), torch.tensor([-6.0]).double())

    def losses(chosen: Any, rejected: Any) -> Any:
        others = {"chosen_length": 4.0, "rejected_length": 5.0, "score_gaps": 1.5}
        known = {name: torch.tensor([value]).double() for name, value in others.items()}
        return FORMS[form].losses(PairLogprobs(chosen, rejected, *old, **known), settings(form))

    for chosen, rejected in ((-3.0, -7.0), (-6.0, -7.0), (-9.0, -4.0)):
        given = [torch.tensor([value], dtype=torch.float64, requires_grad=True) for value in (chosen, rejected)]
        assert torch.autograd.gradcheck(losses, given)


@pytest.mark.parametrize("form", EVERY)
def test_it_reads_what_it_declares_and_nothing_else(form: str) -> None:
    declared, example = forms.FORMS[form], pairs(-6.0, -7.0, -5.0, -6.5)
    before = loss_of(example, form)
    assert declared.reads_reference == (loss_of(pairs(-6.0, -7.0, -4.0, -9.0), form) != before)
    longer = copy.copy(example)
    object.__setattr__(longer, "rejected_length", torch.tensor([9.0]).double())
    assert (declared.scope == "mean") == (loss_of(longer, form) != before)
    further = copy.copy(example)
    object.__setattr__(further, "score_gaps", torch.tensor([2.5]).double())
    assert declared.reads_scores == (loss_of(further, form) != before)
    assert {
        key for key, value in OTHER.items() if loss_of(example, form, **{key: value}) != before
    } == declared.settings
    assert (declared.rows == "group") == (form == "softmax")


def test_all_forms_are_declared() -> None:
    assert tuple(forms.FORMS) == get_args(forms.FormName) and set(forms.FORMS) == set(FORMS)


def test_averages_need_the_lengths_of_both_sides() -> None:
    bare = PairLogprobs(*(torch.tensor([value]) for value in EXAMPLE), chosen_length=torch.tensor([4.0]))
    with pytest.raises(ValueError, match="needs `rejected_length`"):
        FORMS["simpo"].losses(bare, settings("simpo"))


def test_odds_of_what_is_certain_are_finite_and_so_are_their_gradients() -> None:
    example = pairs(0.0, -7000.0, 0.0, 0.0)
    odds_margins(example).sum().backward()
    assert math.isfinite(loss_of(example, "orpo"))
    assert example.chosen.grad.item() == 0.0
    assert example.rejected.grad.item() == pytest.approx(-1 / 5)


# Over trees


def tiny_model(seed: int) -> Any:
    torch.manual_seed(seed)
    sizes = {"vocab_size": VOCAB, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32, "initializer_range": 0.2}
    return LlamaForCausalLM(LlamaConfig(**sizes, **heads)).double()


def token_pairs() -> list[PairTokens]:
    """Three prompts, of two pairs each that share their chosen completion, with scores that differ."""
    rng = np.random.default_rng(4)

    def tokens() -> Any:
        return rng.integers(2, VOCAB, rng.integers(2, 12)).astype(np.int32)

    found = []
    for number in range(3):
        prompt, chosen = tokens(), tokens()
        found += [PairTokens(f"{number}/{k}", prompt, chosen, tokens(), score_gap=0.5 + number + k) for k in range(2)]
    return found


def padded_logprobs(model: Any, rows: list[tuple[Any, Any]]) -> Any:
    """Summed log-probabilities of completions after their prompts, in one padded batch."""
    longest = max(len(prompt) + len(completion) for prompt, completion in rows)
    ids, scored = torch.zeros(len(rows), longest, dtype=torch.long), torch.zeros(len(rows), longest, dtype=torch.bool)
    there = torch.zeros_like(ids)
    for row, (prompt, completion) in enumerate(rows):
        size = len(prompt) + len(completion)
        ids[row, :size] = torch.tensor([*prompt.tolist(), *completion.tolist()])
        there[row, :size], scored[row, len(prompt) : size] = 1, True
    logprobs = model(ids, attention_mask=there).logits[:, :-1].log_softmax(-1).gather(2, ids[:, 1:, None])[..., 0]
    return (logprobs * scored[:, 1:]).sum(1)


@pytest.mark.parametrize("form", EVERY)
def test_over_trees_it_is_what_plain_padded_torch_gives(form: str) -> None:
    policy, reference, given = tiny_model(1), tiny_model(2), token_pairs()
    ours, our_reference = PackScorer(copy.deepcopy(policy)), PackScorer(copy.deepcopy(reference))
    how = settings(form, nll=0.4)
    sides = [
        (pair.prompt, side) for side_of in ("chosen", "rejected") for pair in given for side in [getattr(pair, side_of)]
    ]
    chosen, rejected = padded_logprobs(policy, sides).chunk(2)
    with torch.no_grad():
        old = padded_logprobs(reference, sides).chunk(2)
    lengths = [torch.tensor([len(c) for _, c in sides[at : at + len(given)]]).double() for at in (0, len(given))]
    gaps = [pair.score_gap for pair in given]
    of_scores = torch.tensor(gaps).double()
    plain = PairLogprobs(chosen, rejected, *old, lengths[0], rejected_length=lengths[1], score_gaps=of_scores)
    expected = (FORMS[form].losses(plain, how) - 0.4 * chosen / lengths[0]).mean()
    expected.backward()

    (share,) = batching.divide_batch(given, range(len(given)), 40, 1)
    packs = [layout.micro_batch(trees, score_gaps=gaps) for trees in share]
    assert len(packs) > 1, "several micro-batches, or their sum is not tested"
    none = not forms.FORMS[form].reads_reference
    with torch.no_grad():
        batches = [(batch, torch.zeros(len(batch.keys)) if none else our_reference(batch.pack)) for batch in packs]
    totals = BatchTotals(len(given), sum(len(pair.chosen) for pair in given))
    sums = accumulate(ours, batches, how, totals, lambda loss: loss.backward())
    # Trees score in float32, whatever the model is in.
    assert sums.values[0].item() / len(given) == pytest.approx(expected.item(), rel=1e-6)
    wanted = dict(policy.named_parameters())
    for name, parameter in ours.model.named_parameters():
        assert (parameter.grad - wanted[name].grad).norm() < 1e-5 * wanted[name].grad.norm(), name


def test_a_form_of_scores_asks_for_them() -> None:
    bare = PairLogprobs(*(torch.tensor([value]) for value in EXAMPLE), chosen_length=torch.tensor([4.0]))
    for form in ("odpo", "reward_aware", "scaled"):
        with pytest.raises(ValueError, match="needs `score_gaps`"):
            FORMS[form].losses(bare, settings(form))


def test_reward_aware_is_least_where_the_margin_is_what_the_scores_say() -> None:
    """1.5 points at 0.8 nats a point are 1.2 nats, log-ratios 4 apart."""
    there = pairs(-3.0, -7.0, -5.0, -5.0)
    FORMS["reward_aware"].losses(there, settings("reward_aware")).backward()
    assert loss_of(there, "reward_aware") == pytest.approx(0, abs=1e-15)
    assert there.chosen.grad.item() == pytest.approx(0, abs=1e-15)
    for nearer, sign in ((-4.0, -1), (-2.0, 1)):
        other = pairs(nearer, -7.0, -5.0, -5.0)
        FORMS["reward_aware"].losses(other, settings("reward_aware")).backward()
        assert loss_of(other, "reward_aware") > 0 and math.copysign(1, other.chosen.grad.item()) == sign


def test_pairs_that_are_further_apart_pull_harder() -> None:
    for form in ("odpo", "reward_aware", "scaled"):
        slopes = []
        for gap in (0.5, 1.5, 4.0):
            example = pairs(-5.0, -6.0, -5.0, -6.0)
            object.__setattr__(example, "score_gaps", torch.tensor([gap]).double())
            FORMS[form].losses(example, settings(form)).backward()
            slopes.append(-example.chosen.grad.item())
        assert 0 < slopes[0] < slopes[1] < slopes[2], form


def test_what_is_preferred_is_told_without_a_reference_too() -> None:
    sums = dict.fromkeys(("loss", "dpo_loss", "nll_loss", "margin", "margin_size", "reward_accuracy"), 1.0)
    sums |= dict.fromkeys(("chosen_logprob", "rejected_logprob", "chosen_tokens", "rejected_tokens"), 1.0)
    sums |= {"pairs": 1.0, "tokens": 2.0}
    assert {"margin", "reward_accuracy", "dpo_loss"} <= mean_metrics(sums, compared=False).keys()
    assert not {"margin", "reward_accuracy", "dpo_loss"} & mean_metrics(sums, compared=False, preferred=False).keys()
