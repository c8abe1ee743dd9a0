"""Commit units in parts, so that several engines can be at one at the same time: each part is a shard of its own, with
a file of its own, and the unit's file is made of theirs."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from orchestrator.records import counts
from orchestrator.records.masks import SAMPLE_MASK, fitted, masked
from orchestrator.records.parquet import read_table
from orchestrator.records.rows import SAMPLES, Shard
from workers.files import write_table
from workers.generation.slot import GenerationFailed


def parts_of(unit: Shard, prompts: int) -> list[Shard]:
    """The unit in parts of so many prompts. What is written for one is named as unfinished files are, so that a later
    driver removes it."""
    found = []
    for start in range(unit.start, unit.stop, prompts):
        stop = min(start + prompts, unit.stop)
        output, expected = (
            f"{unit.output}.rows-{start}-{stop}-e0",
            unit.expected[start - unit.start : stop - unit.start],
        )
        found.append(replace(unit, start=start, stop=stop, output=output, expected=expected))
    return found


def join(unit: Shard, parts: Sequence[tuple[Shard, dict[str, Any]]]) -> dict[str, Any]:
    """Write the unit's file from those of its parts, which are then removed; returns its facts, as `sample_shard` does.
    `seconds` are those of all parts together. The file is the one that the whole unit would have had, byte for byte.

    Raises:
        GenerationFailed: a part's file is not the one that its engine has hashed.
    """
    parts = sorted(parts, key=lambda part: part[0].start)
    tables = [_as_hashed(Path(part.output), facts["file"]["sha256"]) for part, facts in parts]
    schema = masked(SAMPLES) if any(SAMPLE_MASK in table.column_names for table in tables) else SAMPLES
    table = pa.concat_tables([fitted(table, schema) for table in tables]).combine_chunks()
    joined: dict[str, Any] = {
        **counts.samples(table),
        "seconds": sum(facts["seconds"] for _, facts in parts),
        "file": write_table(table, unit.output),
    }
    for part, _ in parts:
        os.unlink(part.output)
    if quarantined := [prompt for _, facts in parts for prompt in facts.get("quarantined", [])]:
        joined["quarantined"] = quarantined
    return joined


def _as_hashed(path: Path, sha256: str) -> pa.Table:
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != sha256:
        raise GenerationFailed(f"{path}: it has changed since an engine wrote it; the same command samples it again")
    return read_table(pa.BufferReader(content))
