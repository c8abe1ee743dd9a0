"""Looks at a file of data and at a model, splits the one, and writes a job for both."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from orchestrator.commands.init.fields import Fields, Task, fields_of
from orchestrator.commands.init.job_text import Base, job_text
from orchestrator.commands.init.splitting import split, write
from orchestrator.config.load import parse_job
from orchestrator.config.schema import job_schema
from orchestrator.errors import BadInput
from orchestrator.files import durable, unfinished
from orchestrator.files.inside import read_regular
from orchestrator.files.named import real, whole
from orchestrator.inputs.preference_rows import parsed
from orchestrator.inputs.rows import rows_of
from orchestrator.models.sizes import size_of
from orchestrator.text.counts import many
from orchestrator.text.shown import as_json

_NO_NAME = re.compile(r"[^A-Za-z0-9._-]+")
_LONGEST_NAME = 100
_LARGEST = 1 << 24  # bytes of a tokenizer's configuration


@dataclass(frozen=True, slots=True)
class Made:
    """A folder with a job and its data."""

    job: Path
    rows: int
    fields: Fields
    sets: dict[str, int]
    """Problems of each set; none for preference data."""

    def lines(self) -> Iterator[str]:
        """For people."""
        yield f"found     {many(self.rows, 'row')}: {self.fields.line()}"
        if self.sets:
            if left := self.rows - sum(self.sets.values()):
                without = ", or have no \\boxed{}" if self.fields.boxed else ""
                yield f"left out  {left:,} rows that stand in another set, word for word or nearly{without}"
            yield f"split     {', '.join(f'{count:,} {name}' for name, count in self.sets.items())}"
        yield f"job       {self.job}"


def make(folder: Path, data: Path, model: str, task: str | None) -> Made:
    """Make `folder` with job.yaml, the three sets of problems and the schema of job files. `model` is as in a job file,
    and `task` one of `Task`; None takes what the data look like.

    Raises:
        BadInput: the data cannot be read or used, the model is not there, or the folder is taken.
    """
    if task is not None and task not in get_args(Task):
        raise BadInput(f"--task: {task!r} is none. Give math, choice or preference.")
    folder = _free(folder)
    rows = [row for _, row in rows_of(data, "--data")]
    if not rows:
        raise BadInput(f"{data}: has no rows")
    fields = fields_of(rows, task, str(data))  # type: ignore[arg-type]
    base = _base(model, folder)
    if fields.task == "preference":
        for number, row in enumerate(rows):
            parsed(row, f"{data}, row {number + 1}")
        sets = {}
    else:
        sets = split(rows, fields, data)
    name = _NO_NAME.sub("-", folder.name).lstrip("-._")[:_LONGEST_NAME].rstrip("-.") or "job"
    preferences = _relative(data, folder) if fields.task == "preference" else None
    text = job_text(name, fields, base, len(sets.get("train", ())), preferences)
    parse_job(text, folder / "job.yaml")  # what will be written is a job
    told = "Nothing was made: see to the disk, and the same command does it."
    with unfinished.whole_folder(folder, f"{folder.name}.init", told, lambda: _taken(folder)) as building:
        building.mkdir()
        if sets:
            write(sets, building / "data")
        durable.replace(building / "job.yaml", text.encode())
        (building / "job.yaml").chmod(0o777 & ~_umask())
        durable.replace(building / "ratchet.schema.json", as_json(job_schema()).encode() + b"\n")
    return Made(folder / "job.yaml", len(rows), fields, {name: len(part) for name, part in sets.items()})


def _free(folder: Path) -> Path:
    folder = whole(folder).absolute()
    if os.path.lexists(folder) and not (folder.is_dir() and not folder.is_symlink() and not any(folder.iterdir())):
        raise BadInput(_taken(folder))
    if not folder.parent.is_dir():
        raise BadInput(f"{folder}: {folder.parent} is no folder; make it first")
    return folder


def _taken(folder: Path) -> str:
    return f"{folder}: exists already, and is left alone. Choose another folder."


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _relative(path: Path, folder: Path) -> str:
    """A path as a job in `folder` names it: from there, where both lie in the same place, else absolute."""
    there = real(path)
    return os.path.relpath(there, real(folder)) if there.is_relative_to(real(folder.parent)) else str(there)


def _base(model: str, folder: Path) -> Base:
    """What a model decides. One that is no folder is a name, which is looked up when the job is checked."""
    place = Path(model)
    if not place.is_dir():
        if model.startswith(("/", "./", "../", "~")) or place.exists():
            raise BadInput(f"--model: {model}: is no folder with a model in it")
        return Base(model, bool(re.search(r"instruct|chat|-it\b", model, re.IGNORECASE)))
    size = size_of(place, "--model")
    known = {} if size is None else {"parameters": size.parameters, "context": size.context}
    return Base(_relative(place, folder), _has_chat_template(place), **known)


def _has_chat_template(place: Path) -> bool:
    if (place / "chat_template.jinja").is_file():
        return True
    try:
        said = json.loads(read_regular(place / "tokenizer_config.json", _LARGEST))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(said, dict) and bool(said.get("chat_template"))
