"""Prompts are found by their ids, and pairs are chosen and written file by file, also where only some are kept."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from orchestrator.errors import Damaged
from orchestrator.records.masks import masked
from orchestrator.records.rows import PROMPTS, SAMPLES, VERDICTS
from orchestrator.rounds.pair_files import Scored, write_gold, write_pairs, write_replay
from orchestrator.rounds.pairing import PairingPlan, random_subset
from orchestrator.rounds.prompt_rows import Prompts

NAMES = [f"p{number}" for number in range(24)]


def table(rows: list[dict[str, Any]], schema: pa.Schema) -> pa.Table:
    return pa.Table.from_pylist([{name: row.get(name) for name in schema.names} for row in rows], schema)


def write_prompts(file: Path, names: list[str], size: int = 4) -> Path:
    """Every third has no gold solution."""
    rows = [
        {"prompt_id": name, "text": f"{name}?", "token_ids": [n], "gold": "1"}
        | ({"solution": f"so {name}", "solution_token_ids": [n, n]} if n % 3 else {})
        for n, name in enumerate(names)
    ]
    pq.write_table(table(rows, PROMPTS), file, row_group_size=size)
    return file


def write_shard(folder: Path, names: list[str], mask: bool = False, wrong: bool = True) -> Scored:
    """Four samples of each prompt, the even ones right; without `wrong` all are."""
    folder.mkdir()
    samples = [
        {"prompt_id": name, "sample_index": i, "text": f"{name} {i}", "token_ids": [7, i], "num_tokens": 2}
        | {"finish_reason": "stop", "mask": [True, False]}
        for name in names
        for i in range(4)
    ]
    pq.write_table(table(samples, masked(SAMPLES) if mask else SAMPLES), folder / "samples.parquet")
    said = [row | {"verdict": "wrong" if wrong and row["sample_index"] % 2 else "correct"} for row in samples]
    pq.write_table(table(said, VERDICTS), folder / "verdicts.parquet")
    return Scored(folder / "samples.parquet", folder / "verdicts.parquet")


def test_prompts_are_found_in_any_order_and_one_that_is_none_is_named(tmp_path: Path) -> None:
    prompts = Prompts(write_prompts(tmp_path / "prompts", NAMES))
    assert prompts.rows(NAMES[::-2])["text"].to_pylist() == [f"{name}?" for name in NAMES[::-2]]
    assert [name for part in prompts.ids() for name in part] == NAMES and not prompts.conversational
    for ids in (["none"], [*NAMES, "none"]):
        with pytest.raises(Damaged, match="has no prompt 'none'"):
            prompts.rows(ids)
    with pytest.raises(Damaged, match="has no prompt 'p1'"):
        Prompts(write_prompts(tmp_path / "empty", [])).rows(["p1"])
    # An id that stands twice has a hash that stands twice: then ids are told apart by themselves.
    assert Prompts(write_prompts(tmp_path / "twice", ["a", "b", "a"])).places(["a", "b"]).tolist() == [2, 1]


def test_some_pairs_are_the_same_as_of_all(tmp_path: Path) -> None:
    prompts = write_prompts(tmp_path / "prompts", NAMES)
    shards = [write_shard(tmp_path / str(start), NAMES[start : start + 8]) for start in (0, 8, 16)]
    made = write_pairs(prompts, shards, PairingPlan(2), tmp_path / "all")
    every = pq.read_table(tmp_path / "all")
    assert made["pairs"] == made["before_cap"] == every.num_rows == 48 and made["prompts_paired"] == 24
    for cap in (1, 5, 47):
        some = write_pairs(prompts, shards, PairingPlan(2, max_pairs=cap, seed=cap), tmp_path / "some")
        kept = random_subset(48, cap, cap)
        assert pq.read_table(tmp_path / "some").equals(every.take(kept))
        assert some == made | {"pairs": cap}


GROUPS = PairingPlan(2, "best_rest")


def test_groups_are_kept_and_left_out_whole(tmp_path: Path) -> None:
    prompts = write_prompts(tmp_path / "prompts", NAMES)
    shards = [write_shard(tmp_path / str(start), NAMES[start : start + 8]) for start in (0, 8, 16)]
    made = write_pairs(prompts, shards, GROUPS, tmp_path / "all")
    every = pq.read_table(tmp_path / "all")
    assert (made["pairs"], made["groups"], made["before_cap"]) == (48, 24, 48)
    groups = every["group"].to_pylist()
    assert groups[::2] == groups[1::2] and {*groups} == {f"{name}/0" for name in NAMES}
    for cap in (1, 5, 23, 24):
        some = write_pairs(prompts, shards, replace(GROUPS, max_pairs=cap, seed=cap), tmp_path / "some")
        kept = random_subset(24, cap, cap) or range(24)
        wanted = write_pairs(prompts, shards, replace(GROUPS, seed=cap), tmp_path / "wanted")
        of_all = pq.read_table(tmp_path / "wanted").take([row for group in kept for row in (2 * group, 2 * group + 1)])
        assert pq.read_table(tmp_path / "some").equals(of_all)
        assert some == wanted | {"pairs": 2 * cap, "groups": cap}


def test_groups_are_replayed_whole_and_named_by_their_round(tmp_path: Path) -> None:
    prompts = write_prompts(tmp_path / "prompts", NAMES)
    shard = write_shard(tmp_path / "0", NAMES)
    write_pairs(prompts, [shard], replace(GROUPS, scores=True), tmp_path / "pairs")
    earlier = pq.read_table(tmp_path / "pairs").to_pylist()
    assert write_replay([tmp_path / "pairs"] * 2, 0.5, 3, tmp_path / "replay", first=2) == {"pairs": 48, "rounds": 2}
    found = pq.read_table(tmp_path / "replay").to_pylist()
    of_round = [row for row in found if row["pair_id"].startswith("02:")]
    groups = [row["group"] for row in of_round]
    assert len(of_round) == 24 and all(groups.count(name) == 2 for name in groups) and len({*groups}) == 12
    known = {f"02:{row['pair_id']}": row | {"group": f"02:{row['group']}"} for row in earlier}
    assert all(row == known[row["pair_id"]] | {"pair_id": row["pair_id"]} for row in of_round)


def test_scores_are_kept_where_they_are_wanted(tmp_path: Path) -> None:
    prompts, shard = write_prompts(tmp_path / "prompts", NAMES), write_shard(tmp_path / "0", NAMES)
    write_pairs(prompts, [shard], PairingPlan(2, scores=True), tmp_path / "scored")
    write_pairs(prompts, [shard], PairingPlan(2), tmp_path / "plain")
    scored, plain = pq.read_table(tmp_path / "scored"), pq.read_table(tmp_path / "plain")
    assert {*scored["chosen_score"].to_pylist()} == {1.0} and {*scored["rejected_score"].to_pylist()} == {0.0}
    assert scored.drop_columns(["chosen_score", "rejected_score"]).equals(plain), "and the rest is what it was"


def test_masks_are_written_where_a_file_with_pairs_has_them(tmp_path: Path) -> None:
    prompts = write_prompts(tmp_path / "prompts", NAMES)
    plain, with_masks = write_shard(tmp_path / "0", NAMES[:8]), write_shard(tmp_path / "1", NAMES[8:], mask=True)
    without_pairs = write_shard(tmp_path / "2", NAMES[8:], mask=True, wrong=False)
    write_pairs(prompts, [plain, with_masks], PairingPlan(1), tmp_path / "masked")
    assert pq.read_table(tmp_path / "masked")["chosen_mask"].to_pylist() == [None] * 8 + [[True, False]] * 16
    write_pairs(prompts, [plain, without_pairs], PairingPlan(1), tmp_path / "plain")
    assert "chosen_mask" not in pq.read_schema(tmp_path / "plain").names


def test_gold_solutions_are_those_of_their_prompts(tmp_path: Path) -> None:
    prompts = write_prompts(tmp_path / "prompts", NAMES)
    assert write_gold(prompts, PairingPlan(1), tmp_path / "gold")["pairs"] == 16
    found = pq.read_table(tmp_path / "gold").to_pylist()
    assert [row["chosen"] for row in found] == [f"so {name}" for n, name in enumerate(NAMES) if n % 3]
    shard = write_shard(tmp_path / "0", NAMES[:8])
    write_pairs(prompts, [shard], PairingPlan(1, gold_as_chosen="only"), tmp_path / "only")
    assert {row["chosen"] for row in pq.read_table(tmp_path / "only").to_pylist()} == {
        f"so p{n}" for n in range(8) if n % 3
    }
