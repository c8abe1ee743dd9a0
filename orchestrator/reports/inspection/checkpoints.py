"""What a checkpoint comes from, and what was said of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orchestrator.errors import BadInput
from orchestrator.ledger.ledger import Artifact, Commit
from orchestrator.reports.gate_words import gate_said
from orchestrator.reports.inspection.reading import RunReader
from orchestrator.reports.inspection.views import Document, reference_before
from orchestrator.reports.tables import round_step

_TRAINED = ("pairs", "pairs_dropped", "steps", "tokens", "seconds")
_CHOSEN = ("steps", "candidates")
_EVALUATED = ("problems", "correct", "accuracy", "low", "high")


def checkpoint(reader: RunReader, number: int) -> Document:
    """A round's checkpoint: `path`, its `files` with size and sha256, and whether they are `there`; `started_from` and
    `reference`, the rounds (0 is the base model) of the models that it was trained from and against; `pairs`,
    `replayed` (pairs of earlier rounds that were trained on again, or null), `training` (by which it was made: of two,
    the second) and `evaluation`, figures; `chosen`, after how many of that
    training's updates (`steps`) and of how many `candidates`, or null where it is what the training ended with;
    `promoted`, the gate's word (`gate`, a sentence) and the `reason` that its record has; and the `model` at the way's
    beginning.

    Raises:
        BadInput: the round has none.
    """
    path = f"rounds/{number:02d}/checkpoint"
    commits = reader.state.commits
    made = {c.step: a for c in commits.values() for a in c.artifacts if a.path == path}
    if not made:
        named = ", ".join(map(str, reader.checkpoints())) or "none yet"
        raise BadInput(f"{reader.root}: round {number} has no checkpoint; rounds that have one: {named}")
    artifact: Artifact = next(iter(made.values()))
    choice, again = (commits.get(round_step(number, phase)) for phase in ("choice", "retrain"))
    config = reader.state.configs[-1]
    job, before = config["job"], reference_before(reader.state, number)
    decision = next((p for p in reader.state.promotions if p["round"] == number), None)
    evaluated = commits.get(round_step(number, "evaluation"))
    return {
        "round": number,
        "path": str(reader.root.absolute() / path),
        "there": (reader.root / path).is_dir() and path not in reader.state.discarded,
        "files": {name: dict(entry) for name, entry in artifact.files.items()},
        "model": config.get("model") or job["model"],
        "started_from": before if job.get("init", "previous") == "previous" else 0,
        "reference": _reference(job, before),
        "pairs": _figures(commits.get(round_step(number, "pairs")), None),
        "replayed": _figures(commits.get(round_step(number, "replay")), ("pairs", "rounds")),
        "training": _figures(again or commits.get(round_step(number, "train")), _TRAINED),
        "chosen": None if again else _figures(choice, _CHOSEN),
        "evaluation": {
            split: _figures_of(evaluated.facts[split], _EVALUATED)
            for split in ("gate", "test")
            if evaluated and isinstance(evaluated.facts.get(split), Mapping)
        },
        "promoted": None if decision is None else bool(decision["promoted"]),
        "gate": None if decision is None else gate_said(decision, evaluated.facts if evaluated else None),
        "reason": None if decision is None else decision.get("reason"),
    }


def _reference(job: Mapping[str, Any], before: int) -> int | str:
    """The round of the reference; where it is a model of its own, its name."""
    given = job.get("reference", "previous")
    return before if given == "previous" else 0 if given == "base" else str(given)


def _figures(commit: Commit | None, keys: tuple[str, ...] | None) -> Document | None:
    return None if commit is None else _figures_of(commit.facts, keys)


def _figures_of(facts: Mapping[str, Any], keys: tuple[str, ...] | None) -> Document:
    """Figures of a step: these, or all its numbers."""
    numbers = {key: value for key, value in facts.items() if isinstance(value, int | float)}
    return {key: value for key, value in numbers.items() if keys is None or key in keys}
