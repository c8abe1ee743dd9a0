"""The numerical files on a GPU: compiled FlexAttention, forward and backward, against sdpa.

Needs torch, transformers and a CUDA device, nothing else of the project's requirements.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from benchmarks.training import Loss  # noqa: E402
from workers.numerics import attention, batching, layout  # noqa: E402
from workers.numerics.batching import PairTokens  # noqa: E402
from workers.numerics.logprobs import PackScorer  # noqa: E402
from workers.numerics.step import BatchTotals, accumulate  # noqa: E402

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

VOCAB = 512


def make_model(dtype: Any = torch.float32, device: str = "cuda") -> Any:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=3,
        num_attention_heads=8,
        num_key_value_heads=2,
        head_dim=64,
        initializer_range=0.05,
        max_position_embeddings=8192,
    )
    return transformers.LlamaForCausalLM(config).to(device, dtype)


def make_pairs(seed: int, num_prompts: int, longest: int) -> list[PairTokens]:
    rng = np.random.default_rng(seed)

    def ids() -> Any:
        return rng.integers(0, VOCAB, rng.integers(2, longest)).astype(np.int32)

    pairs = []
    for p in range(num_prompts):
        prompt, winners, losers = ids(), [ids() for _ in range(2)], [ids() for _ in range(3)]
        pairs += [PairTokens(f"{p}-{i}", prompt, winners[i % 2], losers[i % 3]) for i in range(4)]
    return pairs


def step(
    model: Any, implementation: str, pairs: list[PairTokens], budget: int, compiled: bool = False
) -> tuple[float, dict[str, Any]]:
    """Loss summed over pairs and gradients of one step over micro-batches."""
    model.zero_grad(set_to_none=True)
    scorer = PackScorer(model, implementation, compiled=compiled)
    (share,) = batching.divide_batch(pairs, range(len(pairs)), budget, 1)
    batches = [layout.micro_batch(trees).to(model.device) for trees in share]
    references = [torch.full((len(batch.keys),), -10.0) for batch in batches]
    sums = accumulate(
        scorer,
        zip(batches, references, strict=True),
        Loss(beta=0.3),  # type: ignore[arg-type]
        BatchTotals(len(pairs), 1),
        lambda loss: loss.backward(),
    )
    return sums.values[0].item(), {name: p.grad.clone() for name, p in model.named_parameters()}


@pytest.mark.parametrize(("num_prompts", "longest", "budget"), [(2, 20, 100), (4, 300, 2000), (5, 900, 20_000)])
def test_flex_equals_sdpa_in_loss_and_gradient(num_prompts: int, longest: int, budget: int) -> None:
    torch.backends.cuda.matmul.allow_tf32 = False
    model = make_model()
    pairs = make_pairs(longest, num_prompts, longest)
    loss, wanted = step(model, attention.SDPA, pairs, budget)
    found_loss, found = step(model, attention.FLEX, pairs, budget)
    assert found_loss == pytest.approx(loss, rel=1e-4)
    scale = max(float(g.abs().max()) for g in wanted.values())
    for name, gradient in wanted.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-2, atol=1e-3 * scale, msg=name)


def test_varlen_equals_sdpa_in_loss_and_gradient() -> None:
    """In bfloat16, which its kernel takes alone: no farther from float32 than sdpa is, but for chance."""
    pairs = make_pairs(5, 4, 300)
    exact, wanted = step(make_model(), attention.SDPA, pairs, 2000)
    off = {}
    for kernel in (attention.SDPA, attention.VARLEN):
        loss, found = step(make_model(torch.bfloat16), kernel, pairs, 2000)
        assert loss == pytest.approx(exact, rel=0.02)
        off[kernel] = sum(float((found[name].float() - g).norm() / g.norm()) for name, g in wanted.items())
    assert off[attention.VARLEN] < 1.5 * off[attention.SDPA]


@pytest.mark.parametrize("implementation", [attention.SDPA, attention.FLEX])
def test_compiled_layers_equal_others_in_loss_and_gradient(implementation: str) -> None:
    torch.backends.cuda.matmul.allow_tf32 = False
    pairs = make_pairs(6, 4, 300)
    loss, wanted = step(make_model(), implementation, pairs, 2000)
    found_loss, found = step(make_model(), implementation, pairs, 2000, compiled=True)
    assert found_loss == pytest.approx(loss, rel=1e-4)
    scale = max(float(g.abs().max()) for g in wanted.values())
    for name, gradient in wanted.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-2, atol=1e-3 * scale, msg=name)


def test_bf16_stays_close_to_float32() -> None:
    pairs = make_pairs(3, 4, 300)
    ((trees,),) = batching.divide_batch(pairs, range(len(pairs)), 10**6, 1)
    pack = layout.lay_out(trees).to("cuda")
    lengths = torch.bincount(pack.segments)
    with torch.no_grad():
        exact = PackScorer(make_model(), attention.SDPA)(pack)
        rounded = PackScorer(make_model(torch.bfloat16), attention.FLEX)(pack)
    assert float(((exact - rounded).abs() / lengths).mean()) < 0.02


def test_sdpa_on_gpu_equals_sdpa_on_cpu() -> None:
    torch.backends.cuda.matmul.allow_tf32 = False
    pairs = make_pairs(4, 3, 100)
    ((trees,),) = batching.divide_batch(pairs, range(len(pairs)), 10**6, 1)
    pack = layout.lay_out(trees)
    model = make_model()
    with torch.no_grad():
        there = PackScorer(model)(pack.to("cuda")).cpu()
        here = PackScorer(model.to("cpu"))(pack)
    torch.testing.assert_close(there, here, rtol=1e-4, atol=1e-2)


def updated(fused: bool, device: str = "cuda") -> Any:
    """A flat tensor of weights after 20 updates, as DeepSpeed has AdamW do them."""
    torch.manual_seed(0)
    weights = torch.nn.Parameter(torch.randn(10**6, device=device))
    optimizer = torch.optim.AdamW([weights], lr=1e-3, weight_decay=0.01, fused=fused)
    for _ in range(20):
        weights.grad = 0.01 * torch.randn(10**6, device=device)
        optimizer.step()
    return weights.detach()


def test_fused_adamw_differs_from_the_usual_one_by_rounding_alone() -> None:
    """What must hold since ranks use it on CUDA. On a processor half a percent of the weights differ, by a last bit."""
    torch.testing.assert_close(updated(True), updated(False), rtol=1e-5, atol=1e-6)
