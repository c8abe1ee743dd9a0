"""Attention by sequences of any length against attention by rows, with a stand-in for the kernel, which CPUs lack."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from torch._subclasses.fake_tensor import FakeTensorMode  # noqa: E402
from torch.nn.attention.flex_attention import flex_attention  # noqa: E402

from tests.workers.numerics.test_logprobs import random_pairs  # noqa: E402
from workers.numerics import attention, batching, layout  # noqa: E402
from workers.numerics.attention import TreeLayout  # noqa: E402
from workers.numerics.varlen import Sequences  # noqa: E402

HEADS, KEY_HEADS, SIZE = 4, 2, 8


def spans_of(seed: int, longest: int, multiple: int = 1) -> Any:
    pairs = random_pairs(seed, longest=longest)
    ((trees,),) = batching.divide_batch(pairs, range(len(pairs)), 10**6, 1)
    return layout.pad(layout.lay_out(trees), multiple).spans


def drawn(spans: Any, seed: int = 0) -> list[Any]:
    """Queries, keys and values of a layer, as transformers hands them over."""
    torch.manual_seed(seed)
    tokens = int(spans[-1, 1])
    return [torch.randn(1, tokens, heads, SIZE).transpose(1, 2) for heads in (HEADS, KEY_HEADS, KEY_HEADS)]


def one_by_one(query: Any, key: Any, value: Any, rows: Sequences, scale: float | None) -> Any:
    """What `varlen_attn` documents, a sequence at a time."""
    found = []
    queries, keys = rows.query_starts.diff().tolist(), rows.key_starts.diff().tolist()
    assert (max(queries), max(keys)) == (rows.most_queries, rows.most_keys)
    for q, k, v in zip(query.split(queries), key.split(keys), value.split(keys), strict=True):
        sees = torch.ones(len(q), len(k), dtype=torch.bool).tril(len(k) - len(q))
        q, k, v = (t.transpose(0, 1)[None] for t in (q, k, v))
        given = {"attn_mask": sees, "scale": scale, "enable_gqa": True}
        found.append(torch.nn.functional.scaled_dot_product_attention(q, k, v, **given)[0].transpose(0, 1))
    return torch.cat(found)


@pytest.mark.parametrize(("seed", "longest", "scale"), [(1, 3, None), (2, 40, 0.3), (3, 150, None)])
def test_sequences_give_what_rows_give(seed: int, longest: int, scale: float | None) -> None:
    spans, module = spans_of(seed, longest), torch.nn.Identity()

    def passes(function: Any, made: TreeLayout, **more: Any) -> list[Any]:
        inputs = [t.requires_grad_() for t in drawn(spans)]
        found, _ = function(module, *inputs, scaling=scale, tree_layout=made, **more)
        weights = torch.linspace(-1, 1, found.numel()).view(found.shape)
        (found * weights).sum().backward()
        return [found.detach(), *(t.grad for t in inputs)]

    wanted = passes(attention.tree_sdpa, attention.layout_for(attention.SDPA, spans, "cpu"))
    made = attention.layout_for(attention.VARLEN, spans, "cpu")
    found = passes(attention.tree_varlen, made, attend=one_by_one)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_the_kernel_takes_what_it_is_handed() -> None:
    """Types, shapes and names of arguments, as torch checks them without computing."""
    spans = spans_of(4, 20)
    made = attention.layout_for(attention.VARLEN, spans, "cpu")
    assert made.sequences is not None and made.sequences.query_starts.dtype == torch.int32
    with FakeTensorMode(allow_non_fake_inputs=True):
        inputs = [torch.empty(t.shape, dtype=torch.bfloat16) for t in drawn(spans)]
        wide = [inputs[0].float(), inputs[1].float(), inputs[2]]  # rotated under autocast
        for given in (inputs, wide):
            found, _ = attention.tree_varlen(torch.nn.Identity(), *given, tree_layout=made)
            assert found.shape == (1, int(spans[-1, 1]), HEADS, SIZE) and found.dtype == torch.bfloat16


def test_flex_is_compiled_for_all_lengths_and_knows_that_they_come_in_blocks() -> None:
    """As far as torch.compile's front end goes, which knows of no device."""
    from torch.fx.experimental.symbolic_shapes import statically_known_true

    graphs = list[Any]()

    def kept(graph: Any, examples: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(attention.flex_of_blocks, backend=kept)
    for seed, longest in ((1, 30), (2, 200), (3, 120), (4, 400)):
        spans = spans_of(seed, longest, attention.BLOCK)
        inputs = drawn(spans)
        options = {"block_mask": attention.flex_layout(spans, "cpu").block_mask, "enable_gqa": True}
        blocks = (t.unflatten(2, (-1, attention.BLOCK)) for t in inputs)
        with torch.no_grad():
            torch.testing.assert_close(compiled(*blocks, **options), flex_attention(*inputs, **options))
    assert len(graphs) == 2, "the first length, and all others"
    (call,) = (node for node in graphs[-1].graph.nodes if "flex_attention" in str(node.target))
    length = call.args[0].meta["example_value"].shape[2]
    assert not isinstance(length, int) and statically_known_true(length % attention.BLOCK == 0)
