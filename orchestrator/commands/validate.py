"""`ratchet validate`: what can be known of a job before anything of it runs."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.archive.archiver import address_of
from orchestrator.archive.sender import standing
from orchestrator.config import Job
from orchestrator.config.addresses import without_password
from orchestrator.config.idle import idle
from orchestrator.config.load import JobFile
from orchestrator.config.places import require_room, run_folder
from orchestrator.driver.fit_told import fit_lines
from orchestrator.driver.harness import checked_tasks, with_tasks
from orchestrator.driver.kept import (
    base_model_of,
    read_all_preferences,
    read_all_problems,
    reference_of,
    reward_models_of,
)
from orchestrator.driver.own_process import rendered, tried
from orchestrator.driver.preview import Preview
from orchestrator.driver.same_job import (
    check_same_job,
    check_same_model,
    check_same_preferences,
    check_same_problems,
    problem_digests,
    reading_of,
)
from orchestrator.driver.start_checks import gold_lines, looked_at
from orchestrator.driver.wiring import unread_golds
from orchestrator.errors import RatchetError, of_file
from orchestrator.inputs.preferences import Preferences
from orchestrator.inputs.repeated import repeated_lines
from orchestrator.ledger.run import Run
from orchestrator.models.named import NamedModel
from orchestrator.records.rows import Problem
from orchestrator.tracking.stores import require_installed

_ASKING = 20.0  # seconds


@dataclass(frozen=True)
class Checked:
    """A job whose data and models were read and found to fit it and its run."""

    file: JobFile
    run: Run
    model: NamedModel
    reference: NamedModel | None
    problems: Mapping[str, Sequence[Problem]]
    preferences: Sequence[Preferences]
    repeated: Sequence[str]
    golds: Sequence[str]
    """What is to be told of gold answers."""
    rewards: Sequence[NamedModel] = ()
    """Its reward models."""


def check(file: JobFile) -> Checked:
    """Look at the data and models of a job, and at the run that it would go on with.

    Raises:
        BadInput: the job could not be started; names file, key and cure.
    """
    run = Run(require_room(run_folder(file.job)))
    with of_file(file.path):
        address_of(file.job, run.root)
        require_installed(file.job.tracking.sinks)
    if (tasks := checked_tasks(with_tasks(file))) is not None:
        tasks.check()
    check_same_job(run, file.job)
    model = base_model_of(file, run, weights=False)
    if model.origin is None:
        check_same_model(run, model)
    reference = reference_of(file, run, model, weights=False)
    problems = read_all_problems(file, reading=reading_of(run))
    check_same_problems(run, file.job, None if file.job.data.from_hub else problem_digests(problems))
    check_same_preferences(run, file.job, file.find)
    preferences = read_all_preferences(file, problems)
    rewards = [*reward_models_of(file, run, weights=False).values()]
    golds = gold_lines(file, run, problems, unread_golds)
    repeated = repeated_lines(problems)
    return Checked(file, run, model, reference, problems, preferences, repeated, golds, rewards)


def archive_line(job: Job, root: Path) -> str:
    """What there is to say of a job's archive, which is asked for a few seconds: a run goes on without it."""
    address, said = str(address_of(job, root)), list[str]()

    def ask() -> None:
        try:
            said.append(f"{without_password(address)} {standing(root, address)}")
        except RatchetError as error:
            said.append(f"{error}; the run would go on, and not be archived")

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(_ASKING)
    return said[0] if said else f"{without_password(address)} did not answer within {_ASKING:.0f} s"


def looked(checked: Checked, num_prompts: int = 1) -> Iterator[Preview]:
    """So many prompts as they are made, and the models as they are tried, one after the other."""
    of = (checked.model, checked.reference, checked.problems, checked.preferences)
    return looked_at(checked.file, checked.run, *of, rendered, tried, num_prompts)


def told(
    checked: Checked, job: Path, seen: Iterable[Preview] | None = None, settings: Iterable[str] | None = None
) -> Iterator[str]:
    """What there is to say of a job, a line each; its prompts are made, and its models tried, as it goes, unless they
    were `seen` already, and so are its `settings` that are left to the machine.

    Raises:
        BadInput: they would spoil a run.
    """
    file, run, problems = checked.file, checked.run, checked.problems
    yield f"valid     {job}"
    if file.own:
        yield f"method    {file.own}"
    yield f"model     {checked.model}"
    if checked.reference:
        yield f"reference {checked.reference}"
    yield from (f"reward    {model}" for model in checked.rewards)
    yield f"problems  {', '.join(f'{len(rows)} {split}' for split, rows in problems.items()) or 'none'}"
    yield from (f"stages    {source}" for source in checked.preferences)
    yield from (f"repeated  {line}" for line in checked.repeated)
    yield from (f"golds     {line}" for line in checked.golds)
    yield from (f"no effect {line}" for line in idle(file.job, file.own))
    if file.job.archive:
        yield f"archive   {archive_line(file.job, run.root)}"
    lines = fit_lines(file, run, checked.model) if settings is None else settings
    yield from (f"settings  {line}" for line in lines)
    for found in looked(checked) if seen is None else seen:
        yield from found.lines()
        found.check()
    yield f"run       {run.root}{', which exists and would be resumed' if (run.root / 'ledger').is_dir() else ''}"
