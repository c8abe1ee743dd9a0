"""Whether the trainer can train a job's models, found before anything is sampled: a kind of model that trees of
completions do not fit, or paths that are longer than it allows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from orchestrator.config import Job
from orchestrator.driver.preview import Preview
from orchestrator.driver.wiring import ENGINE
from orchestrator.models.checks import json_object
from orchestrator.rounds.context import Say

Trial = Callable[[Mapping[str, Any]], Mapping[str, Any]]
"""Answers a request of this file with what `workers.training.trainable` found (own_process.tried)."""


def trial_of(job: Job, models: Mapping[str, Path], trial: Trial) -> Preview:
    """What the trainer makes of a job's models, each a folder by its key in the job."""
    known = {key: folder for key, folder in models.items() if _names_kind(folder)}
    if not known:
        return Preview([], [], [])
    found = trial(request(job, known))
    good = [] if found["refused"] or found["warned"] else ["trainer   fits the model, as a tiny one of its kind tells"]
    return Preview(good, found["warned"], found["refused"])


def require_trainable(job: Job, models: Mapping[str, Path], say: Say, trial: Trial) -> None:
    """Say what is not known of a model.

    Raises:
        BadInput: one cannot be trained.
    """
    seen = trial_of(job, models, trial)
    for warning in seen.warnings:
        say(f"warning   {warning}")
    seen.check()


def _names_kind(folder: Path) -> bool:
    """A configuration that names none is left to the libraries, as in models/checks.py."""
    file = folder / "config.json"
    return "model_type" in json_object(file.read_bytes(), str(file))


def request(job: Job, models: Mapping[str, Path]) -> dict[str, Any]:
    """What `workers.training.trainable` is asked, as JSON values."""
    paths = {"train.max_tokens": job.train.max_tokens}
    # Pairs of preference data may be of any length; what is sampled fits the engine.
    if job.stages is None:
        paths["generate.max_model_len"] = job.generate.max_model_len
    # Arguments of the engine may give it another context, and other rotary frequencies, than the folder's.
    own_context = not job.generate.engine.keys().isdisjoint(ENGINE.context_arguments)
    return {
        "models": {key: str(folder) for key, folder in models.items()},
        "activation_checkpointing": job.train.activation_checkpointing,  # null may come to either
        "lora": job.lora and job.lora.model_dump(mode="json"),
        "paths": paths,
        "engine": None if own_context else {"key": "generate.max_model_len", "tokens": job.generate.max_model_len},
    }
