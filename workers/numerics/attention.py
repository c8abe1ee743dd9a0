"""Attention over packs of trees, as attention functions for transformers. The numerics import torch alone.

Every token attends to itself and to what precedes it in its own prompt or completion, and a
completion's tokens also to the whole prompt that they continue; never to another completion or tree.

Four functions compute exactly that:

- `sdpa`, anywhere: each prompt and each completion is one row of a batched
  scaled_dot_product_attention call, its keys gathered as [prompt][completion]. Rows of similar size
  share a call, so that the masks are as large as the real work and never tokens x tokens.
- `matmul`, on CPU: the same rows, those in bfloat16 by `workers.numerics.products`.
- `flex`, on GPU: FlexAttention with a block mask built once a pack. So far it was compared with `sdpa`
  on CPU only, uncompiled and forward (FlexAttention has no backward there).
- `varlen`, on GPU in bfloat16: the rows of `sdpa`, without padding, in one call of torch's variable-length attention.
  Its layout was compared with `sdpa` on CPU, forward and backward; torch's kernel was not tried.

tests/workers/numerics/test_gpu.py holds the comparisons that a GPU should make. FlexAttention's own faster kernels
(`BACKEND="FLASH"`) are left out: they need a package (flash-attn-4) that comes as a preview alone.

transformers builds no mask of its own for an attention function whose name it has no mask for, and
hands keyword arguments of the model's forward down to it: that is how the layout gets there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, lru_cache, partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from workers.numerics import products, varlen

SDPA = "ratchet_tree_sdpa"
MATMUL = "ratchet_tree_matmul"
FLEX = "ratchet_tree_flex"
VARLEN = "ratchet_tree_varlen"

Spans = npt.NDArray[np.int64]


class UnsupportedModel(ValueError):
    """The model's attention or output head does something that tree batching does not reproduce."""


@dataclass(frozen=True, slots=True)
class RowGroup:
    """R rows that share one attention call, padded to Q queries and K keys."""

    queries: Tensor
    """[R * Q] int64: token of each query; a padded query repeats the row's first."""
    keys: Tensor
    """[R * K] int64: token of each key."""
    num_rows: int
    mask: Tensor | None
    """[R, 1, Q, K] bool, true where a query sees a key; None where the rows are plain causal."""


@dataclass(frozen=True, slots=True)
class TreeLayout:
    """What an attention call needs to know of a pack: row groups (sdpa), a block mask (flex) or sequences (varlen)."""

    groups: tuple[RowGroup, ...] = ()
    restore: Tensor | None = None
    """[T] int64: where each token's output stands in the groups' outputs put behind each other."""
    block_mask: Any = None
    sequences: varlen.Sequences | None = None


def _similar_rows(spans: Spans, waste: float) -> list[npt.NDArray[np.int64]]:
    """Rows in groups whose padded area of queries x keys stays within `waste` times the real one."""
    queries = spans[:, 1] - spans[:, 0]
    keys = queries + spans[:, 3] - spans[:, 2]
    groups: list[npt.NDArray[np.int64]] = []
    # Prompts have no prefix: plain causal rows, which need no mask and so go apart.
    for chosen in (spans[:, 3] == spans[:, 2], spans[:, 3] > spans[:, 2]):
        rows = np.flatnonzero(chosen)
        rows = rows[np.lexsort((-queries[rows], -keys[rows]))]
        current: list[int] = []
        real = widest = 0
        for row in rows:
            area = int(queries[row] * keys[row])
            width = max(widest, int(queries[row]))
            padded = (len(current) + 1) * width * int(keys[current[0]] if current else keys[row])
            # Below some ten thousand products another call costs more than the padding.
            if current and padded > waste * (real + area) + 16384:
                groups.append(np.asarray(current))
                current, real, width = [], 0, int(queries[row])
            current.append(int(row))
            real, widest = real + area, width
        if current:
            groups.append(np.asarray(current))
    return groups


def _row_group(spans: Spans) -> tuple[RowGroup, npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """The group of these rows, with its query tokens [R, Q] and which of them are real."""
    start, stop, prefix, prefix_stop = (spans[:, i : i + 1] for i in range(4))
    queries, before = stop - start, prefix_stop - prefix
    query_at = np.arange(queries.max())[None, :]
    key_at = np.arange((queries + before).max())[None, :]
    real = query_at < queries
    query_tokens = np.where(real, start + query_at, start)
    key_tokens = np.where(key_at < before, prefix + key_at, start + np.minimum(key_at - before, queries - 1))
    mask = None
    if before.any():
        # A padded query stands for the row's first one, so that no row of the softmax is empty.
        place = before + np.where(real, query_at, 0)
        mask = torch.from_numpy(key_at[:, None, :] <= place[:, :, None]).unsqueeze(1)
    flat_queries, flat_keys = (torch.from_numpy(t.reshape(-1)) for t in (query_tokens, key_tokens))
    return RowGroup(flat_queries, flat_keys, len(spans), mask), query_tokens, real


def sdpa_layout(spans: Spans, device: torch.device | str, waste: float = 1.5) -> TreeLayout:
    """Layout for functions over rows; `spans` as in `layout.Pack`, covering every token once."""
    groups: list[RowGroup] = []
    restore = np.empty(int(spans[:, 1].max()), dtype=np.int64)
    offset = 0
    for rows in _similar_rows(spans, waste):
        group, tokens, real = _row_group(spans[rows])
        restore[tokens[real]] = offset + np.flatnonzero(real.reshape(-1))
        offset += tokens.size
        mask = None if group.mask is None else group.mask.to(device)
        groups.append(RowGroup(group.queries.to(device), group.keys.to(device), group.num_rows, mask))
    return TreeLayout(tuple(groups), torch.from_numpy(restore).to(device))


BLOCK = 128
"""Tokens of a side of FlexAttention's blocks."""


def block_map(spans: Spans) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Which blocks of queries x keys hold anything visible, and which nothing invisible: two [B, B] arrays.

    Worked out from the spans, since evaluating the mask for every token pair would cost tokens x tokens.
    """
    size = -(-int(spans[:, 1].max()) // BLOCK)
    some = np.zeros((size, size), dtype=bool)
    every = np.zeros((size, size), dtype=bool)
    for start, stop, prefix, prefix_stop in spans.tolist():
        for query in range(start // BLOCK, -(-stop // BLOCK)):
            some[query, start // BLOCK : query + 1] = True
            some[query, prefix // BLOCK : -(-prefix_stop // BLOCK)] = True
            if start <= query * BLOCK and (query + 1) * BLOCK <= stop:
                every[query, -(-start // BLOCK) : query] = True
                every[query, -(-prefix // BLOCK) : prefix_stop // BLOCK] = True
    return some, every


def _ordered(blocks: npt.NDArray[np.bool_], device: torch.device | str) -> tuple[Tensor, Tensor]:
    """Number of marked blocks of each row, and the row's columns with the marked ones first."""
    counts = blocks.sum(1)[None, None].astype(np.int32)
    columns = np.argsort(~blocks, axis=1, kind="stable")[None, None].astype(np.int32)
    return torch.from_numpy(counts).to(device), torch.from_numpy(columns).to(device)


def flex_layout(spans: Spans, device: torch.device | str) -> TreeLayout:
    """Layout for the flex function: a block mask over the pack's tokens."""
    from torch.nn.attention.flex_attention import BlockMask

    lengths = spans[:, 1] - spans[:, 0]
    # A span's own number, and that of the prompt it continues: the last prompt at or before it.
    number = np.arange(len(spans))
    prompt = np.maximum.accumulate(np.where(spans[:, 2] == spans[:, 3], number, 0))
    own = torch.from_numpy(np.repeat(number, lengths)).to(device)
    parent = torch.from_numpy(np.repeat(prompt, lengths)).to(device)

    def sees(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (key <= query) & ((own[query] == own[key]) | (parent[query] == own[key]))

    some, every = block_map(spans)
    size = int(lengths.sum())
    return TreeLayout(
        block_mask=BlockMask.from_kv_blocks(
            *_ordered(some & ~every, device),
            *_ordered(every, device),
            BLOCK_SIZE=BLOCK,
            mask_mod=sees,
            seq_lengths=(size, size),
        )
    )


def _require_layout(module: nn.Module, layout: TreeLayout | None, kwargs: dict[str, Any]) -> TreeLayout:
    if layout is None:
        raise UnsupportedModel(
            f"{type(module).__name__} does not hand the tree layout to its attention function; "
            "train a model whose attention takes keyword arguments (Llama, Qwen, Mistral and their like)"
        )
    for name in ("softcap", "s_aux", "position_bias", "sinks"):
        if kwargs.get(name) is not None:
            raise UnsupportedModel(
                f"{type(module).__name__} uses `{name}` in its attention, which tree batching does not "
                "support; choose another model"
            )
    return layout


def _sdpa_rows(
    queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, dropout: float, scale: float | None
) -> Tensor:
    repeats = queries.shape[2] // keys.shape[2]
    queries, keys, values = (t.transpose(1, 2) for t in (queries, keys, values))
    if repeats > 1:
        keys, values = keys.repeat_interleave(repeats, 1), values.repeat_interleave(repeats, 1)
    attended = F.scaled_dot_product_attention(
        queries, keys, values, attn_mask=mask, dropout_p=dropout, is_causal=mask is None, scale=scale
    )
    return attended.transpose(1, 2)


def _matmul_rows(
    queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, dropout: float, scale: float | None
) -> Tensor:
    if dropout or not products.suit(queries, keys, values, products.multiplies_bfloat16()):
        return _sdpa_rows(queries, keys, values, mask, dropout, scale)
    return products.attend(queries, keys, values, mask, scale)


def tree_sdpa(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None = None,
    dropout: float = 0.0,
    scaling: float | None = None,
    tree_layout: TreeLayout | None = None,
    attend: Callable[..., Tensor] = _sdpa_rows,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Tree attention through scaled_dot_product_attention, or what else computes rows: `attend` makes [R, Q, H, D] of
    such queries and [R, K, H_kv, D] twice.

    `query` is [1, H, T, D], `key` and `value` [1, H_kv, T, D] with H a multiple of H_kv. Returns
    [1, T, H, D].
    """
    layout = _require_layout(module, tree_layout, kwargs)
    assert layout.restore is not None
    query_T, key_T, value_T = (t[0].transpose(0, 1) for t in (query, key, value))

    def rows(tokens_T: Tensor, index: Tensor, group: RowGroup) -> Tensor:
        # index_select, because the backward of plain indexing is serial on CPU.
        taken = tokens_T.index_select(0, index)
        return taken.view(group.num_rows, -1, *taken.shape[1:])

    outputs = []
    for group in layout.groups:
        queries = rows(query_T, group.queries, group)
        keys, values = rows(key_T, group.keys, group), rows(value_T, group.keys, group)
        outputs.append(attend(queries, keys, values, group.mask, dropout, scaling).flatten(0, 1))
    return torch.cat(outputs).index_select(0, layout.restore).unsqueeze(0), None


tree_matmul = partial(tree_sdpa, attend=_matmul_rows)
"""The same through `products.attend`, where that suits."""


def flex_of_blocks(query: Tensor, key: Tensor, value: Tensor, **options: Any) -> Any:
    """FlexAttention over tokens in blocks, [1, H, T / BLOCK, BLOCK, D]. The size of a block never changes: so a kernel
    that is compiled for all lengths knows that they are multiples of it, and checks no borders."""
    from torch.nn.attention.flex_attention import flex_attention

    return flex_attention(*(t.flatten(2, 3) for t in (query, key, value)), **options)


@lru_cache(maxsize=1)
def _compiled_flex() -> Any:
    return torch.compile(flex_of_blocks)


def _flex_on_gpu(query: Tensor, key: Tensor, value: Tensor, **options: Any) -> Any:
    return _compiled_flex()(*(t.unflatten(2, (-1, BLOCK)) for t in (query, key, value)), **options)


def tree_flex(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None = None,
    dropout: float = 0.0,
    scaling: float | None = None,
    tree_layout: TreeLayout | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Tree attention through FlexAttention; shapes as in `tree_sdpa`. Compiled on GPU; on CPU it runs
    uncompiled and forward only, which is slow and there for comparison."""
    from torch.nn.attention.flex_attention import flex_attention

    layout = _require_layout(module, tree_layout, kwargs)
    if dropout:
        raise UnsupportedModel("FlexAttention has no dropout; set `train.attention: sdpa`")
    attend = _flex_on_gpu if query.is_cuda else flex_attention
    attended = attend(
        query,
        key,
        value,
        block_mask=layout.block_mask,
        scale=scaling,
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return attended.transpose(1, 2).contiguous(), None


def tree_varlen(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None = None,
    dropout: float = 0.0,
    scaling: float | None = None,
    tree_layout: TreeLayout | None = None,
    attend: Callable[..., Tensor] = varlen.attend,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Tree attention through variable-length attention; shapes as in `tree_sdpa`. `attend` makes [T, H, D] of such
    queries, and of keys and values in the order of `Sequences.keys`."""
    layout = _require_layout(module, tree_layout, kwargs)
    assert layout.sequences is not None
    if dropout:
        raise UnsupportedModel("variable-length attention has no dropout; set `train.attention: sdpa`")
    # Under autocast rotated queries and keys are wider than values, and the kernel takes none that are.
    query_T, key_T, value_T = (t[0].transpose(0, 1).to(value.dtype) for t in (query, key, value))
    keys, values = (t.index_select(0, layout.sequences.keys) for t in (key_T, value_T))
    return attend(query_T, keys, values, layout.sequences, scaling).unsqueeze(0), None


FUNCTIONS: dict[str, Callable[..., Any]] = {
    SDPA: tree_sdpa,
    MATMUL: tree_matmul,
    FLEX: tree_flex,
    VARLEN: tree_varlen,
}


@cache
def _apart(function: Callable[..., Any]) -> Any:
    """The function, left alone where a layer around it is compiled: its layout has other parts in every pack."""
    return torch.compiler.disable(function)


def register() -> None:
    """Make the functions known to transformers under their names; may be called again."""
    from transformers import AttentionInterface

    for name, function in FUNCTIONS.items():
        AttentionInterface.register(name, _apart(function))


def multiple(implementation: str, device: torch.device | str, compiled: bool) -> int:
    """What the tokens of a pack are filled up to a multiple of, so that compiled kernels suit every length."""
    return BLOCK if compiled or (implementation == FLEX and torch.device(device).type == "cuda") else 1


def pick(attention: str, device: torch.device | str, precision: str = "fp32") -> str:
    """The registered name for `train.attention`: `auto` takes flex on CUDA, and elsewhere matmul where
    `train.precision` is bf16, else sdpa."""
    if attention == "auto":
        on_cuda = torch.device(device).type == "cuda"
        attention = "flex" if on_cuda else "matmul" if precision == "bf16" else "sdpa"
    return {"sdpa": SDPA, "matmul": MATMUL, "flex": FLEX, "varlen": VARLEN}[attention]


def layout_for(implementation: str, spans: Spans, device: torch.device | str) -> TreeLayout:
    """The layout that the registered function `implementation` needs."""
    if implementation == FLEX:
        return flex_layout(spans, device)
    if implementation == VARLEN:
        return TreeLayout(sequences=varlen.sequences(spans, device))
    return sdpa_layout(spans, device, waste=1.1 if implementation == MATMUL else 1.5)
