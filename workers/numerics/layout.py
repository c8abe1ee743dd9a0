"""From trees to packs: what a model computes at once, and what is scored of it. Pure; imports numpy and torch alone.

    [prompt][completion a][completion b][prompt][completion c]...

A pack is several trees in one row, without padding. A token that is not the model's own is laid out like any
other, and not scored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from workers.numerics.batching import Completion, PairTokens, Tokens, Tree


@dataclass(frozen=True, slots=True)
class Pack:
    """Trees laid out in one row of T tokens, and what is to be scored in it.

    A segment is a run of tokens whose log-probabilities are summed: first all completions in order,
    then (where prompts are scored) all prompts in order. N tokens are scored in all.
    """

    token_ids: Tensor
    """[T] int64."""
    position_ids: Tensor
    """[T] int64."""
    spans: npt.NDArray[np.int64]
    """[S, 4]: first and last-plus-one token of a prompt or completion, and those of the prompt that
    it continues (equal numbers for a prompt itself)."""
    predictors: Tensor
    """[N] int64: the token whose hidden state predicts the scored token."""
    targets: Tensor
    """[N] int64: id of the scored token."""
    segments: Tensor
    """[N] int64: the segment of the scored token."""
    num_segments: int
    num_completions: int
    longest: int
    """Tokens of the longest prompt with one completion."""

    @property
    def num_tokens(self) -> int:
        return len(self.token_ids)

    def to(self, device: torch.device | str) -> Pack:
        """The same pack with its tensors on a device."""
        names = ("token_ids", "position_ids", "predictors", "targets", "segments")
        return replace(self, **{name: getattr(self, name).to(device, non_blocking=True) for name in names})


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """A pack with B pairs or groups in it; a filler has B = 0. Index tensors point at segments, shape [B], or [R] for
    the rejected completions of all of them."""

    pack: Pack
    rows: tuple[int, ...]
    """The pairs' or groups' rows in the list they came from."""
    keys: tuple[str, ...]
    """`completion_key` of each completion, in the order of the segments."""
    completion_lengths: Tensor
    """[num_completions] int64: scored tokens of each."""
    chosen: Tensor
    rejected: Tensor
    """[R], those of a group one after the other."""
    prompts: Tensor
    """Segments of the pairs' prompts; they exist only where prompts are scored."""
    chosen_lengths: Tensor
    """Scored tokens."""
    prompt_lengths: Tensor
    group_sizes: tuple[int, ...]
    """How many rejected completions each of B has; 1 for a pair."""
    score_gaps: Tensor | None = None
    """[B] float64, by how much the chosen one's score is above the rejected one's; None where the loss reads none."""

    def to(self, device: torch.device | str) -> MicroBatch:
        """The same micro-batch with its pack on a device; the small index tensors follow when used."""
        return replace(self, pack=self.pack.to(device))


def lay_out(trees: Sequence[Tree], score_prompts: bool = False) -> Pack:
    """Write trees into one row and index what is scored: the own tokens of every completion, and prompts on request."""
    tokens: list[Tokens] = []
    positions: list[npt.NDArray[np.int64]] = []
    spans: list[tuple[int, int, int, int]] = []
    scored: list[tuple[npt.NDArray[np.int64], Tokens]] = []
    prompts: list[tuple[npt.NDArray[np.int64], Tokens]] = []
    at = 0
    for tree in trees:
        size = len(tree.prompt)
        start, stop = at, at + size
        tokens.append(tree.prompt)
        positions.append(np.arange(size))
        spans.append((start, stop, start, start))
        prompts.append((np.arange(start, stop - 1), tree.prompt[1:]))
        at = stop
        for completion in tree.completions:
            length, mask = len(completion), completion.mask
            tokens.append(completion.tokens)
            positions.append(np.arange(size, size + length))
            spans.append((at, at + length, start, stop))
            # The prompt's last token predicts the first token of each of its completions.
            predictors = np.concatenate(([stop - 1], np.arange(at, at + length - 1)))
            targets = completion.tokens
            scored.append((predictors, targets) if mask is None else (predictors[mask], targets[mask]))
            at += length
    num_completions = len(scored)
    if score_prompts:
        scored += prompts
    segments = np.repeat(np.arange(len(scored)), [len(target) for _, target in scored])
    return Pack(
        token_ids=_long(np.concatenate(tokens)),
        position_ids=_long(np.concatenate(positions)),
        spans=np.asarray(spans, dtype=np.int64),
        predictors=_long(np.concatenate([predictor for predictor, _ in scored])),
        targets=_long(np.concatenate([target for _, target in scored])),
        segments=_long(segments),
        num_segments=len(scored),
        num_completions=num_completions,
        longest=int(max(p[-1] for p in positions)) + 1,
    )


def pad(pack: Pack, multiple: int) -> Pack:
    """The pack with its tokens filled up to a multiple: by a prompt of its own, to which nothing attends and of which
    nothing is scored."""
    size, missing = pack.num_tokens, -pack.num_tokens % multiple
    if not missing:
        return pack
    return replace(
        pack,
        token_ids=F.pad(pack.token_ids, (0, missing)),
        position_ids=F.pad(pack.position_ids, (0, missing)),
        spans=np.vstack((pack.spans, (size, size + missing, size, size))),
    )


def _long(values: npt.ArrayLike) -> Tensor:
    return torch.from_numpy(np.asarray(values, dtype=np.int64))


def micro_batch(
    trees: Sequence[Tree], score_prompts: bool = False, score_gaps: Sequence[float] | None = None
) -> MicroBatch:
    """The micro-batch of trees whose members are pairs or groups. `score_gaps` has a number for each row of these."""
    rows: list[int] = []
    index: list[tuple[int, int, int, int]] = []
    all_rejected: list[int] = []
    sizes: list[int] = []
    keys: list[str] = []
    lengths: list[int] = []
    num_completions = sum(len(tree.completions) for tree in trees)
    for number, tree in enumerate(trees):
        base = len(keys)
        keys += [c.key(tree.prompt) for c in tree.completions]
        lengths += [c.num_scored for c in tree.completions]
        for member in tree.members:
            chosen, *rejected = (base + place for place in member.completions)
            rejected = rejected or [chosen]  # what is imitated stands on both sides, and cancels out of the comparison
            rows.append(int(member.tag))  # type: ignore[call-overload]
            index.append((chosen, num_completions + number, lengths[chosen], len(tree.prompt)))
            all_rejected += rejected
            sizes.append(len(rejected))
    chosens, prompts, chosen_lengths, prompt_lengths = _long(np.asarray(index, dtype=np.int64).reshape(-1, 4)).unbind(1)
    return MicroBatch(
        pack=lay_out(trees, score_prompts),
        rows=tuple(rows),
        keys=tuple(keys),
        completion_lengths=_long(lengths),
        chosen=chosens,
        rejected=_long(np.asarray(all_rejected, dtype=np.int64)),
        prompts=prompts,
        chosen_lengths=chosen_lengths,
        prompt_lengths=prompt_lengths,
        group_sizes=tuple(sizes),
        score_gaps=None if score_gaps is None else torch.tensor([score_gaps[row] for row in rows], dtype=torch.float64),
    )


def filler(pair: PairTokens, score_prompts: bool = False) -> MicroBatch:
    """A micro-batch of two tokens and no pairs, whose loss is zero: a rank that has run out of work
    must still join the collectives of its peers' forwards (ZeRO 2 and 3)."""
    tree = Tree(pair.prompt[:1], (Completion(pair.chosen[:1]),), ())
    return micro_batch([tree], score_prompts)
