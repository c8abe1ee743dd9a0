"""What a job will train on, shown and checked before anything is started: one prompt, one gold answer and, of
preference data, one pair, as the model gets them; and whatever about the rows, the tokenizer, the chat template or the
lengths would spoil the run without a word."""

from __future__ import annotations

import string
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from orchestrator.config import Job
from orchestrator.context import Say, evaluation_opening, evaluation_tokens, preference_plan, tokenizing_plan
from orchestrator.errors import BadInput
from orchestrator.model_files import has_tokenizer
from orchestrator.preferences import Preferences, as_row
from orchestrator.records import Problem

_CHARACTERS = 8_000_000  # of a set of problems or of a source; the rest is not looked at, and that is said

Render = Callable[[Mapping[str, Any]], Mapping[str, Any]]
"""Answers a request of this file with what `workers.rendering` found (wiring.rendered)."""


@dataclass(frozen=True, slots=True)
class Preview:
    """What was found, in lines for people."""

    shown: Sequence[str]
    warnings: Sequence[str]
    refusals: Sequence[str]

    def lines(self) -> Iterator[str]:
        yield from self.shown
        yield from (f"warning   {warning}" for warning in self.warnings)

    def check(self) -> None:
        """
        Raises:
            BadInput: something would spoil the run.
        """
        if self.refusals:
            raise BadInput("\n".join(self.refusals))


def preview(
    job: Job, model: Path, problems: Mapping[str, list[Problem]], preferences: Sequence[Preferences], render: Render
) -> Preview:
    """Look at the first prompts and pairs of a job with its model's own tokenizer."""
    if not has_tokenizer(model):
        return Preview([f"prompt    not looked at: {model} has no tokenizer"], [], [])
    found = render(request(job, str(model), problems, preferences))
    return Preview([f"{name:<9} {text}" for name, text in found["shown"]], found["warned"], found["refused"])


def require_sound(
    job: Job,
    model: Path,
    problems: Mapping[str, list[Problem]],
    preferences: Sequence[Preferences],
    say: Say,
    render: Render,
) -> None:
    """Say what a run would do otherwise than its user may think.

    Raises:
        BadInput: something would spoil it.
    """
    seen = preview(job, model, problems, preferences, render)
    for warning in seen.warnings:
        say(f"warning   {warning}")
    seen.check()


def request(
    job: Job, model: str, problems: Mapping[str, list[Problem]], preferences: Sequence[Preferences]
) -> dict[str, Any]:
    """What `workers.rendering` is asked, as JSON values."""
    limits = {"generate.max_tokens": job.generate.max_tokens} if problems else {}
    if problems.keys() & {"gate", "test"}:
        limits["evaluate.max_tokens"] = evaluation_tokens(job)
    if job.source == "judge":
        limits["self_judge.max_tokens"] = job.self_judge.max_tokens
    plan = asdict(tokenizing_plan(job, model))
    openings = {"train": job.steps.opening if job.source == "steps" else ""}
    splits = {
        split: {"plan": plan | {"opening": openings.get(split, evaluation_opening(job))}}
        | _first([asdict(problem) for problem in rows])
        for split, rows in problems.items()
    }
    sources = [{"name": source.name} | _first([as_row(row) for row in source.rows]) for source in preferences]
    pairs = {"plan": asdict(preference_plan(job, model)), "sources": sources} if sources else None
    lengths = {"max_model_len": job.generate.max_model_len, "limits": limits}
    stretched = "hf_overrides" in job.generate.engine  # the engine's context is then another than the folder's
    return {
        "model": model,
        "lengths": None if stretched else lengths,
        "splits": splits,
        "literal": _literal(job),
        "preferences": pairs,
    }


def _first(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """As many rows as are looked at, and of how many they are the first."""
    room = _CHARACTERS
    for number, row in enumerate(rows):
        room -= sum(len(str(value)) for value in row.values())
        if room < 0 and number:
            return {"rows": rows[:number], "of": len(rows)}
    return {"rows": rows, "of": len(rows)}


def _literal(job: Job) -> str:
    """The text that the job itself puts into a problem's prompt and solution."""
    templates = (job.data.template, job.data.solution_template or "")
    return " ".join(literal for template in templates for literal, *_ in string.Formatter().parse(template))
