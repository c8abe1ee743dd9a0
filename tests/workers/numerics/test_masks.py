"""Completions of which some tokens are not the model's own: against one sequence at a time, token by token."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
import numpy as np  # noqa: E402
from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from orchestrator.config import RoundLoss  # noqa: E402
from tests.workers.numerics.test_logprobs import VOCAB, gradients, make_model, random_pairs, references  # noqa: E402
from workers.numerics import batching, layout  # noqa: E402
from workers.numerics.batching import Completion, PairTokens  # noqa: E402
from workers.numerics.logprobs import PackScorer  # noqa: E402
from workers.numerics.step import SUMS, BatchTotals, accumulate, mean_metrics  # noqa: E402


def masked(pairs: list[PairTokens], seed: int) -> list[PairTokens]:
    """Two of three sides get a mask at random. Pairs of a prompt share sides, which so get different ones."""
    rng = np.random.default_rng(seed)

    def mask(side: Any) -> Any:
        found = rng.random(len(side)) < 0.5
        found[rng.integers(len(side))] = True
        return found if rng.random() < 0.67 else None

    return [replace(pair, chosen_mask=mask(pair.chosen), rejected_mask=mask(pair.rejected)) for pair in pairs]


def token_logprobs(model: Any, prompt: Any, completion: Any) -> Any:
    """The oracle: one sequence through the ordinary model, and the softmax over the whole vocabulary."""
    ids = torch.tensor([[*prompt.tolist(), *completion.tolist()]])
    logits = model(ids, use_cache=False).logits[0, len(prompt) - 1 : -1].float()
    return logits.log_softmax(-1).gather(1, ids[0, len(prompt) :, None])[:, 0]


def own_sum(model: Any, prompt: Any, side: Completion) -> tuple[Any, int]:
    """Over the tokens that are the model's own, and how many these are."""
    own = np.ones(len(side), dtype=bool) if side.mask is None else side.mask
    logprobs = token_logprobs(model, prompt, side.tokens)
    kept = [logprobs[i] for i in range(len(own)) if own[i]]
    return torch.stack(kept).sum(), len(kept)


def naive_loss(model: Any, pairs: list[PairTokens], weights: RoundLoss) -> Any:
    """DPO and NLL spelled out, with the reference log-probabilities of `references`."""
    total = torch.zeros(())
    sums = [[own_sum(model, pair.prompt, side) for side in pair.sides] for pair in pairs]
    all_tokens = sum(chosen[1] for chosen, _ in sums)
    for pair, ((chosen, length), (rejected, _)) in zip(pairs, sums, strict=True):
        before = [-(int(side.key(pair.prompt)[:4], 16) % 1000) / 50 for side in pair.sides]
        margin = weights.beta * ((chosen - before[0]) - (rejected - before[1]))
        nll = -chosen / length if weights.nll_normalisation == "sequence" else -chosen * len(pairs) / all_tokens
        total = total + (weights.dpo * torch.log1p(torch.exp(-margin.double())) + weights.nll * nll) / len(pairs)
    return total


@given(
    seed=st.integers(0, 10**6),
    budget=st.integers(5, 200),
    ranks=st.integers(1, 3),
    normalisation=st.sampled_from(["sequence", "batch"]),
)
@settings(max_examples=5, deadline=None)
def test_loss_and_gradient_are_those_of_one_sequence_at_a_time(
    seed: int, budget: int, ranks: int, normalisation: Any
) -> None:
    """However it is packed, and over however many ranks."""
    model, pairs = make_model(), masked(random_pairs(seed), seed)
    weights = RoundLoss(beta=0.3, dpo=0.7, nll=1.3, nll_normalisation=normalisation)
    model.set_attn_implementation("sdpa")
    expected = naive_loss(model, pairs, weights)
    expected.backward()
    wanted = gradients(model)
    scorer = PackScorer(model, chunk_logits=7 * VOCAB)
    totals = BatchTotals(len(pairs), sum(pair.sides[0].num_scored for pair in pairs))
    shares = batching.divide_batch(pairs, range(len(pairs)), budget, ranks)
    batches = [layout.micro_batch(trees) for share in shares for trees in share]
    batches.append(layout.filler(pairs[0]))
    sums = accumulate(scorer, ((b, references(b)) for b in batches), weights, totals, lambda loss: loss.backward())
    assert sums.values[0].item() / len(pairs) == pytest.approx(expected.item(), rel=2e-5, abs=2e-5)
    found = gradients(model)
    scale = max(float(gradient.abs().max()) for gradient in wanted.values())
    for name, gradient in wanted.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-3, atol=2e-5 * scale, msg=name)


def test_the_reference_pass_scores_own_tokens_alone() -> None:
    model, pairs = make_model(), masked(random_pairs(3), 3)
    model.set_attn_implementation("sdpa")
    with torch.no_grad():
        expected = {s.key(p.prompt): own_sum(model, p.prompt, s)[0].item() for p in pairs for s in p.sides}
        scorer, found = PackScorer(model), dict[object, float]()
        for pack in batching.pack_trees(batching.completion_trees(pairs, 40), 40):
            tags = [member.tag for tree in pack for member in tree.members]
            found |= dict(zip(tags, scorer(layout.lay_out(pack)).tolist(), strict=True))
    assert found.keys() == expected.keys()
    for key, logprob in expected.items():
        assert found[key] == pytest.approx(logprob, rel=1e-4, abs=1e-4)


def test_a_mask_that_leaves_nothing_out_is_none_to_the_last_bit() -> None:
    plain = random_pairs(5)
    full = [replace(p, chosen_mask=p.chosen >= 0, rejected_mask=[True] * len(p.rejected)) for p in plain]
    scorer, batches = PackScorer(make_model()), []
    for pairs in (plain, full):
        assert all(pair.chosen_mask is None and pair.rejected_mask is None for pair in pairs)
        ((trees,),) = batching.divide_batch(pairs, range(len(pairs)), 10**6, 1)
        batches.append(layout.micro_batch(trees))
    assert batches[0].keys == batches[1].keys
    assert torch.equal(scorer(batches[0].pack), scorer(batches[1].pack))
    # Nor does the layout make a difference of one, were it to get there.
    spelled = [
        replace(tree, completions=tuple(Completion(c.tokens, np.ones(len(c), dtype=bool)) for c in tree.completions))
        for tree in trees
    ]
    assert torch.equal(scorer(batches[0].pack), scorer(layout.lay_out(spelled)))


def ids(*tokens: int) -> Any:
    return np.asarray(tokens, dtype=np.int32)


def bits(text: str) -> Any:
    return np.asarray([bit == "1" for bit in text])


def test_the_same_tokens_with_other_masks_are_other_completions() -> None:
    prompt, tokens = ids(1, 2), ids(5, 6, 7)
    pairs = [
        PairTokens("a", prompt, tokens, ids(9)),
        PairTokens("b", prompt, tokens, ids(9), bits("110")),
        PairTokens("c", prompt, tokens, tokens, bits("011"), bits("110")),
        PairTokens("d", prompt, tokens, ids(9), bits("111")),
    ]
    ((trees,),) = batching.divide_batch(pairs, range(4), 10**6, 1)
    batch = layout.micro_batch(trees)
    assert len(batch.keys) == len(set(batch.keys)) == 4 and len(trees[0].completions) == 4
    assert batch.completion_lengths[batch.chosen].tolist() == [3, 2, 2, 3] == batch.chosen_lengths.tolist()
    assert batch.completion_lengths[batch.rejected].tolist() == [1, 1, 2, 1]
    places = dict(zip("abcd", zip(batch.chosen.tolist(), batch.rejected.tolist(), strict=True), strict=True))
    assert places["a"] == places["d"] and places["b"][0] == places["c"][1] != places["c"][0]
    assert len(batching.completion_trees(pairs, 10**6)[0].completions) == 4
    # A tree that is cut between them loses none.
    assert sum(len(tree.members) for tree in batching.pair_trees(pairs, range(4), 6)) == 4


@pytest.mark.parametrize("normalisation", ["sequence", "batch"])
def test_losses_of_a_model_that_knows_nothing_count_own_tokens(normalisation: Any) -> None:
    """Where each token has the probability 1/V, sums are known: in closed form."""
    model, weights = make_model(), RoundLoss(beta=0.2, dpo=1.0, nll=1.0, nll_normalisation=normalisation)
    with torch.no_grad():
        model.get_output_embeddings().weight.zero_()
    pairs = [
        PairTokens("a", ids(1, 2), ids(5, 6, 7, 8), ids(9, 10, 11), bits("1011"), bits("010")),
        PairTokens("b", ids(1, 2), ids(5, 6), ids(9, 10, 11)),
    ]
    ((trees,),) = batching.divide_batch(pairs, [0, 1], 10**6, 1)
    batch = layout.micro_batch(trees)
    totals, reference = BatchTotals(2, 5), torch.zeros(len(batch.keys))
    sums = accumulate(PackScorer(model), [(batch, reference)], weights, totals, lambda loss: loss.backward())
    values, nat = dict(zip(SUMS, sums.values.tolist(), strict=True)), math.log(VOCAB)
    margins = [0.2 * (1 - 3) * nat, 0.2 * (3 - 2) * nat]
    assert values["margin"] == pytest.approx(sum(margins), rel=1e-5)
    assert values["dpo_loss"] == pytest.approx(sum(math.log1p(math.exp(-margin)) for margin in margins), rel=1e-5)
    assert values["nll_loss"] == pytest.approx(2 * nat, rel=1e-5)
    assert values["chosen_logprob"] == pytest.approx(-5 * nat, rel=1e-5)
    assert [values[name] for name in ("chosen_tokens", "rejected_tokens", "tokens")] == [5, 4, 2 + 4 + 3 + 2 + 3]
    means = mean_metrics(values)
    assert means["chosen_logprob_per_token"] == pytest.approx(means["rejected_logprob_per_token"], rel=1e-5)


def test_what_is_not_scored_is_attended_to_and_counted() -> None:
    scorer = PackScorer(make_model())

    def score(tool: int) -> tuple[float, Any]:
        pair = PairTokens("a", ids(1, 2), ids(5, tool, 7, 8), ids(9), bits("1011"))
        ((trees,),) = batching.divide_batch([pair], [0], 10**6, 1)
        pack = layout.micro_batch(trees).pack
        return scorer(pack)[0].item(), pack

    (first, pack), (second, _) = score(6), score(30)
    assert first != second
    assert pack.targets[pack.segments == 0].tolist() == [5, 7, 8]
    assert pack.token_ids.tolist() == [1, 2, 5, 6, 7, 8, 9] and pack.longest == 6
    pair = PairTokens("a", ids(1, 2), ids(5, 6, 7, 8), ids(9), bits("1011"))
    assert pair.longest == 6 and batching.real_tokens([pair], [0]) == 7 and batching.padded_tokens([pair], [0]) == 12


@pytest.mark.parametrize(
    ("mask", "said"),
    [
        (bits("10"), "pair a: chosen_mask: 2 truth values for 3 tokens; such a pair cannot be trained on"),
        (bits("000"), "pair a: chosen_mask: no token is the model's own"),
        (np.asarray([1, 0, 1]), "pair a: chosen_mask: this is no list of truth values"),
    ],
)
def test_a_mask_that_does_not_fit_is_refused(mask: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        PairTokens("a", ids(1), ids(5, 6, 7), ids(9), mask)
    with pytest.raises(ValueError, match="pair a: rejected_mask: 1 truth values for 0 tokens"):
        PairTokens("a", ids(1), ids(5), None, None, bits("1"))
