"""Graders at the loop's seam of which there are two versions, one of which abstains.

Of wrong answers, both take half for what they are. The other half is "wrong" to the first version and unreadable to the
second. The first one besides calls a third of the right answers wrong, and names no causes.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pyarrow.parquet as pq

from orchestrator.records.rows import CAUSES, Shard
from tests.support.stand_ins import StandInGraders, StandIns, chance
from workers.files import write_table


class SecondGraders(StandInGraders):
    def _verdict(self, sample: dict[str, Any], gold: str) -> dict[str, Any]:
        found = super()._verdict(sample, gold)
        if found["verdict"] == "wrong" and chance(found["prompt_id"], found["sample_index"], "odd") < 0.5:
            found |= {"verdict": "ungradable", "reason": "cannot be read", "cause": "unreadable"}
        return found


class FirstGraders(StandInGraders):
    version: ClassVar[dict[str, int]] = {"graders_version": 1}

    def drain(self) -> Iterator[tuple[Shard, dict[str, Any]]]:
        for shard, facts in super().drain():
            if Path(shard.output).name.startswith("."):  # to be committed; others are an evaluation's own
                facts["file"] = write_table(pq.read_table(shard.output).drop_columns(["cause"]), shard.output)
            yield shard, {key: value for key, value in facts.items() if key not in CAUSES}

    def _verdict(self, sample: dict[str, Any], gold: str) -> dict[str, Any]:
        found = super()._verdict(sample, gold)
        if found["verdict"] == "correct" and chance(found["prompt_id"], found["sample_index"], "harsh") < 1 / 3:
            found["verdict"] = "wrong"
        return found


class Second(StandIns):
    def graders(self, settings: Any) -> StandInGraders:
        return SecondGraders(self)


class First(StandIns):
    def graders(self, settings: Any) -> StandInGraders:
        return FirstGraders(self)


def verdicts_of(files: list[Path]) -> list[str]:
    """All verdicts of some files, in order."""
    return [verdict for file in files for verdict in pq.read_table(file)["verdict"].to_pylist()]
