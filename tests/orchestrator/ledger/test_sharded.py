"""The fingerprint of a shard is made once for all shards by the same versions of code, and is each one's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa

from orchestrator.ledger import recipes
from orchestrator.ledger.recipes import Version
from orchestrator.ledger.run import Run
from workers.files import write_table

NAME = "rounds/01/verdicts"
FACTS = {"correct": 1, "wrong": 0, "ungradable": 0, "rules": {"none": 1}, "seconds": 0.0}


def test_shards_by_other_graders_have_another_fingerprint(tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    run.claim({"host": "here", "pid": 1, "process_start": 1.0, "version": "0"})
    inputs: dict[str, Any] = {"plan": 7, "graders_version": Version("graders_version", 2)}
    step = run.sharded(NAME, inputs, version=2)
    said = [{}, {"graders_version": 2}, {"graders_version": 1}, {"graders_version": 2}]
    for index, versions in enumerate(said):
        hidden = step.hidden(index)
        step.commit(index, FACTS | versions | {"file": write_table(pa.table({"x": [index]}), hidden)})
    found = [facts["fingerprint"] for facts in step.facts()]
    new, old = (recipes.fingerprint(inputs, {"graders_version": version}) for version in (2, 1))
    assert new != old and found == [new, new, old, new]
