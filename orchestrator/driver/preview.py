"""What a job will train on, shown and checked before anything is started: one prompt, one gold answer and, of
preference data, one pair, as the model gets them; and whatever about the rows, the tokenizer, the chat template or the
lengths would spoil the run without a word."""

from __future__ import annotations

import string
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from orchestrator.config import Job
from orchestrator.driver.kept import Problems
from orchestrator.driver.wiring import ENGINE
from orchestrator.errors import BadInput
from orchestrator.inputs.preferences import Preferences, as_row
from orchestrator.models.files import has_tokenizer
from orchestrator.records.rows import Problem
from orchestrator.rounds.context import Say, evaluation_tokens, preference_plan, tokenizing_plan
from orchestrator.sources.registry import SOURCES
from orchestrator.sources.source import Prompts, Sources

_CHARACTERS = 8_000_000  # of a set of problems or of a source; the rest is not looked at, and that is said

Render = Callable[[Mapping[str, Any]], Mapping[str, Any]]
"""Answers a request of this file with what `workers.tokens.rendering` found (own_process.rendered)."""


@dataclass(frozen=True, slots=True)
class Preview:
    """What was found, in lines for people."""

    shown: Sequence[str]
    warnings: Sequence[str]
    refusals: Sequence[str]
    prompts: Sequence[str] = ()
    """Ids of the prompts that are shown."""
    lengths: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Mean tokens by key of the job, such as data.train, and part, such as `prompt` or `solution`."""

    def lines(self) -> Iterator[str]:
        """What is shown, and then the warnings."""
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
    job: Job,
    model: Path,
    problems: Problems,
    preferences: Sequence[Preferences],
    render: Render,
    sources: Sources = SOURCES,
    num_prompts: int = 1,
) -> Preview:
    """Look at the first prompts and pairs of a job with its model's own tokenizer, and show so many prompts."""
    if not has_tokenizer(model):
        return Preview([f"prompt    not looked at: {model} has no tokenizer"], [], [])
    asked = request(job, str(model), problems, preferences, sources) | {"num_prompts": num_prompts}
    found = render(asked)
    shown = [f"{name:<9} {text}" for name, text in found["shown"]]
    return Preview(shown, found["warned"], found["refused"], found.get("prompts", ()), found.get("lengths", {}))


def require_sound(
    job: Job,
    model: Path,
    problems: Problems,
    preferences: Sequence[Preferences],
    say: Say,
    render: Render,
    sources: Sources = SOURCES,
) -> None:
    """Say what a run would do otherwise than its user may think.

    Raises:
        BadInput: something would spoil it.
    """
    seen = preview(job, model, problems, preferences, render, sources)
    for warning in seen.warnings:
        say(f"warning   {warning}")
    seen.check()


def request(
    job: Job,
    model: str,
    problems: Problems,
    preferences: Sequence[Preferences],
    sources: Sources,
) -> dict[str, Any]:
    """What `workers.tokens.rendering` is asked, as JSON values."""
    limits = {"generate.max_tokens": job.generate.max_tokens} if problems else {}
    if problems.keys() & {"gate", "test"}:
        limits["evaluate.max_tokens"] = evaluation_tokens(job)
    limits |= job.source.lengths()
    plan = asdict(tokenizing_plan(job, model))
    openings = {"train": job.source.opens_with}
    sets = [
        _set(f"data.{split}", None, plan | {"opening": openings.get(split, job.source.evaluation_opens_with)}, rows)
        | {"literal": _literal(job.data.template, job.data.solution_template or "")}
        for split, rows in problems.items()
    ]
    if rows := problems.get("train"):
        sets += _derived(plan, sources[job.source.type].derived(job, rows))
    given = [{"name": source.name} | _first(as_row, source.rows) for source in preferences]
    own = {"literal": _literal(job.stages.template if job.stages else ""), "system": job.data.system}
    pairs = {"plan": asdict(preference_plan(job, model)), "sources": given} | own if given else None
    lengths = {"max_model_len": job.generate.max_model_len, "limits": limits}
    # The engine's context may then be another than the folder's.
    stretched = not job.generate.engine.keys().isdisjoint(ENGINE.context_arguments)
    return {
        "model": model,
        "lengths": None if stretched else lengths,
        "sets": sets,
        "preferences": pairs,
        "written": _written(job),
    }


def _set(key: str, name: str | None, plan: dict[str, Any], rows: Sequence[Problem]) -> dict[str, Any]:
    """A set of prompts; `name` is that of its line, None for the first of the data."""
    return {"key": key, "name": name, "plan": plan, "literal": None} | _first(asdict, rows)


def _derived(plan: dict[str, Any], made: Iterator[Prompts]) -> Iterator[dict[str, Any]]:
    """Prompts that a run makes out of its training problems."""
    for prompts in made:
        yield _set(prompts.key, prompts.name, {**plan, **prompts.plan}, prompts.problems)


def _written(job: Job) -> dict[str, str]:
    """Texts of the job that become parts of messages, by key. Without a chat template, the templates may write turns
    themselves, and the rest what they write, too."""
    chat, templates = job.data.chat, job.source.templates(job)
    examples = "\n".join(text for example in job.data.examples for text in (example.prompt, example.completion))
    texts = {"data.examples": examples} | ({"data.system": job.data.system or "", **templates} if chat else {})
    return {key: text for key, text in texts.items() if text}


def _first(as_json: Callable[[Any], dict[str, Any]], rows: Sequence[Any]) -> dict[str, Any]:
    """As many rows as are looked at, and of how many they are the first."""
    room, first = _CHARACTERS, list[dict[str, Any]]()
    for row in map(as_json, rows):
        room -= sum(len(str(value)) for value in row.values())
        if room < 0 and first:
            break
        first.append(row)
    return {"rows": first, "of": len(rows)}


def _literal(*templates: str) -> str:
    """The text that templates of the job put around their fields."""
    return " ".join(literal for template in templates for literal, *_ in string.Formatter().parse(template))
