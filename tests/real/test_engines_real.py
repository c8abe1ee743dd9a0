"""vLLM engines that are killed and stopped in the middle of their work."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
from transformers import AutoTokenizer

from orchestrator.config import Generate
from orchestrator.records.rows import PROMPTS, SamplingPlan, Shard
from tests.support.local_ray import local_ray
from tests.support.placements import ForEngines
from workers.files import write_table
from workers.generation.pool import GeneratorPool
from workers.generation.vllm import VLLM

pytestmark = pytest.mark.full

DEMO = Path(__file__).parents[2] / "jobs/demo"
NUM_PROMPTS, SHARD = 192, 16
PLAN = SamplingPlan(samples=4, temperature=1.0, top_p=1.0, top_k=0, max_tokens=48, stop=(), seed=5)


def write_prompts(file: Path) -> list[str]:
    tokenizer = AutoTokenizer.from_pretrained(str(DEMO / "base"))
    rows = [json.loads(line) for line in (DEMO / "train.jsonl").read_text().splitlines()[:NUM_PROMPTS]]
    prompts = [
        {"prompt_id": row["id"], "text": row["question"], "gold": row["answer"]}
        | {"token_ids": tokenizer(row["question"] + "\n")["input_ids"]}
        for row in rows
    ]
    write_table(pa.Table.from_pylist(prompts, PROMPTS), file)
    return [row["id"] for row in rows]


def sample(folder: Path, source: Path, harm: dict[int, signal.Signals]) -> tuple[dict[Any, list[int]], list[str]]:
    """Token ids by prompt and sample, and why engines were lost. `harm` maps a number of finished shards to a signal
    that an engine is sent then: the first engine the first signal, and so on."""
    folder.mkdir()
    starts = range(0, NUM_PROMPTS, SHARD)
    shards = [Shard(i, str(source), s, s + SHARD, str(folder / f".{i}.parquet-e1")) for i, s in enumerate(starts)]
    lost, done = [], 0
    settings = Generate(max_num_seqs=64, stall_timeout=15)
    with local_ray(), GeneratorPool(str(DEMO / "base"), settings, 5, ForEngines(2), VLLM, 1.0) as pool:
        pool.wait_ready()
        pids = [ray.get(slot.started) for slot in pool._slots]
        for _, facts in pool.generate(shards, PLAN):
            lost += facts.get("engines_lost", [])
            assert "quarantined" not in facts
            done += 1
            if done in harm:
                os.kill(pids[list(harm).index(done)], harm[done])
    tables = [pq.read_table(shard.output) for shard in shards]
    assert sorted(folder.glob(".*partial*")) == []
    rows = [row for table in tables for row in table.to_pylist()]
    found = {(row["prompt_id"], row["sample_index"]): row["token_ids"] for row in rows}
    assert len(found) == len(rows), "a sample came twice"
    return found, lost


def test_all_samples_come_once_from_engines_that_are_killed_and_stopped(tmp_path: Path) -> None:
    source = tmp_path / "prompts.parquet"
    ids = write_prompts(source)
    undisturbed, nothing = sample(tmp_path / "undisturbed", source, {})
    assert nothing == []
    found, lost = sample(tmp_path / "disturbed", source, {1: signal.SIGKILL, 2: signal.SIGSTOP})
    assert found.keys() == undisturbed.keys() == {(p, i) for p in ids for i in range(PLAN.samples)}
    assert len(lost) == 2
    assert any("its process" in reason for reason in lost)
    assert any("no progress for 15 s" in reason for reason in lost)
    # Each sample has its own seed. Batches of another make-up may round differently, which few samples show.
    same = sum(found[key] == undisturbed[key] for key in found)
    assert same > 0.9 * len(found)
