"""Masks that an engine gives with its samples: kept over its death, written, and refused where they do not fit."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from orchestrator.records.masks import masked
from orchestrator.records.rows import SAMPLES, SamplingPlan
from tests.workers.generation.test_generator_pool import shards_of
from workers.generation.shard import Partial, Request, Sample, sample_shard

PLAN = SamplingPlan(samples=2, temperature=1.0, top_p=1.0, top_k=0, max_tokens=9, stop=(), seed=1)


class Drawn:
    """Samples of three tokens; those of a prompt that is named `tool` have a middle that is not the model's."""

    def __init__(self, mask: list[bool]) -> None:
        self.mask, self.prompts = mask, set[str]()

    def __call__(self, requests: Sequence[Request]) -> Iterator[tuple[int, Sample]]:
        for place, request in enumerate(requests):
            self.prompts.add(request.prompt_id)
            mask = self.mask if request.prompt_id == "tool" else None
            yield place, Sample("abc", [1, 2, 3 + request.sample_index], "stop", mask)


def test_masks_are_written_and_kept_for_another_engine(tmp_path: Path) -> None:
    [shard] = shards_of(tmp_path, ["tool", "plain"])
    assert sample_shard(shard, PLAN, ["tool"], [], Drawn([True, False, True])) is None
    later = Drawn([True, True, True])
    facts = sample_shard(shard, PLAN, None, [], later)
    assert facts is not None and later.prompts == {"plain"} and facts["tokens"] == 12
    table = pq.read_table(shard.written)
    assert table.schema == masked(SAMPLES)
    assert table["mask"].to_pylist() == [[True, False, True]] * 2 + [None] * 2


def test_samples_without_a_mask_are_written_as_ever(tmp_path: Path) -> None:
    """Also where an engine spells out that all tokens are the model's, and in what is kept of unfinished shards."""
    [shard] = shards_of(tmp_path, ["tool", "plain"])
    assert sample_shard(shard, PLAN, ["tool"], [], Drawn([True] * 3)) is None
    [line] = [line for line in Partial(shard.output).path.read_text().splitlines() if line]
    assert json.loads(line) == ["tool", [["abc", [1, 2, 3], "stop"], ["abc", [1, 2, 4], "stop"]]]
    sample_shard(shard, PLAN, None, [], Drawn([]))
    assert pq.read_schema(shard.written) == SAMPLES


@pytest.mark.parametrize(
    ("mask", "said"),
    [([True], "1 truth values for 3 tokens"), ([False] * 3, "no token is the model's own")],
)
def test_a_mask_that_does_not_fit_is_refused(tmp_path: Path, mask: list[bool], said: str) -> None:
    [shard] = shards_of(tmp_path, ["tool"])
    with pytest.raises(ValueError, match=f"prompt tool, sample 0: the engine's mask: {said}"):
        sample_shard(shard, PLAN, None, [], Drawn(mask))
    assert not Partial(shard.output).path.exists() and not Path(shard.written).exists()
