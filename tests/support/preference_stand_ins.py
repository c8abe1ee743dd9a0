"""Stand-ins for stages over preference data: a model that is one number, its skill.

A completion is a number, and its log-probability is minus that number, times the skill. So it is in the data which
pairs a model ranks right.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from orchestrator.records import counts, pair_ids
from orchestrator.records.masks import PAIR_MASKS
from orchestrator.records.rows import REFERENCE, PreferencePlan, ScoringPlan, pairs_schema
from tests.support.stand_ins import EOS, JOB, StandIns, StandInTrainers, make_model, skill_of
from workers.files import write_table

Row = dict[str, Any]
_PARTS = ("prompt", *counts.SIDES)


class PreferenceStandIns(StandIns):
    """The workers of one driver."""

    def tokenize_preferences(
        self, source: str, rows: list[int] | None, plan: PreferencePlan, output: str
    ) -> dict[str, Any]:
        """A token a byte; a pair with a side of more than `plan.max_tokens` of them is too long."""
        self.call("tokenize_preferences")
        found = pq.read_table(source).to_pylist()
        made = [_tokenized(row, plan) for row in (found if rows is None else [found[i] for i in rows])]
        kept = [row for row in made if plan.max_tokens is None or _longest(row) <= plan.max_tokens]
        conversational = bool(kept) and not isinstance(kept[0]["prompt"], str)
        write_table(pa.Table.from_pylist(kept, pairs_schema(conversational)), output)
        return {"pairs": len(kept), "too_long": len(made) - len(kept)}

    def trainers(self) -> PreferenceTrainers:
        return PreferenceTrainers(self)


class PreferenceTrainers(StandInTrainers):
    def score(self, plan: ScoringPlan, out_file: str, against: str | None = None) -> dict[str, Any]:
        self.workers.call("policy" if against else "reference")
        rounding = 0.5 if self.workers.kernel == "flex" else 1.0  # gross, so that it is seen
        skill = skill_of(plan.model) * rounding
        rows = [row for file in plan.pairs for row in pq.read_table(file).to_pylist()]
        no_masks = dict.fromkeys(PAIR_MASKS.values())
        pairs = [SimpleNamespace(**{side: row[f"{side}_token_ids"] for side in _PARTS}, **no_masks) for row in rows]
        logprobs = {
            pair_ids.completion_key(pair.prompt, getattr(pair, side)): -skill * _number(row[side])
            for pair, row in zip(pairs, rows, strict=True)
            for side in counts.SIDES
        }
        lengths = [1] * len(logprobs)
        write_table(pa.table([[*logprobs], [*logprobs.values()], lengths], schema=REFERENCE), out_file)
        before = pq.read_table(against).to_pydict() if against else None
        known = dict(zip(before["completion_key"], before["logprob"], strict=True)) if before else {}
        if not known.keys() >= logprobs.keys():  # a recorded run has completions by other names
            known = {}
        return counts.scored(lengths) | counts.preferences(pairs, logprobs, known or None)


def _number(side: Any) -> float:
    return float(side if isinstance(side, str) else side[0]["content"])


def _tokenized(row: Row, plan: PreferencePlan) -> Row:
    end = [EOS] if plan.append_eos else []
    ids = {name: list(json.dumps(row[name]).encode()) for name in ("prompt", "chosen", "rejected")}
    return row | {f"{name}_token_ids": value + (end if name != "prompt" else []) for name, value in ids.items()}


def _longest(row: Row) -> int:
    sides = (row["chosen_token_ids"], row["rejected_token_ids"])
    return len(row["prompt_token_ids"]) + max(map(len, sides))


def pair(prompt: str, chosen: str, rejected: str) -> Row:
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected}


def right(name: str, count: int) -> list[Row]:
    """Pairs that every model ranks right."""
    return [pair(f"{name} {i}?", "1", "2") for i in range(count)]


def wrong(name: str, count: int) -> list[Row]:
    """Pairs that no model ranks right."""
    return [pair(f"{name} {i}?", "4", "3") for i in range(count)]


def write_rows(file: Path, rows: Sequence[Any]) -> str:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file.name


def make_stages(
    folder: Path, sources: dict[str, list[Row]], stages: dict[str, Any] | None = None, **changes: Any
) -> Path:
    """A folder with sources, base model and job file, and no problems; returns the job file."""
    make_model(folder / "seed", 0.4)
    names = [write_rows(folder / f"{name}.jsonl", rows) for name, rows in sources.items()]
    job = {key: JOB[key] for key in ("name", "seed", "model", "generate", "tracking")}
    job |= {"method": "sdpo", "run_dir": str(folder / "run"), "stages": {"sources": names} | (stages or {})}
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(job | changes))
    return path
