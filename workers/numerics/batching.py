"""Tree batching: from preference pairs to trees, and which of these are computed together. Pure; imports numpy and the
names of completions alone.

A tree is one prompt with the distinct completions that a batch needs of it, laid out in one row
without padding:

    [prompt][completion a][completion b]...

Each completion attends to the prompt and to itself, and its position ids go on where the prompt's
end. So a prompt is computed once however many pairs share it, and a completion once however many
pairs it stands in (IRPO's wrapping repeats completions). A pack is several trees in one row.

What is learned from at once is a pair, or a group: one chosen completion with several rejected ones. It stands in one
tree, and so in one pack, however a batch is cut.

A completion may have tokens that are not the model's own (orchestrator.records.masks): they are laid out
and attended to, but not scored.
"""

from __future__ import annotations

import sys
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from orchestrator.records import updates
from orchestrator.records.masks import Mask, as_mask, num_own
from orchestrator.records.pair_ids import completion_key

Tokens = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True, eq=False)
class Completion:
    """Token ids of a completion; its length is how many there are."""

    tokens: Tokens
    mask: Mask | None = None
    """Which of them are the model's own, and so are scored; None where all are."""

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def num_scored(self) -> int:
        return num_own(len(self.tokens), self.mask)

    @property
    def content(self) -> Hashable:
        """What tells it from other completions of its prompt."""
        return self.tokens.tobytes() if self.mask is None else (self.tokens.tobytes(), self.mask.tobytes())

    def key(self, prompt: Tokens) -> str:
        """`completion_key` of it behind a prompt."""
        return completion_key(prompt, self.tokens, self.mask)


@dataclass(frozen=True, slots=True, eq=False)
class PairTokens:
    """Token ids of one preference pair, or of a group; each array is one-dimensional int32 and not empty. Without
    `rejected` the chosen completion is to be imitated. A mask in which all tokens are the model's own becomes None.

    Raises:
        ValueError: a side is empty, or its mask does not fit it; the message names pair and side.
    """

    pair_id: str
    prompt: Tokens
    chosen: Tokens
    rejected: Tokens | None
    chosen_mask: Mask | None = None
    rejected_mask: Mask | None = None
    group: Hashable | None = None
    """What pairs with the same prompt and chosen completion share that are one group where the loss reads groups."""
    score_gap: float | None = None
    """By how much the chosen one's score is above the rejected one's, where they are known."""
    more: tuple[Completion, ...] = ()
    """A group's further rejected completions."""

    def __post_init__(self) -> None:
        for name in ("prompt", "chosen", "rejected"):
            side = getattr(self, name)
            if side is not None and len(side) == 0:
                raise ValueError(f"pair {self.pair_id}: {name} has no tokens; such a pair cannot be trained on")
        for name, side in (("chosen_mask", self.chosen), ("rejected_mask", self.rejected)):
            if getattr(self, name) is None:
                continue
            try:
                object.__setattr__(self, name, as_mask(getattr(self, name), 0 if side is None else len(side)))
            except ValueError as error:
                raise ValueError(f"pair {self.pair_id}: {name}: {error}; such a pair cannot be trained on") from error

    @property
    def sides(self) -> tuple[Completion, ...]:
        """The completions: chosen and rejected ones, or chosen alone."""
        chosen = Completion(self.chosen, self.chosen_mask)
        if self.rejected is None:
            return (chosen,)
        return (chosen, Completion(self.rejected, self.rejected_mask), *self.more)

    @property
    def longest(self) -> int:
        """Tokens of the longest side, prompt included."""
        return len(self.prompt) + max(map(len, self.sides))


@dataclass(frozen=True, slots=True)
class Member:
    """What must stay together in one pack: a pair (two completions), a group (the chosen one and all rejected ones), or
    one completion to be imitated or scored."""

    tag: Hashable
    """What the caller knows the member by: the row of a pair, the key of a completion."""
    completions: tuple[int, ...]
    """Places of its completions in the tree's list."""


@dataclass(frozen=True, slots=True)
class Tree:
    """A prompt, its distinct completions, and the members that use them."""

    prompt: Tokens
    completions: tuple[Completion, ...]
    members: tuple[Member, ...]

    @property
    def num_tokens(self) -> int:
        return len(self.prompt) + sum(len(c) for c in self.completions)


def grouped(pairs: Sequence[PairTokens]) -> list[PairTokens]:
    """One row a group, by the name of its first pair, in place of its pairs, which stand one after the other. A pair of
    no group stays what it is, which is a group with one rejected completion.

    Raises:
        ValueError: the pairs of a group differ in prompt or chosen completion; the message names one.
    """
    rows: list[PairTokens] = []
    for pair in pairs:
        if pair.group is None or not rows or rows[-1].group != pair.group:
            rows.append(pair)
            continue
        first, (chosen, *rejected) = rows[-1], pair.sides
        if not np.array_equal(first.prompt, pair.prompt) or first.sides[0].content != chosen.content:
            raise ValueError(f"pair {pair.pair_id}: its group has another prompt or chosen completion")
        rows[-1] = replace(first, more=(*first.more, *rejected))
    return rows


def epoch_batches(pairs: Sequence[PairTokens], seed: int, epoch: int, batch_pairs: int, order: str) -> list[list[int]]:
    """As `orchestrator.records.updates.epoch_batches`."""
    names, prompts = [pair.pair_id for pair in pairs], [pair.prompt.tobytes() for pair in pairs]
    return updates.epoch_batches(names, prompts, seed, epoch, batch_pairs, order)


def _grow(prompt: Tokens, wanted: Iterable[tuple[Hashable, tuple[Completion, ...]]], limit: int) -> list[Tree]:
    """Trees of one prompt, each of at most `limit` tokens unless a single member is longer than that."""
    trees: list[Tree] = []
    places: dict[Hashable, int] = {}
    completions: list[Completion] = []
    members: list[Member] = []
    size = len(prompt)

    def close() -> None:
        if members:
            trees.append(Tree(prompt, tuple(completions), tuple(members)))

    for tag, needed in wanted:
        fresh = {c.content: c for c in needed}
        cost = sum(len(c) for key, c in fresh.items() if key not in places)
        if members and size + cost > limit:
            close()
            places, completions, members, size = {}, [], [], len(prompt)
            cost = sum(len(c) for c in fresh.values())
        for key, completion in fresh.items():
            if key not in places:
                places[key] = len(completions)
                completions.append(completion)
        members.append(Member(tag, tuple(places[c.content] for c in needed)))
        size += cost
    close()
    return trees


def pair_trees(pairs: Sequence[PairTokens], rows: Sequence[int], limit: int) -> list[Tree]:
    """Trees of the pairs in `rows`, grouped by prompt; members are tagged with the row."""
    grouped: dict[bytes, list[int]] = {}
    for row in rows:
        grouped.setdefault(pairs[row].prompt.tobytes(), []).append(row)
    return [
        tree
        for members in grouped.values()
        for tree in _grow(pairs[members[0]].prompt, ((r, pairs[r].sides) for r in members), limit)
    ]


def completion_trees(pairs: Sequence[PairTokens], limit: int) -> list[Tree]:
    """Trees that hold every distinct completion of the pairs once; members are tagged with its key."""
    grouped: dict[bytes, tuple[Tokens, dict[str, Completion]]] = {}
    for pair in pairs:
        _, known = grouped.setdefault(pair.prompt.tobytes(), (pair.prompt, {}))
        for completion in pair.sides:
            known.setdefault(completion.key(pair.prompt), completion)
    return [
        tree
        for prompt, known in grouped.values()
        for tree in _grow(prompt, ((key, (c,)) for key, c in known.items()), limit)
    ]


def pack_trees(trees: Sequence[Tree], tokens_per_microbatch: int) -> list[list[Tree]]:
    """First-fit decreasing: trees in packs of at most so many tokens; a longer tree has its own pack.

    Only the newest 64 packs are looked at, which keeps a round of many thousand prompts fast.
    """
    packs: list[list[Tree]] = []
    room: list[int] = []
    for tree in sorted(trees, key=lambda t: -t.num_tokens):
        open_packs = range(max(0, len(room) - 64), len(room))
        place = next((i for i in open_packs if tree.num_tokens <= room[i]), None)
        if place is None:
            packs.append([])
            room.append(tokens_per_microbatch)
            place = len(packs) - 1
        packs[place].append(tree)
        room[place] -= tree.num_tokens
    return packs


def share_out(trees: Sequence[Tree], ranks: int) -> list[list[Tree]]:
    """Trees of each rank: the largest first, each to the rank that has the fewest tokens so far."""
    shares: list[list[Tree]] = [[] for _ in range(ranks)]
    loads = [0] * ranks
    for tree in sorted(trees, key=lambda t: -t.num_tokens):
        rank = loads.index(min(loads))
        shares[rank].append(tree)
        loads[rank] += tree.num_tokens
    return shares


def divide_batch(
    pairs: Sequence[PairTokens], rows: Sequence[int], tokens_per_microbatch: int, ranks: int
) -> list[list[list[Tree]]]:
    """A global batch as trees, by rank and then by pack; ranks may get different numbers of packs.

    With several ranks a tree is held below 5/4 of a rank's fair share of tokens, so that a batch of
    few prompts still occupies every rank; the price is a prompt that is computed more than once.
    """
    limit = tokens_per_microbatch
    if ranks > 1:
        total = sum(tree.num_tokens for tree in pair_trees(pairs, rows, tokens_per_microbatch))
        limit = min(limit, -(-5 * total // (4 * ranks)))
    shares = share_out(pair_trees(pairs, rows, limit), ranks)
    return [pack_trees(share, tokens_per_microbatch) for share in shares]


def real_tokens(pairs: Sequence[PairTokens], rows: Sequence[int]) -> int:
    """Tokens of a batch, scored or not, each prompt and each distinct completion once, however it is divided later."""
    return sum(tree.num_tokens for tree in pair_trees(pairs, rows, sys.maxsize))


def padded_tokens(pairs: Sequence[PairTokens], rows: Sequence[int]) -> int:
    """Tokens that one padded batch of the same pairs would process: all sides to the longest one."""
    return sum(len(pairs[row].sides) for row in rows) * max(pairs[row].longest for row in rows)
