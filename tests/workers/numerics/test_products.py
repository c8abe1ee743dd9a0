"""Attention as matrix products against torch's own in float64, and against what torch has for bfloat16."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
import torch.nn.functional as F  # noqa: E402

from workers.numerics import attention, products  # noqa: E402


def rows(num: int, queries: int, keys: int, heads: int, of_keys: int, size: int = 32) -> list[Any]:
    torch.manual_seed(queries + keys)
    shapes = ((num, queries, heads, size), (num, keys, of_keys, size), (num, keys, of_keys, size))
    return [(2 * torch.randn(shape)).bfloat16().requires_grad_() for shape in shapes]


def tree_mask(num: int, queries: int, keys: int) -> Any:
    """A prompt before each row that is one token shorter a row, as trees have it; the first query sees one key."""
    before = keys - queries - torch.arange(num)[:, None, None]
    return (torch.arange(keys) <= (before + torch.arange(queries)[None, :, None]).clamp(min=0)).unsqueeze(1)


def of_torch(tensors: list[Any], mask: Any, scale: float | None) -> Any:
    query, key, value = (t.transpose(1, 2) for t in tensors)
    found = F.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, is_causal=mask is None, scale=scale, enable_gqa=True
    )
    return found.transpose(1, 2)


def distances(found: list[Any], exact: list[Any]) -> list[float]:
    return [float((f.double() - e).norm() / e.norm()) for f, e in zip(found, exact, strict=True)]


@pytest.mark.parametrize(
    ("num", "queries", "keys", "heads", "of_keys", "scale"),
    [(3, 7, 19, 6, 2, None), (2, 21, 21, 4, 4, None), (5, 40, 300, 9, 3, 0.3), (1, 2, 2, 2, 1, None)],
)
@pytest.mark.parametrize("block", [1, 5000, products.BLOCK_SCORES])
def test_products_are_as_exact_as_torchs_own(
    num: int, queries: int, keys: int, heads: int, of_keys: int, scale: float | None, block: int
) -> None:
    tensors = rows(num, queries, keys, heads, of_keys)
    mask = None if keys == queries else tree_mask(num, queries, keys)
    outer = torch.randn(num, queries, heads, 32).bfloat16()

    def passes(attend: Any, dtype: Any) -> list[Any]:
        given = [t.detach().to(dtype).requires_grad_() for t in tensors]
        output = attend(given)
        output.backward(outer.to(dtype))
        return [output.detach(), *(t.grad for t in given)]

    exact = passes(lambda given: of_torch(given, mask, scale), torch.float64)
    ours = passes(lambda given: products.attend(*given, mask, scale, block), torch.bfloat16)
    usual = passes(lambda given: of_torch(given, mask, scale), torch.bfloat16)
    assert torch.backends.mkldnn.matmul.fp32_precision != "bf16", "other products are as exact as before"
    for mine, theirs in zip(distances(ours, exact), distances(usual, exact), strict=True):
        # Scores that were rounded to bfloat16 would be some ten times as far off.
        assert mine <= max(1.5 * theirs, 1e-3)


def test_trees_attend_alike_by_products() -> None:
    spans = np.array([(0, 9, 0, 0), (9, 14, 0, 9), (14, 34, 0, 9), (34, 40, 34, 34), (40, 41, 34, 40)])
    layout = attention.sdpa_layout(spans, "cpu")
    torch.manual_seed(5)
    given = [torch.randn(1, heads, 41, 16) for heads in (4, 2, 2)]
    exact, _ = attention.tree_sdpa(torch.nn.Identity(), *given, tree_layout=layout)
    called: list[int] = []

    def attend(*rows: Any) -> Any:
        called.append(1)
        return products.attend(*rows[:4], rows[5])

    rounded = [t.bfloat16() for t in given]
    found, _ = attention.tree_sdpa(torch.nn.Identity(), *rounded, tree_layout=layout, attend=attend)
    assert len(called) == len(layout.groups) and found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), exact, rtol=0.02, atol=0.02)
    if products.multiplies_bfloat16():
        assert torch.equal(attention.tree_matmul(torch.nn.Identity(), *rounded, tree_layout=layout)[0], found)
    same, _ = attention.tree_matmul(torch.nn.Identity(), *given, tree_layout=layout)
    assert torch.equal(same, exact), "float32 is torch's own to compute"


def test_what_does_not_suit_is_torchs_own_to_compute() -> None:
    query, key, value = rows(2, 3, 5, 4, 2)
    assert products.suit(query, key, value, True)
    assert not products.suit(query, key, value, False), "a processor that has no products of bfloat16"
    assert not products.suit(query.float(), key.float(), value.float(), True)
    assert not products.suit(query, key.float(), value, True), "under autocast only values are in bfloat16"
    assert not products.suit(query, key, value[..., :16], True), "values of another size, as DeepSeek-V3 has them"
    assert products.suit(query, key, value, True, most=2 * 3 * 5)
    assert not products.suit(query, key, value, True, most=2 * 3 * 5 - 1), "a long row, whose scores take much memory"


def test_auto_is_by_device_and_precision() -> None:
    assert attention.pick("auto", "cpu", "bf16") == attention.MATMUL
    assert attention.pick("auto", "cpu", "fp32") == attention.SDPA
    assert attention.pick("auto", "cuda", "bf16") == attention.FLEX
    assert attention.pick("sdpa", "cpu", "bf16") == attention.SDPA
