"""lm-evaluation-harness as a run has it: whether it is installed and knows the tasks, and its process."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from orchestrator.config import Harness, Job
from orchestrator.config.load import JobFile
from orchestrator.errors import BadInput
from orchestrator.files.inside import walk
from orchestrator.files.rights import reason
from orchestrator.ledger.run import Facts
from orchestrator.records.harness import PACKAGE, Asked, TasksPlan

_KEY = "evaluate.harness"


def with_tasks(file: JobFile) -> Job:
    """The job with the place of its own tasks as an absolute path.

    Raises:
        BadInput: they are nowhere.
    """
    job = file.job
    if job.evaluate.harness is None or (named := job.evaluate.harness.include_path) is None:
        return job
    found = file.find(named, f"{_KEY}.include_path")
    if not found.is_dir():
        raise BadInput(f"{file.path}: {_KEY}.include_path: {found} is no folder; name the one that has the tasks")
    harness = job.evaluate.harness.model_copy(update={"include_path": str(found)})
    return job.model_copy(update={"evaluate": job.evaluate.model_copy(update={"harness": harness})})


def checked_tasks(job: Job) -> HarnessTasks | None:
    """The tasks of a job as `with_tasks` has it, whose package is there; None where it has none.

    Raises:
        BadInput: the package is not installed.
    """
    return HarnessTasks(job.evaluate.harness) if job.evaluate.harness else None


class HarnessTasks:
    """See `rounds.context.Harness`. `logs` is the folder for what its process prints.

    Raises:
        BadInput: the package is not installed; the message has the command that installs it.
    """

    def __init__(self, settings: Harness, logs: str | None = None) -> None:
        self._settings, self._log = settings, logs and f"{logs}/harness-0.log"
        try:
            self._version = importlib.metadata.version(PACKAGE)
        except importlib.metadata.PackageNotFoundError as error:
            raise BadInput(
                f"{_KEY}: it needs a package that is not installed: pip install 'ratchet-orchestrator[harness]'"
            ) from error

    def printing_into(self, logs: str | None) -> HarnessTasks:
        """The same, of which the process prints into a file of this folder."""
        return HarnessTasks(self._settings, logs)

    def identity(self) -> Facts:
        """See there."""
        folder = self._settings.include_path
        return {"lm_eval": self._version, "include": folder and digest_of_tasks(Path(folder))}

    def check(self) -> None:
        """See there."""
        from workers.harness.process import refused

        if lines := refused(list(self._settings.tasks), self._settings.include_path):
            raise BadInput("\n".join(f"{_KEY}.tasks: {line}" for line in lines))

    def evaluate(self, plan: TasksPlan, work: Path, output: Path, answer: Callable[[Asked], list[Path]]) -> None:
        """See there."""
        from workers.harness.process import evaluate

        request = asdict(plan) | {"work": str(work), "output": str(output)}
        request["include_path"] = self._settings.include_path

        def asked(said: dict[str, Any]) -> list[str]:
            return [str(file) for file in answer(Asked(**said))]

        evaluate(request, asked, self._log)


def digest_of_tasks(folder: Path) -> str:
    """A digest of the names and contents of the files of a folder of tasks.

    Raises:
        BadInput: a file cannot be read.
    """
    digest = hashlib.sha256()
    for top, _, names in sorted(walk(folder)):
        for name in sorted(names):
            path = Path(top) / name
            if "__pycache__" in path.relative_to(folder).parts or not path.is_file():
                continue
            try:
                content = path.read_bytes()
            except OSError as error:
                raise BadInput(f"{_KEY}.include_path: {path}: {reason(error)}; give it to you to read") from error
            said = hashlib.sha256(content).hexdigest()
            digest.update(f"{os.path.relpath(path, folder)}\0{said}\0".encode(errors="surrogateescape"))
    return digest.hexdigest()
