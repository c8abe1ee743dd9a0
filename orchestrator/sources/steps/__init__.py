"""Pairs of single reasoning steps (source `steps`): pairs.py has the way, and this is what other rooms ask."""

from __future__ import annotations

import math

from orchestrator.config import Job, Steps, at_round
from orchestrator.reports.columns import Column, Reported, Section, count, fact, number
from orchestrator.reports.lineage import Trail
from orchestrator.reports.sampled import SAMPLES
from orchestrator.rounds import space
from orchestrator.sources.lineage import SAMPLED
from orchestrator.sources.source import Drawn, Source, sampled
from orchestrator.sources.steps import lineage, pairs, recount

_TOKENS_A_MARKER = 4  # "\nStep 2:"


def _rows(job: Job, number: int, problems: space.Sizes) -> tuple[int, int]:
    """With the search for first wrong steps and the continuations, were every sample wrong."""
    settings, text = Steps.of(job), job.generate.max_tokens * space.BYTES_A_TOKEN
    num_prompts, prompt = space.prompted(job, number, problems)
    errors = num_prompts * at_round(job.generate.samples, number)
    levels = _levels(job)
    drawn = errors * (levels * settings.rollouts + settings.rectifications)
    prefixes = errors * (levels + 1) * (prompt + text)
    copied = errors * (1 + settings.rollouts + settings.rectifications) * (prompt + 2 * text)
    made, written = space.sampled(job, number, problems)
    return made, written + drawn * (text + space.BYTES_A_VERDICT) + prefixes + copied


def _levels(job: Job) -> int:
    """Prefixes of an answer that are continued to find its first wrong step. A step has its marker at least."""
    return math.ceil(math.log2(max(2, job.generate.max_tokens / _TOKENS_A_MARKER)))


def _drawn(job: Job, number: int, problems: space.Sizes) -> list[Drawn]:
    """As `_rows`: were every sample wrong."""
    settings, [drawn], levels = Steps.of(job), sampled(job, number, problems), _levels(job)
    found = [drawn]
    if settings.localiser == "rollouts":
        searched = drawn.samples * levels
        found.append(Drawn("search", searched * settings.rollouts, drawn.max_tokens, searched))
    return [*found, Drawn("rectify", drawn.samples * settings.rectifications, drawn.max_tokens, drawn.samples)]


_REPORTED = (
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
_FIRST_WRONG_STEPS = Section(
    "First wrong reasoning steps",
    _REPORTED,
    "Errors are distinct wrong answers. Prefixes were continued to find the first wrong step. "
    "Rollouts that are ungradable do not count; a prefix of which most are so is left out, and so is an error "
    "whose first wrong step cannot be told from the others (undecided).",
    lambda evidence: "located" in evidence.round.facts,
)

SOURCE = Source(
    pairs=pairs.collect,
    trail=Trail(SAMPLED, lineage.findings),
    recounted=recount.RECOUNTED,
    disk=space.Disk(_rows),
    reported=Reported([SAMPLES, _FIRST_WRONG_STEPS]),
    drawn=_drawn,
)
