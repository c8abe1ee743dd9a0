"""Units of which several engines have drawn parts, and what an engine says it has left."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from orchestrator.records.rows import PROMPTS, SamplingPlan, Shard
from workers.files import write_table
from workers.generation.parts import join, parts_of
from workers.generation.shard import UNFINISHED, Request, Sample, sample_shard
from workers.generation.slot import GenerationFailed

PLAN = SamplingPlan(samples=2, temperature=1.0, top_p=1.0, top_k=0, max_tokens=4, stop=(), seed=5)


def drawn(requests: Sequence[Request]) -> Iterator[tuple[int, Sample]]:
    for place, request in enumerate(requests):
        mask = [True, False] if request.prompt_id == "p3" else None  # a part of which no other one has a mask
        yield place, Sample(request.prompt_id, [request.sample_index, 7], "stop", mask)


def unit_of(folder: Path) -> Shard:
    rows = [{"prompt_id": f"p{n}", "text": "?", "token_ids": [n], "gold": "1"} for n in range(7)]
    write_table(pa.Table.from_pylist(rows, PROMPTS), folder / "prompts.parquet")
    return Shard(0, str(folder / "prompts.parquet"), 1, 6, str(folder / ".00000.parquet-e1"))


def sampled(shard: Shard, without: Sequence[str] = ()) -> dict[str, Any]:
    facts = sample_shard(shard, PLAN, None, without, drawn)
    assert facts is not None
    return facts


def test_parts_make_the_file_of_the_whole_unit(tmp_path: Path) -> None:
    unit = unit_of(tmp_path)
    whole = sampled(unit, ["p2"])
    content = Path(unit.output).read_bytes()
    parts = parts_of(unit, 2)
    assert [(part.start, part.stop) for part in parts] == [(1, 3), (3, 5), (5, 6)]
    joined = join(unit, [(part, sampled(part, ["p2"])) for part in reversed(parts)])
    assert Path(unit.output).read_bytes() == content and pq.read_table(unit.output).num_rows == 8
    for key in ("samples", "tokens", "truncated", "quarantined"):
        assert joined[key] == whole[key]
    assert joined["file"]["sha256"] == whole["file"]["sha256"] and joined["quarantined"] == ["p2"]
    assert sorted(tmp_path.glob(".*")) == [Path(unit.output)]


def test_a_part_is_told_how_long_its_own_prompts_are(tmp_path: Path) -> None:
    unit = replace(unit_of(tmp_path), expected=(1.0, 2.0, 3.0, 4.0, 5.0))
    assert [part.expected for part in parts_of(unit, 2)] == [(1.0, 2.0), (3.0, 4.0), (5.0,)]
    assert [part.expected for part in parts_of(unit_of(tmp_path), 3)] == [(), ()]


def test_a_part_that_was_changed_is_not_taken(tmp_path: Path) -> None:
    unit = unit_of(tmp_path)
    parts = [(part, sampled(part)) for part in parts_of(unit, 3)]
    Path(parts[0][0].output).write_bytes(Path(parts[1][0].output).read_bytes())
    with pytest.raises(GenerationFailed, match="rows-1-4-e0: it has changed since an engine wrote it"):
        join(unit, parts)
    assert not Path(unit.output).exists()


def test_an_engine_counts_what_it_has_left_and_gives_up_what_an_error_leaves(tmp_path: Path) -> None:
    unit, counts = unit_of(tmp_path), []

    def fails(requests: Sequence[Request]) -> Iterator[tuple[int, Sample]]:
        for each in drawn(requests[:4]):
            counts.append(UNFINISHED.samples)
            yield each
        raise OSError("no more")

    before = UNFINISHED.samples
    with pytest.raises(OSError, match="no more"):
        sample_shard(unit, PLAN, None, (), fails)
    assert [count - before for count in counts] == [10, 9, 8, 7] and UNFINISHED.samples == before
