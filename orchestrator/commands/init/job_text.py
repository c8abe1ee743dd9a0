"""The job file that is written: as few keys as a first run needs, each with why it has this value. Pure."""

from __future__ import annotations

import json
from dataclasses import dataclass

from orchestrator.commands.init.fields import Fields

_RATES = ((50e6, "3e-5"), (500e6, "1e-5"), (3e9, "3e-6"), (float("inf"), "7e-7"))
"""Learning rates by parameters, of which a model has at most so many: those of jobs/irpo.yaml, jobs/irpo-smollm2.yaml
and arXiv 2404.19733; 3e-6 is between them."""
_TINY = 50e6  # parameters of a model whose updates bfloat16 would round away
_HOW = 'Reason step by step, and close with a line that says "Final answer:" and then'
_WHAT = {"math": "the answer alone.", "choice": "the letter of the right option alone."}


@dataclass(frozen=True, slots=True)
class Base:
    """The model, as far as it decides settings."""

    name: str
    """As the job names it."""
    chat: bool
    """Whether it has a chat template."""
    parameters: int | None = None
    """None: not known before it is there."""
    context: int | None = None
    """Its longest text, in tokens."""


def job_text(name: str, fields: Fields, base: Base, num_train: int, preferences: str | None) -> str:
    """The job as YAML; `preferences` is the file of preference data, where the task has those."""
    lines = [
        "#!/usr/bin/env -S python -m orchestrator run",
        "# yaml-language-server: $schema=ratchet.schema.json",
        "# Every key, and what it means: docs/job-file.md, or `ratchet docs`.",
        f"name: {name}",
    ]
    lines += (
        ["method: sdpo            # preference data, a chunk a round"]
        if preferences
        else [
            "method: irpo            # right against wrong samples of the last model",
            "rounds: 3",
        ]
    )
    lines += [f"model: {quoted(base.name)}", ""]
    lines += _preferences(preferences) if preferences else _problems(fields, base, num_train)
    rate = next(rate for most, rate in _RATES if (base.parameters or _RATES[-2][0] + 1) <= most)
    lines += ["", "train:"]
    if base.parameters is not None and base.parameters <= _TINY:
        lines.append("  precision: fp32         # bf16 would round the updates of so small a model away")
    size = f"for {base.parameters:,} parameters" if base.parameters else "for a model of some billion parameters"
    lines.append(f"  learning_rate: {rate:<9}# {size}; higher learns faster, and breaks sooner")
    lines.append("  batch_pairs: 16")
    return "\n".join(lines) + "\n"


def quoted(said: str) -> str:
    """Text as YAML has it in quotes; what a YAML file cannot hold, as an escape. JSON's escapes are no help: they make
    two of a character such as an emoji."""
    return "".join(c if c.isprintable() else f"\\U{ord(c):08x}" for c in json.dumps(said, ensure_ascii=False))


def _preferences(file: str) -> list[str]:
    return ["stages:", f"  sources: [{quoted(file)}]", "  split: 2              # chunks, easy ones first"]


def _problems(fields: Fields, base: Base, num_train: int) -> list[str]:
    grader = "choice" if fields.task == "choice" else "number" if fields.numbers else "math"
    marker = [f"  answer_marker: {quoted(fields.marker)}"] if fields.marker else []
    choices = [f"  choices: {quoted(fields.choices)}"] if fields.choices else []
    fresh = ["  prompts: split          # others every round", "  prompts_per_round: 1024"] if num_train > 1024 else []
    return [
        "data:",
        "  train: data/train.jsonl",
        "  gate: data/gate.jsonl   # decides whether a round's model is promoted",
        "  test: data/test.jsonl   # only looked at",
        f"  id: {quoted(fields.id or 'id')}",
        f"  answer: {quoted('boxed_answer' if fields.boxed else fields.answer)}",
        *marker,
        *choices,
        f"  chat: {'true ' if base.chat else 'false'}             # whether its chat template asks the model",
        "  template: |",
        f"    {_HOW} {_WHAT[fields.task]}",
        "",
        f"    {{{fields.question}}}",
        *([f"    {{{fields.choices}}}"] if fields.choices else []),
        *fresh,
        "",
        "generate:",
        "  samples: 8              # a prompt; pairs need right and wrong ones of it",
        "  temperature: 1.0",
        f"  max_tokens: {min(512, (base.context or 2048) // 2)}",
        "",
        "grade:",
        f"  graders: [exact, {grader}]",
        "  answer: [final_answer, boxed, answer_is]",
    ]
