"""Where the wrong answers' first wrong reasoning steps are, and what it cost to find them, for the report."""

from __future__ import annotations

from orchestrator.reports.columns import Column, Section, count, fact, number

_COLUMNS = (
    Column("round", lambda e: str(e.round.number)),
    Column("errors", lambda e: count(e, "located", "errors")),
    Column("undecided", lambda e: fact(e, "located", "undecided", ",")),
    Column("reasoning steps", lambda e: count(e, "located", "steps")),
    Column("located", lambda e: count(e, "located", "located")),
    Column("in the first", lambda e: count(e, "located", "first_step")),
    Column("put right", lambda e: count(e, "pairs", "rectified")),
    Column("rollouts ungradable", lambda e: fact(e, "located", "rollouts_ungradable", ",")),
    Column("prefixes left out", lambda e: fact(e, "located", "probes_unknown", ",")),
    Column("prefixes", lambda e: fact(e, "located", "probes", ",")),
    Column("tokens", lambda e: fact(e, "located", "rollout_tokens", ",")),
    Column("judge's requests", lambda e: number(e.round.facts.get("located", {}).get("judge"), "requests", ",")),
)
FIRST_WRONG_STEPS = Section(
    "First wrong reasoning steps",
    _COLUMNS,
    "Errors are distinct wrong answers. Prefixes were continued to find the first wrong step. "
    "Rollouts that are ungradable do not count; a prefix of which most are so is left out, and so is an error "
    "whose first wrong step cannot be told from the others (undecided).",
    lambda evidence: "located" in evidence.round.facts,
)
