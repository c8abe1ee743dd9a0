"""Attention over packs of trees, as attention functions for transformers. The numerics import torch alone.

Every token attends to itself and to what precedes it in its own prompt or completion, and a
completion's tokens also to the whole prompt that they continue; never to another completion or tree.

Three functions compute exactly that:

- `sdpa`, anywhere: each prompt and each completion is one row of a batched
  scaled_dot_product_attention call, its keys gathered as [prompt][completion]. Rows of similar size
  share a call, so that the masks are as large as the real work and never tokens x tokens.
- `matmul`, on CPU: the same rows, those in bfloat16 by `workers.numerics.products`.
- `flex`, on GPU: FlexAttention with a block mask built once a pack. So far it was compared with `sdpa`
  on CPU only, uncompiled and forward (FlexAttention has no backward there); tests/workers/numerics/test_gpu.py holds
  the comparison that a GPU should make.

transformers builds no mask of its own for an attention function whose name it has no mask for, and
hands keyword arguments of the model's forward down to it: that is how the layout gets there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from workers.numerics import products

SDPA = "ratchet_tree_sdpa"
MATMUL = "ratchet_tree_matmul"
FLEX = "ratchet_tree_flex"

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
    """What an attention call needs to know of a pack: row groups (sdpa) or a block mask (flex)."""

    groups: tuple[RowGroup, ...] = ()
    restore: Tensor | None = None
    """[T] int64: where each token's output stands in the groups' outputs put behind each other."""
    block_mask: Any = None


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


@lru_cache(maxsize=1)
def _compiled_flex() -> Any:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=True)


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
    attend = _compiled_flex() if query.is_cuda else flex_attention
    attended = attend(
        query,
        key,
        value,
        block_mask=layout.block_mask,
        scale=scaling,
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return attended.transpose(1, 2).contiguous(), None


def register() -> None:
    """Make the functions known to transformers under their names; may be called again."""
    from transformers import AttentionInterface

    AttentionInterface.register(SDPA, tree_sdpa)
    AttentionInterface.register(MATMUL, tree_matmul)
    AttentionInterface.register(FLEX, tree_flex)


def pick(attention: str, device: torch.device | str, precision: str = "fp32") -> str:
    """The registered name for `train.attention`: `auto` takes flex on CUDA, and elsewhere matmul where
    `train.precision` is bf16, else sdpa."""
    if attention == "auto":
        on_cuda = torch.device(device).type == "cuda"
        attention = "flex" if on_cuda else "matmul" if precision == "bf16" else "sdpa"
    return {"sdpa": SDPA, "matmul": MATMUL, "flex": FLEX}[attention]


def layout_for(implementation: str, spans: Spans, device: torch.device | str) -> TreeLayout:
    """The layout that the registered function `implementation` needs."""
    if implementation == FLEX:
        return flex_layout(spans, device)
    return sdpa_layout(spans, device, waste=1.1 if implementation == MATMUL else 1.5)


def attention_window(config: Any) -> int | None:
    """Longest path (prompt and one completion, in tokens) on which the model's attention is full.

    None means no limit. Raises UnsupportedModel for layers that are no attention over all earlier
    tokens at any length (recurrent, convolutional), and for score changes that are not reproduced.
    """
    config = config.get_text_config() if hasattr(config, "get_text_config") else config
    name = getattr(config, "model_type", "model")
    kinds = set(getattr(config, "layer_types", None) or ())
    strange = kinds - {"full_attention", "sliding_attention", "chunked_attention", "attention"}
    if strange:
        raise UnsupportedModel(
            f"{name}: layers of type {', '.join(sorted(strange))} carry state from token to token, or attend "
            "to some of them, so completions cannot share one prompt; choose a model whose layers all attend in full"
        )
    if getattr(config, "attn_logit_softcapping", None) is not None:
        raise UnsupportedModel(
            f"{name}: attn_logit_softcapping is not supported by tree attention; choose another model"
        )
    windows = []
    if (not kinds or "sliding_attention" in kinds) and getattr(config, "use_sliding_window", True):
        windows.append(getattr(config, "sliding_window", None))
    if "chunked_attention" in kinds:
        windows.append(getattr(config, "attention_chunk_size", None))
    return min((int(w) for w in windows if w), default=None)


def rope_limit(config: Any) -> tuple[int, str] | None:
    """Longest path (in tokens) whose rotary embedding does not depend on what else is in the pack, and the kind of
    embedding that sets it; None where none depends.

    transformers takes the frequencies of `dynamic` and `longrope` from the longest path of a batch as soon as that
    passes the context that the model was first trained with, so shorter paths beside it would get others than alone.
    """
    config = config.get_text_config() if hasattr(config, "get_text_config") else config
    found = []
    for rope in rotations(config):
        kind, original = str(rope.get("rope_type", rope.get("type"))), rope.get("original_max_position_embeddings")
        if "dynamic" in kind or kind in ("longrope", "su"):
            original = original or getattr(config, "original_max_position_embeddings", None)
            found.append((int(original or config.max_position_embeddings), kind))
    return min(found, default=None)


def rotations(config: Any) -> list[dict[str, Any]]:
    """The rotary embeddings of a config: one, or one for each kind of layer."""
    rope = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    return [rope, *(value for value in rope.values() if isinstance(value, dict))]


def path_limit(config: Any) -> tuple[int, str] | None:
    """Longest path that trees compute as the model does alone, in tokens, and why; None where there is no limit.

    Raises UnsupportedModel as `attention_window`.
    """
    window, rope = attention_window(config), rope_limit(config)
    limits = []
    if window is not None:
        limits.append((window, f"the model's attention window is {window}, and tree attention is full"))
    if rope is not None:
        of = f"beyond {rope[0]} tokens the model's rotary embedding ({rope[1]}) depends on the longest path of a pack"
        limits.append((rope[0], of))
    return min(limits, default=None)


def check_window(config: Any, longest: int) -> None:
    """Raise UnsupportedModel when a path of `longest` tokens is longer than `path_limit` allows."""
    limit = path_limit(config)
    if limit is not None and longest > limit[0]:
        raise UnsupportedModel(
            f"{getattr(config, 'model_type', 'model')}: a prompt with its completion has {longest} tokens, but "
            f"{limit[1]}; set `train.max_tokens: {limit[0]}` to drop longer pairs, or choose a model without this limit"
        )
