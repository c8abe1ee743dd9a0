"""Packs of trees against one sequence at a time: log-probabilities, losses and gradients."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
import numpy as np  # noqa: E402
from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from orchestrator.config import RoundLoss  # noqa: E402
from workers.numerics import attention, batching, layout, limits  # noqa: E402
from workers.numerics.attention import UnsupportedModel  # noqa: E402
from workers.numerics.batching import PairTokens  # noqa: E402
from workers.numerics.logprobs import (  # noqa: E402
    CHUNK_LOGITS,
    ROWS_LOGITS,
    HeadScorer,
    PackScorer,
    adjust_logits,
    check_supported,
    disable_dropout,
)
from workers.numerics.step import BatchTotals, accumulate, torch_step  # noqa: E402

VOCAB = 61
SIZES: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,
    "initializer_range": 0.2,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": {"sliding_window": 64},
    "qwen2": {"tie_word_embeddings": True},
    "qwen3": {"tie_word_embeddings": False},
    "gemma": {"tie_word_embeddings": True},
    "granite": {"logits_scaling": 3.0},
    "cohere": {"logit_scale": 0.25},
    "olmo2": {},
    "phi3": {},
}


def make_model(family: str = "llama", **changes: Any) -> Any:
    torch.manual_seed(1)
    config = transformers.AutoConfig.for_model(family, **(SIZES | FAMILIES.get(family, {}) | changes))
    return transformers.AutoModelForCausalLM.from_config(config)


def logprob(model: Any, prompt: Any, completion: Any, whole: bool = False) -> Any:
    """The oracle: one sequence through the ordinary model, summed over the completion (or all of it)."""
    ids = torch.tensor([[*prompt.tolist(), *completion.tolist()]])
    logprobs = model(ids, use_cache=False).logits[0, :-1].float().log_softmax(-1).gather(1, ids[0, 1:, None])
    return logprobs[0 if whole else len(prompt) - 1 :].sum()


def random_pairs(seed: int, num_prompts: int = 3, k: int = 4, longest: int = 12) -> list[PairTokens]:
    rng = np.random.default_rng(seed)

    def ids() -> Any:
        return rng.integers(0, VOCAB, rng.integers(1, longest)).astype(np.int32)

    pairs = []
    for p in range(num_prompts):
        prompt, winners, losers = ids(), [ids() for _ in range(2)], [ids() for _ in range(3)]
        pairs += [PairTokens(f"{p}-{i}", prompt, winners[i % 2], losers[i % 3]) for i in range(k)]
    return pairs


def references(batch: layout.MicroBatch) -> Any:
    """Any fixed numbers will do as reference: here they follow from the completion's key."""
    return torch.tensor([-(int(key[:4], 16) % 1000) / 50 for key in batch.keys])


def naive_loss(model: Any, pairs: list[PairTokens], weights: RoundLoss) -> Any:
    total = torch.zeros(())
    whole = weights.nll_scope == "prompt+response"
    nll_tokens = sum(len(p.chosen) + whole * len(p.prompt) for p in pairs)
    for pair in pairs:
        ratios = []
        for completion in (pair.chosen, pair.rejected):
            key = batching.completion_key(pair.prompt, completion)
            ratios.append(logprob(model, pair.prompt, completion) + (int(key[:4], 16) % 1000) / 50)
        dpo = -torch.nn.functional.logsigmoid(weights.beta * (ratios[0] - ratios[1]))
        covered = logprob(model, pair.prompt, pair.chosen, whole)
        length = len(pair.chosen) + whole * len(pair.prompt)
        nll = -covered / length if weights.nll_normalisation == "sequence" else -covered * len(pairs) / nll_tokens
        total = total + (weights.dpo * dpo + weights.nll * nll) / len(pairs)
    return total


def gradients(model: Any) -> Any:
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    return found


def assert_equal_to_naive(
    model: Any, pairs: list[PairTokens], weights: RoundLoss, budget: int, ranks: int = 1, chunk: int = 2**26
) -> None:
    model.set_attn_implementation("sdpa")
    expected = naive_loss(model, pairs, weights)
    expected.backward()
    wanted = gradients(model)
    scorer = PackScorer(model, chunk_logits=chunk)
    whole = weights.nll_scope == "prompt+response"
    totals = BatchTotals(len(pairs), sum(len(p.chosen) + whole * len(p.prompt) for p in pairs))
    shares = batching.divide_batch(pairs, range(len(pairs)), budget, ranks)
    batches = [layout.micro_batch(trees, whole) for share in shares for trees in share]
    batches.append(layout.filler(pairs[0], whole))
    sums = accumulate(scorer, ((b, references(b)) for b in batches), weights, totals, lambda loss: loss.backward())
    assert sums.values[0].item() / len(pairs) == pytest.approx(expected.item(), rel=2e-5, abs=2e-5)
    found = gradients(model)
    assert found.keys() == wanted.keys()
    scale = max(float(g.abs().max()) for g in wanted.values())
    for name, gradient in wanted.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-3, atol=2e-5 * scale, msg=name)


@pytest.mark.parametrize(
    ("seed", "budget", "ranks", "scope", "normalisation"),
    [
        (1, 5, 1, "response", "sequence"),
        (2, 200, 3, "response", "batch"),
        (3, 40, 2, "prompt+response", "sequence"),
        (4, 60, 1, "prompt+response", "batch"),
    ],
)
def test_trees_equal_one_sequence_at_a_time(seed: int, budget: int, ranks: int, scope: Any, normalisation: Any) -> None:
    weights = RoundLoss(beta=0.3, dpo=0.7, nll=1.3, nll_scope=scope, nll_normalisation=normalisation)
    assert_equal_to_naive(make_model(), random_pairs(seed), weights, budget, ranks)


@pytest.mark.full
@given(
    seed=st.integers(0, 10**6),
    budget=st.integers(5, 200),
    ranks=st.integers(1, 3),
    scope=st.sampled_from(["response", "prompt+response"]),
    normalisation=st.sampled_from(["sequence", "batch"]),
)
@settings(max_examples=60, deadline=None)
def test_any_trees_equal_one_sequence_at_a_time(
    seed: int, budget: int, ranks: int, scope: Any, normalisation: Any
) -> None:
    test_trees_equal_one_sequence_at_a_time(seed, budget, ranks, scope, normalisation)


@pytest.mark.parametrize("family", FAMILIES)
def test_model_families_equal_their_own_forward(family: str) -> None:
    assert_equal_to_naive(make_model(family), random_pairs(7), RoundLoss(beta=0.3, dpo=1.0, nll=1.0), 60)


@pytest.mark.parametrize("tied", [True, False])
def test_the_head_in_chunks_equals_the_head_at_once(tied: bool) -> None:
    model = make_model(tie_word_embeddings=tied)
    assert_equal_to_naive(model, random_pairs(8), RoundLoss(beta=0.3, dpo=1.0, nll=1.0), 200, chunk=3 * VOCAB)


def test_activation_checkpointing_changes_nothing() -> None:
    model = make_model()
    model.gradient_checkpointing_enable({"use_reentrant": False})
    model.train()
    assert_equal_to_naive(model, random_pairs(9), RoundLoss(beta=0.3, dpo=1.0, nll=1.0), 80)


def test_long_and_short_rows_in_one_pack() -> None:
    """Rows of very different size go to several attention calls."""
    model = make_model(max_position_embeddings=512)
    pairs = random_pairs(10, num_prompts=2, longest=200) + random_pairs(11, num_prompts=6, longest=5)
    ((trees,),) = batching.divide_batch(pairs, range(len(pairs)), 10**6, 1)
    pack = layout.micro_batch(trees).pack
    assert len(attention.sdpa_layout(pack.spans, "cpu").groups) > 2
    assert_equal_to_naive(model, pairs, RoundLoss(beta=0.3, dpo=1.0, nll=1.0), 10**6)


def test_the_layout_wastes_little() -> None:
    pairs = random_pairs(10, num_prompts=4, k=6, longest=150)
    ((trees,),) = batching.divide_batch(pairs, range(len(pairs)), 10**6, 1)
    spans = layout.micro_batch(trees).pack.spans
    queries = spans[:, 1] - spans[:, 0]
    real = int((queries * (queries + spans[:, 3] - spans[:, 2])).sum())
    groups = attention.sdpa_layout(spans, "cpu").groups
    padded = sum(len(g.queries) * len(g.keys) // g.num_rows for g in groups)
    assert padded <= 1.5 * real + 16384 * len(groups)


def test_a_completion_is_not_touched_by_its_neighbours() -> None:
    """Its log-probability is the same whatever else is in the pack."""
    model, pairs = make_model(), random_pairs(12, num_prompts=4)
    scorer = PackScorer(model)
    ((trees,),) = batching.divide_batch(pairs, range(len(pairs)), 10**6, 1)
    together = scorer(layout.lay_out(trees)).tolist()
    alone = [lp for tree in trees for lp in scorer(layout.lay_out([tree])).tolist()]
    assert together == pytest.approx(alone, rel=1e-5)


def test_flex_attention_equals_sdpa_forward() -> None:
    """Uncompiled on CPU, where FlexAttention has no backward."""
    model, pairs = make_model(), random_pairs(13)
    ((trees,),) = batching.divide_batch(pairs, range(len(pairs)), 10**6, 1)
    pack = layout.lay_out(trees, score_prompts=True)
    with torch.no_grad():
        expected = PackScorer(model, attention.SDPA)(pack)
        found = PackScorer(model, attention.FLEX)(pack)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_the_block_map_is_that_of_the_mask() -> None:
    """Against the mask spelled out for every two tokens, on packs that span many blocks."""
    for seed, longest in ((1, 12), (2, 150), (3, 700)):
        pairs = random_pairs(seed, num_prompts=3, k=3, longest=longest)
        ((trees,),) = batching.divide_batch(pairs, range(len(pairs)), 10**6, 1)
        pack = layout.lay_out(trees)
        size = attention.BLOCK * -(-pack.num_tokens // attention.BLOCK)
        mask = np.zeros((size, size), dtype=bool)
        for start, stop, prefix, prefix_stop in pack.spans:
            mask[start:stop, start:stop] = np.tri(stop - start, dtype=bool)
            mask[start:stop, prefix:prefix_stop] = True
        blocks = mask.reshape(size // attention.BLOCK, attention.BLOCK, -1, attention.BLOCK)
        some, every = attention.block_map(pack.spans)
        assert np.array_equal(some, blocks.any((1, 3)))
        # A block of keys that straddles a prompt and its first completion may count as partial.
        exact = blocks.all((1, 3))
        assert not (every & ~exact).any() and every.sum() >= 0.7 * exact.sum()


def test_flex_attention_equals_sdpa_on_many_blocks() -> None:
    model, pairs = make_model(max_position_embeddings=2048), random_pairs(17, longest=400)
    ((trees,),) = batching.divide_batch(pairs, range(len(pairs)), 10**6, 1)
    pack = layout.lay_out(trees)
    assert pack.num_tokens > 4 * attention.BLOCK
    with torch.no_grad():
        expected = PackScorer(model, attention.SDPA)(pack)
        found = PackScorer(model, attention.FLEX)(pack)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-3)


def test_a_plain_torch_step_moves_the_policy_towards_the_chosen() -> None:
    model, pairs = make_model(), random_pairs(14, num_prompts=2)
    scorer = PackScorer(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    ((trees,),) = batching.divide_batch(pairs, range(len(pairs)), 10**6, 1)
    batch = layout.micro_batch(trees)
    reference = scorer(batch.pack).detach()
    totals = BatchTotals(len(pairs), sum(len(p.chosen) for p in pairs))
    weights = RoundLoss(beta=0.1, dpo=1.0, nll=1.0)
    losses = []
    for _ in range(5):
        sums, norm = torch_step(scorer, optimizer, [(batch, reference)], weights, totals, max_grad_norm=1.0)
        assert norm > 0
        losses.append(sums.values[0].item())
    assert losses == sorted(losses, reverse=True)


def test_soft_caps_and_scales_are_applied_and_attention_caps_refused() -> None:
    model = make_model("gemma2", query_pre_attn_scalar=32, attn_logit_softcapping=None, final_logit_softcapping=2.0)
    pair = random_pairs(15)[0]
    ((trees,),) = batching.divide_batch([pair], [0], 10**6, 1)
    model.set_attn_implementation("sdpa")
    expected = logprob(model, pair.prompt, pair.chosen).item()
    found = PackScorer(model)(layout.lay_out(trees))[0].item()
    assert found == pytest.approx(expected, rel=1e-5)
    with pytest.raises(UnsupportedModel, match=r"gemma2: attn_logit_softcapping .* choose another model"):
        check_supported(make_model("gemma2", query_pre_attn_scalar=32))


def test_a_path_beyond_the_sliding_window_is_refused_and_one_within_is_not() -> None:
    config = make_model("mistral", sliding_window=16).config
    limits.check_window(config, 16)
    with pytest.raises(UnsupportedModel, match=r"17 tokens.*window is 16.*train\.max_tokens: 16"):
        limits.check_window(config, 17)
    limits.check_window(make_model("qwen2", sliding_window=16, use_sliding_window=False).config, 99)


def test_models_that_carry_state_are_refused() -> None:
    config = transformers.LlamaConfig(**SIZES)
    config.layer_types = ["full_attention", "linear_attention"]
    with pytest.raises(UnsupportedModel, match="linear_attention carry state"):
        limits.attention_window(config)


def test_dropout_is_switched_off_before_the_model_is_built() -> None:
    config = transformers.LlamaConfig(**SIZES, attention_dropout=0.5)
    disable_dropout(config)
    model = transformers.LlamaForCausalLM(config).train()
    pairs = random_pairs(16)
    ((trees,),) = batching.divide_batch(pairs, range(len(pairs)), 10**6, 1)
    scorer = PackScorer(model)
    pack = layout.lay_out(trees)
    assert torch.equal(scorer(pack), scorer(pack))


ADJUSTED = [("llama", {}), ("gemma2", {"final_logit_softcapping": 3.0}), ("granite", {"logits_scaling": 4.0})]


@pytest.mark.parametrize(("family", "changes"), ADJUSTED)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_logits_of_a_large_vocabulary_a_few_rows_at_a_time(family: str, changes: Any, dtype: Any) -> None:
    vocabulary, rows = 2**17, 11
    assert 1 < ROWS_LOGITS["cpu"] // vocabulary < rows, "in several pieces, the last of which is smaller"
    config = transformers.AutoConfig.for_model(family, vocab_size=vocabulary, **changes)
    torch.manual_seed(3)
    head = torch.nn.Linear(8, vocabulary, bias=False, dtype=dtype)
    hidden = (4 * torch.randn(rows, 8)).to(dtype).requires_grad_()
    targets, given = torch.randint(0, vocabulary, (rows,)), torch.randn(rows)

    def passes(score: Any) -> list[Any]:
        head.weight.grad = hidden.grad = None
        found = score()
        found.backward(given)
        return [found.detach(), head.weight.grad, hidden.grad]

    def plain() -> Any:
        logits = adjust_logits(head(hidden).float(), config)
        return logits.log_softmax(-1).gather(1, targets[:, None])[:, 0]

    expected = passes(plain)
    for chunk in (CHUNK_LOGITS, 5 * vocabulary):  # at once, and each chunk computed again
        scorer = HeadScorer(head, config, chunk)
        for mine, theirs in zip(passes(lambda: scorer(hidden, targets)), expected, strict=True):  # noqa: B023
            torch.testing.assert_close(
                mine, theirs, **({} if dtype == torch.bfloat16 else {"rtol": 1e-4, "atol": 1e-5})
            )
        with torch.no_grad():
            torch.testing.assert_close(scorer(hidden, targets), expected[0], rtol=1e-5, atol=1e-4)


def test_logits_are_differentiated_once() -> None:
    head = torch.nn.Linear(8, 50, bias=False)
    scorer = HeadScorer(head, transformers.AutoConfig.for_model("llama", vocab_size=50), CHUNK_LOGITS)
    found = scorer(torch.randn(4, 8), torch.arange(4)).sum()
    found.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        found.backward()
