"""Tree batching: what goes into packs, and that it changes no result."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
import numpy as np  # noqa: E402
from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from orchestrator.records import pair_ids  # noqa: E402
from workers.numerics import batching, layout  # noqa: E402
from workers.numerics.batching import PairTokens, Tree  # noqa: E402

TOKENS = st.lists(st.integers(0, 20), min_size=1, max_size=6).map(lambda ids: np.asarray(ids, dtype=np.int32))


@st.composite
def pair_lists(draw: st.DrawFn) -> list[PairTokens]:
    """Pairs of a few prompts, with completions drawn from small pools so that they repeat."""
    pairs = []
    for prompt in range(draw(st.integers(1, 4))):
        ids, pool = draw(TOKENS), draw(st.lists(TOKENS, min_size=2, max_size=5))
        for k in range(draw(st.integers(1, 5))):
            pairs.append(PairTokens(f"{prompt}-{k}", ids, draw(st.sampled_from(pool)), draw(st.sampled_from(pool))))
    return pairs


def members(packs: list[list[Tree]]) -> list[tuple[object, list[int], list[list[int]]]]:
    return [
        (member.tag, tree.prompt.tolist(), [tree.completions[place].tokens.tolist() for place in member.completions])
        for pack in packs
        for tree in pack
        for member in tree.members
    ]


@given(pair_lists(), st.integers(4, 60), st.integers(1, 3))
@settings(max_examples=150, deadline=None)
def test_every_pair_is_in_exactly_one_pack_with_both_sides(pairs: list[PairTokens], budget: int, ranks: int) -> None:
    shares = batching.divide_batch(pairs, range(len(pairs)), budget, ranks)
    assert len(shares) == ranks
    found = sorted(members([pack for share in shares for pack in share]), key=lambda m: m[0])
    expected = [(r, p.prompt.tolist(), [p.chosen.tolist(), p.rejected.tolist()]) for r, p in enumerate(pairs)]
    assert found == expected
    for pack in (pack for share in shares for pack in share):
        # Only a tree that holds a single pair may be longer than the budget, and then it is alone.
        size = sum(tree.num_tokens for tree in pack)
        assert size <= budget or (len(pack) == 1 and len(pack[0].members) == 1)


@given(pair_lists())
@settings(max_examples=100, deadline=None)
def test_one_big_pack_holds_each_prompt_and_each_distinct_completion_once(pairs: list[PairTokens]) -> None:
    ((pack,),) = batching.divide_batch(pairs, range(len(pairs)), 10**6, 1)
    prompts = {p.prompt.tobytes() for p in pairs}
    completions = {(p.prompt.tobytes(), c.tobytes()) for p in pairs for c in (p.chosen, p.rejected)}
    expected = sum(len(p) for p in prompts) + sum(len(c) for _, c in completions)
    assert sum(tree.num_tokens for tree in pack) * 4 == expected
    trees = batching.completion_trees(pairs, 10**6)
    assert sum(tree.num_tokens for tree in trees) * 4 == expected
    assert {m.tag for tree in trees for m in tree.members} == {
        pair_ids.completion_key(p.prompt, c) for p in pairs for c in (p.chosen, p.rejected)
    }


@given(pair_lists(), st.booleans())
@settings(max_examples=100, deadline=None)
def test_a_layout_scores_every_token_of_every_completion_once(pairs: list[PairTokens], score_prompts: bool) -> None:
    ((trees,),) = batching.divide_batch(pairs, range(len(pairs)), 10**6, 1)
    batch = layout.micro_batch(trees, score_prompts)
    pack = batch.pack
    starts = {(int(a), int(b)): (int(c), int(d)) for a, b, c, d in pack.spans}
    for row, chosen, rejected in zip(batch.rows, batch.chosen, batch.rejected, strict=True):
        for segment, tokens in ((chosen, pairs[row].chosen), (rejected, pairs[row].rejected)):
            mine = pack.segments == segment
            assert pack.targets[mine].tolist() == tokens.tolist()
            predictors = pack.predictors[mine].tolist()
            prompt = pairs[row].prompt
            # The first token is predicted by the prompt's last one, the others by their predecessors.
            assert pack.position_ids[predictors].tolist() == list(range(len(prompt) - 1, len(prompt) + len(tokens) - 1))
            assert pack.token_ids[predictors].tolist() == [prompt[-1], *tokens[:-1].tolist()]
            if len(tokens) > 1:
                first, last = starts[(predictors[1], predictors[1] + len(tokens))]
                assert pack.token_ids[first:last].tolist() == prompt.tolist()
    if score_prompts:
        for row, segment in zip(batch.rows, batch.prompts, strict=True):
            assert pack.targets[pack.segments == segment].tolist() == pairs[row].prompt[1:].tolist()


def some_pairs(num_prompts: int = 7, k: int = 5) -> list[PairTokens]:
    rng = np.random.default_rng(0)

    def ids(size: int) -> np.ndarray:
        return rng.integers(0, 50, size).astype(np.int32)

    return [
        PairTokens(f"{p}-{i}", prompt, ids(3 + i), ids(4))
        for p, prompt in enumerate(ids(5) for _ in range(num_prompts))
        for i in range(k)
    ]


@pytest.mark.parametrize("order", ["pairs", "prompts"])
def test_epochs_visit_every_pair_once_and_differ(order: str) -> None:
    pairs = some_pairs()
    first, again, second, other = (
        batching.epoch_batches(pairs, seed, epoch, 8, order) for seed, epoch in ((1, 0), (1, 0), (1, 1), (2, 0))
    )
    assert sorted(row for batch in first for row in batch) == list(range(35))
    assert [len(batch) for batch in first] == [8, 8, 8, 8, 3]
    assert first == again != second
    assert first != other


def test_order_prompts_keeps_a_prompts_pairs_together() -> None:
    pairs = some_pairs()
    for batch in batching.epoch_batches(pairs, 3, 0, 5, "prompts"):
        assert len({pairs[row].prompt.tobytes() for row in batch}) == 1


def test_the_order_does_not_depend_on_library_versions() -> None:
    assert batching.epoch_batches(some_pairs(2, 3), 7, 0, 4, "pairs") == [[0, 4, 1, 5], [3, 2]]


def test_completion_key_is_stable_and_separates_prompt_from_completion() -> None:
    def key(prompt: list[int], completion: list[int]) -> str:
        return pair_ids.completion_key(np.asarray(prompt, dtype=np.int32), np.asarray(completion, dtype=np.int32))

    assert key([1, 2], [3]) == "b7abc0cbb050379e92e572433910e0a9"
    assert key([1, 2], [3]) != key([1], [2, 3])
    wide = pair_ids.completion_key(np.asarray([1, 2], dtype=np.int64), np.asarray([3], dtype=np.int64))
    assert wide == key([1, 2], [3])


def test_ranks_share_a_batch_of_one_prompt() -> None:
    pairs = some_pairs(1, 16)
    loads = [
        sum(tree.num_tokens for pack in share for tree in pack)
        for share in batching.divide_batch(pairs, range(16), 10_000, 4)
    ]
    assert min(loads) > 0.5 * max(loads)


def test_a_filler_has_no_pairs() -> None:
    batch = layout.filler(some_pairs(1, 1)[0])
    assert batch.rows == () and batch.pack.num_tokens == 2 and batch.pack.num_segments == 1


def test_an_empty_side_is_refused() -> None:
    ids = np.asarray([1], dtype=np.int32)
    with pytest.raises(ValueError, match="pair a: rejected has no tokens"):
        PairTokens("a", ids, ids, ids[:0])


def test_padded_tokens_counts_both_sides_at_the_longest() -> None:
    pairs = some_pairs(1, 2)
    assert batching.padded_tokens(pairs, [0, 1]) == 2 * 2 * (5 + 4)
