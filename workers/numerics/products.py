"""Attention over rows as plain matrix products, for bfloat16 on processors. Imports torch alone.

torch's own attention for processors computes in small blocks, by a library that knows little of bfloat16 on many of
them, at a fifth of the speed of a matrix product there. Here the same is three products a pass, by oneDNN. The scores
stay float32, as in torch's own: the numbers that are multiplied are bfloat16's, so products of them at that precision
lose nothing, and the sums are float32. Of the scores nothing is kept for the backward pass, which computes them again.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

BLOCK_SCORES = 2**20
"""Scores at once (4 MiB), so that they stay in the processor's cache; more, where a head has more."""
MOST_SCORES = 2**22
"""Scores of a row and a head of keys from which on torch's own attention is used, which never holds them all."""


@lru_cache(maxsize=1)
def multiplies_bfloat16() -> bool:
    """Whether this processor does."""
    found = torch.cpu.get_capabilities()
    return bool(found.get("avx512_bf16") or found.get("amx_bf16"))


def suit(query_RQHD: Tensor, key_RKHD: Tensor, value_RKHD: Tensor, fast: bool, most: int = MOST_SCORES) -> bool:
    """Whether `attend` can compute these rows, and is faster at it; `fast` is as `multiplies_bfloat16` tells."""
    tensors = (query_RQHD, key_RKHD, value_RKHD)
    if not fast or any(t.device.type != "cpu" or t.dtype != torch.bfloat16 for t in tensors):
        return False
    repeats = query_RQHD.shape[2] // key_RKHD.shape[2]
    few = repeats * query_RQHD.shape[1] * key_RKHD.shape[1] <= most
    same: bool = query_RQHD.shape[3] == key_RKHD.shape[3] == value_RKHD.shape[3]
    return few and same


def attend(
    query_RQHD: Tensor,
    key_RKHD: Tensor,
    value_RKHD: Tensor,
    mask: Tensor | None,
    scale: float | None,
    block: int = BLOCK_SCORES,
) -> Tensor:
    """Attention of R rows of Q queries to K keys, [R, Q, H, D] in bfloat16; H is a multiple of the heads of keys.

    `mask` is [R, 1, Q, K] bool, true where a query sees a key; None is plain causal, with Q = K. Every query sees a
    key. `scale` is that of the scores; None is one over the root of D. `block` is how many scores are made at once.
    """
    scale = 1.0 / math.sqrt(query_RQHD.shape[-1]) if scale is None else scale
    found: Tensor = _Attention.apply(query_RQHD, key_RKHD, value_RKHD, mask, scale, block)
    return found


@contextmanager
def _of_bfloat16() -> Iterator[None]:
    """Within it, products of float32 matrices whose numbers are bfloat16's are as fast as theirs."""
    matmul = torch.backends.mkldnn.matmul
    before = matmul.fp32_precision
    matmul.fp32_precision = "bf16"
    try:
        with torch.autocast("cpu", enabled=False):
            yield
    finally:
        matmul.fp32_precision = before


def _by_head(tokens_RTHD: Tensor, heads: int) -> Tensor:
    """[R, T, H, D] as [R * heads, H / heads * T, D]: heads that share keys stand behind each other."""
    rows, length, all_heads, size = tokens_RTHD.shape
    parted = tokens_RTHD.reshape(rows, length, heads, all_heads // heads, size)
    return parted.permute(0, 2, 3, 1, 4).reshape(rows * heads, -1, size)


def _by_token(heads_BND: Tensor, shape: torch.Size) -> Tensor:
    """The way back from `_by_head` to a shape [R, T, H, D]."""
    rows, length, all_heads, size = shape
    heads = len(heads_BND) // rows
    parted = heads_BND.view(rows, heads, all_heads // heads, length, size)
    return parted.permute(0, 3, 1, 2, 4).reshape(shape)


def _bias(mask: Tensor | None, queries: int, device: torch.device) -> Tensor:
    """[R or 1, 1, 1, Q, K] float32 to be added to scores."""
    seen = torch.ones(1, 1, queries, queries, dtype=torch.bool, device=device).tril_() if mask is None else mask
    return torch.zeros(seen.shape, device=device).masked_fill_(~seen, -math.inf).unsqueeze(1)


class _Blocks:
    """Scores of a call, block by block of rows and heads of keys."""

    def __init__(self, query: Tensor, key: Tensor, mask: Tensor | None, scale: float, block: int) -> None:
        self.rows, self.queries, heads = query.shape[:3]
        self.heads = key.shape[2]
        self.repeats = heads // self.heads
        self.query, self.key = _by_head(query, self.heads), _by_head(key, self.heads)
        self.bias = _bias(mask, self.queries, query.device)
        self.scale = scale
        self.size = max(1, block // (self.query.shape[1] * self.key.shape[1]))

    def __iter__(self) -> Iterator[tuple[slice, Tensor]]:
        """Each block, and its scores: [B, H / heads * Q, K] float32."""
        which = torch.arange(self.rows, device=self.query.device).repeat_interleave(self.heads)
        for start in range(0, len(self.query), self.size):
            block = slice(start, start + self.size)
            query, key = self.query[block].float(), self.key[block].float()
            bias = self.bias if len(self.bias) == 1 else self.bias[which[block]]
            scores = torch.bmm(query, key.transpose(1, 2)).mul_(self.scale)
            scores.view(len(query), self.repeats, self.queries, -1).add_(bias[:, 0])
            yield block, scores


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, *how: Any) -> Tensor:
        mask, ctx.scale, ctx.block = how
        ctx.save_for_backward(query, key, value, mask)
        with _of_bfloat16():
            blocks = _Blocks(query, key, mask, ctx.scale, ctx.block)
            values = _by_head(value, blocks.heads)
            attended = torch.empty_like(blocks.query)
            for block, scores in blocks:
                torch.bmm(scores.softmax(-1).to(value.dtype), values[block], out=attended[block])
            return _by_token(attended, query.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, mask = ctx.saved_tensors
        with _of_bfloat16():
            blocks = _Blocks(query, key, mask, ctx.scale, ctx.block)
            values, outer = _by_head(value, blocks.heads), _by_head(grads[0], blocks.heads)
            of_query, of_key, of_value = (torch.empty_like(t) for t in (blocks.query, blocks.key, values))
            for block, scores in blocks:
                with torch.enable_grad():
                    shares = scores.requires_grad_().softmax(-1)
                below = torch.bmm(outer[block].float(), values[block].float().transpose(1, 2))
                (slope,) = torch.autograd.grad(shares, scores, below)
                slope = slope.mul_(ctx.scale).to(query.dtype)
                torch.bmm(shares.detach().to(value.dtype).transpose(1, 2), outer[block], out=of_value[block])
                torch.bmm(slope, blocks.key[block], out=of_query[block])
                torch.bmm(slope.transpose(1, 2), blocks.query[block], out=of_key[block])
        return (
            _by_token(of_query, query.shape),
            _by_token(of_key, key.shape),
            _by_token(of_value, value.shape),
            *(None, None, None),
        )
