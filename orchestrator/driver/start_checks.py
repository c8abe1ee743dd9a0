"""What would spoil a run, found before it starts. A run that has begun goes on as it began: it is looked at no more,
and `validate` and `doctor` only warn of what they would refuse."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from orchestrator.config import Data, Job
from orchestrator.config.load import JobFile
from orchestrator.driver.kept import KEPT_PROBLEMS, has_begun
from orchestrator.driver.preview import Preview, Render, preview, require_sound
from orchestrator.driver.trainable import Trial, require_trainable, trial_of
from orchestrator.errors import BadInput
from orchestrator.inputs.gold_check import Ask, check_golds
from orchestrator.inputs.preferences import Preferences
from orchestrator.inputs.problems import kept_problems
from orchestrator.inputs.repeated import repeated_lines
from orchestrator.ledger.run import Run
from orchestrator.models.named import NamedModel
from orchestrator.records.limits import START_SECONDS, reading_seconds, weight_bytes
from orchestrator.records.rows import Problem
from orchestrator.rounds.context import Say
from orchestrator.sources.registry import SOURCES
from orchestrator.sources.source import Sources


def check_start(
    file: JobFile,
    run: Run,
    model: Path,
    problems: Mapping[str, Sequence[Problem]],
    preferences: Sequence[Preferences],
    say: Say,
    ask: Ask,
    render: Render | None,
    sources: Sources = SOURCES,
    trial: Trial | None = None,
    reference: NamedModel | None = None,
) -> None:
    """Say what a person should know of rows and models before the run starts; nothing where it has begun. Without
    `render`, prompts are not looked at, and without `trial` models are not tried. `reference` is one of the job's own.

    Raises:
        BadInput: something would spoil it.
    """
    if has_begun(run):
        return
    for line in repeated_lines(problems):
        say(f"repeated  {line}")
    for line in check_golds(file, problems, ask):
        say(f"golds     {line}")
    if render is not None:
        require_sound(file.job, model, problems or _kept(run, file.job.data), preferences, say, render, sources)
    if trial is not None:
        require_trainable(file.job, models(model, reference), say, trial)


def models(model: Path, reference: NamedModel | None) -> dict[str, Path]:
    """The folders of a job's models by key."""
    return {"model": model} | ({"reference": reference.folder} if reference else {})


def _kept(run: Run, data: Data) -> Mapping[str, Sequence[Problem]]:
    """The problems that a fork has from the run that kept them, which no prompt was made of with this job yet."""
    commit, files = run.committed(KEPT_PROBLEMS), run.artifacts
    if commit is None or not commit.artifacts:
        return {}
    if not files.is_intact(commit.artifacts[0], place := files.place(commit.artifacts[0])):
        return {}  # what is damaged, the step that has kept it says
    return kept_problems(place, data)


def gold_lines(file: JobFile, run: Run, problems: Mapping[str, Sequence[Problem]], ask: Ask) -> list[str]:
    """As `check_golds`; for a run that has begun, its refusal is a line too."""
    try:
        return check_golds(file, problems, ask)
    except BadInput as refusal:
        if not has_begun(run):
            raise
        return str(refusal).splitlines()


def previewed(
    file: JobFile,
    run: Run,
    model: Path,
    problems: Mapping[str, Sequence[Problem]],
    preferences: Sequence[Preferences],
    render: Render,
    num_prompts: int = 1,
) -> Preview:
    """As `preview`; for a run that has begun, its refusals are warnings."""
    return _of_begun(run, preview(file.job, model, problems, preferences, render, num_prompts=num_prompts))


def tried_models(file: JobFile, run: Run, model: Path, reference: NamedModel | None, trial: Trial) -> Preview:
    """As `trial_of`; for a run that has begun, its refusals are warnings."""
    return _of_begun(run, trial_of(file.job, models(model, reference), trial))


def looked_at(
    file: JobFile,
    run: Run,
    model: NamedModel,
    reference: NamedModel | None,
    problems: Mapping[str, Sequence[Problem]],
    preferences: Sequence[Preferences],
    render: Render,
    trial: Trial,
    num_prompts: int = 1,
) -> Iterator[Preview]:
    """What there is to see and to refuse of a job, one after the other: `previewed`, `tried_models`, and
    `limits_of`."""
    yield previewed(file, run, model.folder, problems, preferences, render, num_prompts)
    yield tried_models(file, run, model.folder, reference, trial)
    yield limits_of(file.job, model.folder)


def limits_of(job: Job, model: Path) -> Preview:
    """Limits that a model's size has raised, or should have."""
    asked, needs = job.generate.start_timeout, reading_seconds(model)
    size = f"a model of {weight_bytes(model) / 1e9:.1f} GB"
    if asked is not None and asked < needs:
        read = f"{size} takes {needs:.0f} s to read at 50 MB/s"
        cure = "null gives it as long as that"
        return Preview([], [f"generate.start_timeout: {asked:g} s may be too short: {read}; {cure}"], [])
    if asked is None and needs > START_SECONDS:
        told = f"limits    engines may take {needs:.0f} s to start, for {size} (generate.start_timeout)"
        return Preview([told], [], [])
    return Preview([], [], [])


def _of_begun(run: Run, seen: Preview) -> Preview:
    return replace(seen, warnings=[*seen.warnings, *seen.refusals], refusals=[]) if has_begun(run) else seen
