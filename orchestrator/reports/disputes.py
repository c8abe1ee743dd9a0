"""Where graders differ about the same answer (`grade.audit`): counts and examples, for the report."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from orchestrator.ledger import waves
from orchestrator.ledger.ledger import State
from orchestrator.records.golds import shown
from orchestrator.records.parquet import read_table
from orchestrator.reports.tables import parquet_files, round_step

EXAMPLES = 10
"""Most differing answers of a round that are shown, each extracted answer of a prompt once."""


@dataclass
class Disputes:
    """What the graders differ about in one round."""

    asked: int = 0
    """Answers that every grader was asked about."""
    disputed: int = 0
    splits: Counter[str] = field(default_factory=Counter)
    """Answers by who says correct, such as "number, not exact"."""
    examples: list[dict[str, Any]] = field(default_factory=list)


def disputes(run_dir: Path, state: State, number: int) -> Disputes:
    """What the graders differ about in a round; nothing was asked where the job did not want it.

    Raises:
        OSError, pyarrow.ArrowInvalid: a file is gone or damaged.
    """
    of_round = Disputes()
    shown_already: set[tuple[str, str]] = set()
    golds = _golds(run_dir, state, number)
    folders = waves.folders(state, f"rounds/{number:02d}")
    for file in (file for folder in folders for file in parquet_files(run_dir, state, f"{folder}/verdicts")):
        if "opinions" not in pq.read_schema(file).names:
            continue
        columns = ["prompt_id", "sample_index", "verdict", "extracted", "opinions"]
        for row in read_table(file, columns=columns).to_pylist():
            opinions = dict(row["opinions"] or ())
            of_round.asked += bool(opinions)
            sure = [name for name, verdict in opinions.items() if verdict == "correct"]
            if not 0 < len(sure) < len(opinions):
                continue
            of_round.disputed += 1
            of_round.splits[f"{', '.join(sure)}, not {', '.join(name for name in opinions if name not in sure)}"] += 1
            key = (row["prompt_id"], row["extracted"])
            if key not in shown_already and len(of_round.examples) < EXAMPLES:
                of_round.examples.append(row | {"opinions": opinions, "gold": shown(golds.get(row["prompt_id"], ""))})
            shown_already.add(key)
    return of_round


def _golds(run_dir: Path, state: State, number: int) -> dict[str, str]:
    gold_by_prompt: dict[str, str] = {}
    for file in parquet_files(run_dir, state, round_step(number, "prompts")):
        table = read_table(file, columns=["prompt_id", "gold"])
        gold_by_prompt |= zip(table["prompt_id"].to_pylist(), table["gold"].to_pylist(), strict=True)
    return gold_by_prompt
