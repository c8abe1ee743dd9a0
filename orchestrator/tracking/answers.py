"""Tables of what models said, for people: which way it went, the text, and what was asked."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from orchestrator.ledger.ledger import State
from orchestrator.records.golds import shown
from orchestrator.reports.tables import round_step, step_rows

MOST = 100
"""Rows of a table."""
Rows = list[dict[str, object]]
_ANSWER = ["split", "prompt_id", "text", "verdict", "extracted", "prompt", "gold"]


def gate_rows(run_dir: Path, state: State, number: int) -> Rows:
    """The first gate answers of a round's model (0: the base model), the wrong ones first."""
    answered, rows = _gate(run_dir, state, number), []
    asked = _asked(run_dir, state, answered)
    for row in answered.values():
        prompt, gold = asked.get(str(row["prompt_id"]), ("", ""))
        rows.append(
            {
                "verdict": row.get("verdict"),
                "text": row.get("text"),
                "gold": gold,
                "prompt": prompt,
                "extracted": row.get("extracted"),
                "prompt_id": row["prompt_id"],
            }
        )
    return sorted(rows, key=lambda row: row["verdict"] == "correct")[:MOST]


def flip_rows(run_dir: Path, state: State, number: int) -> Rows:
    """The gate problems that a round's model and the reference before it did not both solve, or both fail: what was
    lost comes first."""
    before, now = _gate(run_dir, state, _reference(state, number)), _gate(run_dir, state, number)
    asked, rows = _asked(run_dir, state, now), []
    for prompt_id in before.keys() & now.keys():
        old, new = before[prompt_id], now[prompt_id]
        if (old.get("verdict") == "correct") == (new.get("verdict") == "correct"):
            continue
        prompt, gold = asked.get(prompt_id, ("", ""))
        rows.append(
            {
                "verdict": "won" if new.get("verdict") == "correct" else "lost",
                "text": new.get("text"),
                "gold": gold,
                "prompt": prompt,
                "text_before": old.get("text"),
                "prompt_id": prompt_id,
            }
        )
    return sorted(rows, key=lambda row: (row["verdict"] == "won", str(row["prompt_id"])))[:MOST]


def pair_rows(run_dir: Path, state: State, number: int) -> Rows:
    """The first pairs of a round, two rows a pair: what was chosen, and what was rejected."""
    golds = {
        str(row["prompt_id"]): shown(row["gold"])
        for row in step_rows(run_dir, state, round_step(number, "prompts"), ["prompt_id", "gold"])
        if row.get("gold") is not None
    }
    rows: Rows = []
    columns = ["pair_id", "prompt_id", "prompt", "chosen", "rejected"]
    for pair in step_rows(run_dir, state, round_step(number, "pairs"), columns):
        for verdict in ("chosen", "rejected"):
            if pair.get(verdict) is not None:
                row = {"verdict": verdict, "text": pair[verdict], "gold": golds.get(str(pair.get("prompt_id")), "")}
                rows.append(row | {"prompt": pair.get("prompt"), "pair_id": pair.get("pair_id")})
        if len(rows) >= MOST:
            break
    return rows


def _gate(run_dir: Path, state: State, number: int) -> dict[str, dict[str, object]]:
    step = round_step(number, "evaluation") if number else "baseline/evaluation"
    rows = step_rows(run_dir, state, step, _ANSWER) if step in state.commits else iter(())
    return {str(row["prompt_id"]): row for row in rows if row.get("split") == "gate"}


def _reference(state: State, number: int) -> int:
    """The round whose model a round's was compared with; 0 is the base model."""
    earlier = [int(p["round"]) for p in state.promotions if p["promoted"] and int(p["round"]) < number]
    return max(earlier, default=0)


def _asked(run_dir: Path, state: State, answered: Mapping[str, Mapping[str, object]]) -> dict[str, tuple[str, str]]:
    """Prompt and gold answer of each gate problem that was answered. Evaluations of earlier versions tell of neither:
    then they are those of the prompts."""
    if all(row.get("gold") is not None for row in answered.values()):
        return {name: (str(row.get("prompt") or ""), shown(str(row["gold"]))) for name, row in answered.items()}
    rows = step_rows(run_dir, state, "baseline/prompts", ["prompt_id", "text", "gold"])
    return {str(row["prompt_id"]): (str(row.get("text") or ""), shown(str(row.get("gold") or ""))) for row in rows}
