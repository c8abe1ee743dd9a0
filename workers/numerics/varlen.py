"""Trees as sequences of any length for torch's variable-length attention. Imports torch alone.

Every prompt is a sequence, and so is every completion, whose keys are [prompt][completion]: what it may see, without
padding and without a mask. The kernel is for GPUs and bfloat16; it was not tried.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Sequences:
    """S of them behind each other. All T tokens are queries, in their order."""

    keys: Tensor
    """[sum of K] int64: token of each key."""
    query_starts: Tensor
    """[S + 1] int32: where the queries of each start, and the last ones end."""
    key_starts: Tensor
    """The same of keys."""
    most_queries: int
    most_keys: int
    """Of a sequence."""


def sequences(spans: npt.NDArray[np.int64], device: torch.device | str) -> Sequences:
    """The sequences of a pack; `spans` as in `layout.Pack`, covering every token once."""
    queries = spans[:, 1] - spans[:, 0]
    keys = queries + spans[:, 3] - spans[:, 2]
    order = np.concatenate([np.r_[first:last, start:stop] for start, stop, first, last in spans.tolist()])

    def starts(lengths: npt.NDArray[np.int64]) -> Tensor:
        return torch.from_numpy(np.concatenate(([0], lengths.cumsum())).astype(np.int32)).to(device)

    where = torch.from_numpy(order).to(device)
    return Sequences(where, starts(queries), starts(keys), int(queries.max()), int(keys.max()))


def attend(query_THD: Tensor, key_KHD: Tensor, value_KHD: Tensor, rows: Sequences, scale: float | None) -> Tensor:
    """Attention of T queries to keys and values in the order of `Sequences.keys`: [T, H, D]. The last query of a
    sequence sees its last key, the one before it the key before that, and so on."""
    from torch.nn.attention.varlen import varlen_attn

    starts, most = (rows.query_starts, rows.key_starts), (rows.most_queries, rows.most_keys)
    how: dict[str, Any] = {"scale": scale, "window_size": (-1, 0), "enable_gqa": query_THD.shape[1] != key_KHD.shape[1]}
    found = varlen_attn(query_THD, key_KHD, value_KHD, *starts, *most, **how)
    assert isinstance(found, Tensor)
    return found
