"""A pair as token ids, and the names of its completions. The numerical files need this and no package beyond numpy."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import Protocol

import numpy as np
import numpy.typing as npt

from orchestrator.records.masks import Mask, as_mask

Ids = npt.NDArray[np.int32] | Sequence[int]


class PairIds(Protocol):
    """A pair as token ids, with the masks of its sides (see masks.py); without `rejected` the chosen completion is
    imitated."""

    @property
    def prompt(self) -> Ids: ...
    @property
    def chosen(self) -> Ids: ...
    @property
    def rejected(self) -> Ids | None: ...
    @property
    def chosen_mask(self) -> Mask | Sequence[bool] | None: ...
    @property
    def rejected_mask(self) -> Mask | Sequence[bool] | None: ...


def completion_key(prompt: Ids, completion: Ids, mask: Mask | Sequence[bool] | None = None) -> str:
    """Stable name of a completion of a prompt: blake2b over the token ids, 32 hex digits. The same ids with another
    mask are another completion, since the sum of their log-probabilities is another one."""
    mask = as_mask(mask, len(completion))
    # Without a mask it is the name that earlier versions have given.
    digest = blake2b(digest_size=16) if mask is None else blake2b(digest_size=16, person=b"masked")
    digest.update(len(prompt).to_bytes(8, "little"))
    digest.update(np.asarray(prompt, dtype="<i4").tobytes())
    digest.update(np.asarray(completion, dtype="<i4").tobytes())
    if mask is not None:
        digest.update(mask.tobytes())
    return digest.hexdigest()


def completion_keys(pair: PairIds) -> tuple[str, ...]:
    """The names of a pair's completions: chosen and rejected, or chosen alone."""
    chosen = completion_key(pair.prompt, pair.chosen, pair.chosen_mask)
    if pair.rejected is None:
        return (chosen,)
    return chosen, completion_key(pair.prompt, pair.rejected, pair.rejected_mask)
