"""The job that `ratchet doctor` examines, which may be none."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from orchestrator.config import Job
from orchestrator.config.load import JobFile, parse_job
from orchestrator.config.places import run_folder
from orchestrator.driver.resume import load
from orchestrator.driver.trust import Tell

_NO_JOB = "name: doctor\nmodel: none\ndata: {train: none, gate: none, test: none}\n"


@dataclass(frozen=True)
class Patient:
    """What is examined. Without a job file, only what needs none, with the defaults of every setting."""

    file: JobFile
    has_job: bool

    @property
    def job(self) -> Job:
        return self.file.job

    @property
    def runs(self) -> Path:
        """Parent of the run folder: where everything that nodes share is written."""
        return run_folder(self.job).parent

    @property
    def for_trial(self) -> Job:
        """The job, cut to a single step that changes nothing."""
        once = {"epochs": 1, "max_steps": 1, "warmup_steps": 0}
        return self.job.model_copy(update={"train": self.job.train.model_copy(update=once)})


def patient(job: str | None, overrides: list[str], tell: Tell | None = None) -> Patient:
    """The job to examine, or the defaults where none is named.

    Raises:
        BadInput: the job file or an override is wrong, or it lies in a run and is not trusted (see `resume.load`).
        FileNotFoundError: the current folder is gone; a server of Ray's, without one, never comes up.
    """
    Path.cwd()
    if job is not None and ("=" not in job or Path(job).exists()):
        return Patient(load(Path(job), overrides, tell), True)
    given = [*([job] if job else []), *overrides]
    return Patient(parse_job(_NO_JOB, Path("defaults.yaml"), given), False)
