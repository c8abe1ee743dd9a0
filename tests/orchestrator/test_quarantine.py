"""A prompt that was given up has no samples: what the rest of a run makes of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from orchestrator.errors import RatchetError
from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.run import Run
from orchestrator.records.rows import SAMPLES, SamplingPlan, Shard
from orchestrator.reports.report import report_text
from orchestrator.rounds.evaluation import solved
from orchestrator.sources.registry import SOURCES
from orchestrator.text.counts import many
from tests.support.stand_ins import StandInEngines, StandIns, make_project, run_job, skill_of
from workers.files import write_table
from workers.generation.shard import Partial, Sample

GIVEN_UP = ("gate-3", "train-0", "train-1", "train-2", "train-3", "train-4", "train-5")


class LosingEngines(StandInEngines):
    """Engines that some prompts are too much for, but not for those of a better model."""

    def generate(self, shards: list[Shard], plan: SamplingPlan) -> Iterator[tuple[Shard, dict[str, Any]]]:
        for shard, facts in super().generate(shards, plan):
            rows = pq.read_table(shard.output).to_pylist()
            kept = [row for row in rows if row["prompt_id"] not in GIVEN_UP or self.skill > 0.5]
            lost = sorted({row["prompt_id"] for row in rows} - {row["prompt_id"] for row in kept})
            if lost:
                file = write_table(pa.Table.from_pylist(kept, SAMPLES), shard.output)
                facts |= {"samples": len(kept), "file": file, "quarantined": lost, "engines_lost": ["engine 0: killed"]}
            yield shard, facts


class Losing(StandIns):
    def engines(self, model: str, probe: Path | None = None) -> StandInEngines:
        return LosingEngines(self, skill_of(model))


def test_a_run_goes_on_without_prompts_that_were_given_up(tmp_path: Path) -> None:
    said = run_job(make_project(tmp_path), Losing())
    run = tmp_path / "run"
    state = Ledger(run / "ledger").state
    before, after = (solved(run / name / "gate.parquet") for name in ("baseline/evaluation", "rounds/01/evaluation"))
    assert before.keys() == after.keys() and len(before) == 16
    assert before["gate-3"] is False
    assert state.commits["baseline/evaluation"].facts["quarantined"] == ["gate-3"]
    assert state.commits["baseline/evaluation"].facts["gate"]["problems"] == 16
    facts = state.commits["rounds/01/samples"].facts
    prompts = pq.read_table(run / "rounds/01/prompts/train.parquet")["prompt_id"].to_pylist()
    left_out = sorted(set(prompts) & set(GIVEN_UP))
    assert left_out and sorted(facts["quarantined"]) == left_out
    assert facts["samples"] == 4 * (len(prompts) - len(left_out))
    pairs = pq.read_table(run / "rounds/01/pairs/00000.parquet")["prompt_id"].to_pylist()
    assert pairs and not set(pairs) & set(left_out)
    assert state.promotions[0]["round"] == 1
    assert any(f"{len(left_out)} prompts left out" in line and "engine 0: killed" in line for line in said)
    assert "quarantined" not in state.commits["rounds/01/verdicts"].facts
    assert f"Round 1: {many(len(left_out), 'prompt')} without samples" in report_text(run, SOURCES)


def test_a_shard_without_any_sample(tmp_path: Path) -> None:
    """Prompts come in shards of one, so that some shards are empty files."""
    changes = {"generate": {"samples": 4, "max_tokens": 8, "shard_prompts": 1}}
    run_job(make_project(tmp_path, **changes), Losing())
    state = Ledger(tmp_path / "run/ledger").state
    shards = state.shards["rounds/01/samples"]
    assert any(shard.facts["samples"] == 0 for shard in shards.values())
    assert state.end is not None and state.end["state"] == "finished"


def test_what_an_engine_kept_of_an_unfinished_shard_ends_with_its_driver(tmp_path: Path) -> None:
    job = make_project(tmp_path)
    kept: list[Path] = []

    def die(name: str) -> None:
        if name == "train":
            run = Run(tmp_path / "run")
            run.epoch = 1
            partial = Partial(str(run.hidden("rounds/01/samples/00007.parquet")))
            partial.append("p", [Sample("text", [1], "stop")])
            kept.append(partial.path)
            raise RatchetError("the ranks are gone")

    with pytest.raises(RatchetError, match="the ranks are gone"):
        run_job(job, StandIns(on_call=die))
    assert kept[0].exists()
    run_job(job, StandIns())
    assert not kept[0].exists()
