"""Methods of the user's own: rows of a file, which a job names as `method: FILE#NAME`.

    spin:
      paper: Self-Play Fine-Tuning, arXiv 2401.01335
      what: gold solutions against the model's own samples, right or wrong
      like: irpo
      settings:
        generate: {samples: 1}
        loss: {nll: 0.0}

A run keeps what came of it: its job has the row's name and every setting, and never reads the file again.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard, get_args

from pydantic import ValidationError

from orchestrator.config.base import NonEmpty, Settings
from orchestrator.config.document import Key, Origin, dotted, in_sections
from orchestrator.config.job import METHOD_NAME, Job, Method
from orchestrator.config.methods import PRESETS, merged
from orchestrator.config.words import wanted
from orchestrator.config.yaml_text import read_yaml, text_of
from orchestrator.errors import BadInput, cut
from orchestrator.files.inside import run_around
from orchestrator.files.named import is_there, named_path, real

_OF_A_JOB = (
    *(("name",), ("model",), ("run_dir",), ("archive",)),
    *(("data", split) for split in ("train", "gate", "test", "tests")),
    *(("stages", "sources"), ("steps", "verdicts")),
)
"""Keys that no method has: which model, which data, and where."""
_MOST_BELOW = 100
"""Rows that build on one another."""
_ORDER = 3
"""Of errors in a row: behind those of the job file, of overrides, and of what is missing."""


class Row(Settings):
    """A method of a file, below its name."""

    paper: NonEmpty | None = None
    """Where it is from."""
    what: NonEmpty | None = None
    """What is learned from what, in a few words."""
    like: NonEmpty | None = None
    """What it builds on: a method of Ratchet, or another row of the file, whose settings hold where this one says
    nothing. Null is the defaults of the sections."""
    settings: dict[str, Any] = {}
    """Settings of a job, in their sections. What belongs to a job alone is refused: name, model, data and paths."""


@dataclass(frozen=True)
class OwnMethod:
    """A row as a job takes it, with all that it builds on."""

    name: str
    file: Path
    paper: str | None
    what: str | None
    settings: Mapping[str, Any]
    origins: Mapping[Key, Origin]
    """Where each of its settings stands, by the job's key."""

    @property
    def source(self) -> str | None:
        """The source of a job that names none."""
        return self.settings.get("source")

    def below(
        self, document: Mapping[str, Any], origins: Mapping[Key, Origin]
    ) -> tuple[dict[str, Any], dict[Key, Origin]]:
        """A job as it stands in its file, with these settings where it says nothing itself, and where its keys are."""
        return merged(self.settings, document) | {"method": self.name}, {**self.origins, **origins}

    def __str__(self) -> str:
        said = f": {self.what}" if self.what else ""
        return f"{self.name} of {self.file}{said}{f' ({self.paper})' if self.paper else ''}"


def is_own(method: Any) -> TypeGuard[str]:
    """Whether a job's `method` names a row of a file."""
    return isinstance(method, str) and "#" in method


def place_of(method: str, beside: Path, where: str) -> tuple[Path, str]:
    """File and row that `FILE#NAME` names in the file `beside`; relative to its folder, else to the current one.
    `where` says where that stands.

    Raises:
        BadInput: there is no such file.
    """
    file, _, name = method.rpartition("#")
    if not file or not name:
        raise BadInput(f"{where}: {method!r}: write `FILE#NAME`, such as `my_methods.yaml#mine`")
    named = named_path(file, where)
    places = list(dict.fromkeys((real(beside).parent / named, named)))
    found = next((place for place in places if is_there(place)), None)
    if found is None:
        raise BadInput(f"{where}: {file!r} does not exist: nothing at {' nor at '.join(map(str, places))}")
    return found, name


def read_own(method: str, beside: Path, where: str, said_here: bool = False) -> OwnMethod:
    """The row that `method` names, as `place_of` finds it. `said_here`: the user's command names it, and not the file.

    Raises:
        BadInput: there is no such file or row, or it makes no sense; names file, row, key and cure. Or a file in a run
            names it, or it lies in one: a run may be a stranger's, whose word reads nothing outside, and is not taken
            for the user's.
    """
    if not said_here and (around := run_around(beside)) is not None:
        raise BadInput(
            f"{where}: {method!r} is a row of another file, and {beside} lies in the run {around}: what a run's own "
            f"file names is not read. `ratchet resume {around}` goes on without it; resolved.yaml has every setting"
        )
    file, name = place_of(method, beside, where)
    if (around := run_around(file)) is not None:
        raise BadInput(f"{where}: {file} lies in the run {around}, and may be a stranger's: name a copy outside of it")
    return _Methods(file).method(name)


class _Methods:
    """A file of methods. Only rows that are asked for are checked."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._rows, self._positions = read_yaml(text_of(file, "methods"), str(file))
        if not isinstance(self._rows, dict):
            raise BadInput(f"{file}: a file of methods is a mapping of names to rows, such as `mine: {{like: irpo}}`")

    def method(self, name: str) -> OwnMethod:
        row = self._row(name, str(self._file))
        settings, origins = self._with_all_below(name, row, (name,))
        return OwnMethod(name, self._file, row.paper, row.what, settings, origins)

    def _place(self, *key: str | int) -> str:
        near = next((self._positions[key[:n]] for n in range(len(key), 0, -1) if key[:n] in self._positions), (1, 1))
        return f"{self._file}:{near[0]}:{near[1]}"

    def _row(self, name: str, where: str, also: Mapping[Any, Any] | None = None) -> Row:
        """`also` might have been meant in the place `where` it is named."""
        if name not in self._rows:
            raise BadInput(f"{where}: there is no method `{cut(name)}`{_nearest(name, {**self._rows, **(also or {})})}")
        if name in PRESETS:
            raise BadInput(f"{self._place(name)}: `{name}` is a method of Ratchet: give this one another name")
        if not re.fullmatch(METHOD_NAME, name):
            raise BadInput(f"{self._place(name)}: `{name}` is no name of the form `{METHOD_NAME}`")
        try:
            return Row.model_validate(self._rows[name])
        except ValidationError as error:
            raise BadInput("\n".join(self._explained(name, error))) from error

    def _explained(self, name: str, error: ValidationError) -> Iterator[str]:
        for problem in error.errors(include_url=False):
            key = str(problem["loc"][0]) if problem["loc"] else ""
            place = f"{self._place(name, key)}: {name}{f'.{key}' if key else ''}"
            if not key:
                yield f"{place}: must be a section of keys: {', '.join(Row.model_fields)}"
            elif problem["type"] != "extra_forbidden":
                field = Row.model_fields[key]
                given = cut(repr(problem["input"]))
                yield f"{place}: must be {wanted(field.annotation, field.metadata)} (it is {given})"
            elif key == "method":
                yield f"{place}: {_NO_METHOD}"
            elif key in Job.file_fields():
                yield f"{place}: that is a setting of a job: it belongs into the row's `settings`"
            else:
                yield f"{place}: unknown key{_nearest(key, Row.model_fields)}"

    def _with_all_below(
        self, name: str, row: Row, through: tuple[str, ...]
    ) -> tuple[dict[str, Any], dict[Key, Origin]]:
        """A row's settings over those of what it builds on; `through` are the rows that lead to it, with itself."""
        below: Mapping[str, Any] = {}
        origins: dict[Key, Origin] = {}
        if row.like in PRESETS:
            below = PRESETS[row.like].settings  # type: ignore[index]
        elif row.like is not None:
            place = f"{self._place(name, 'like')}: {name}.like"
            if row.like in through:
                circle = "`, which is like `".join((*through[through.index(row.like) :], row.like))
                raise BadInput(f"{place}: `{circle}`: one of them must build on something else, or on nothing")
            if len(through) == _MOST_BELOW:
                raise BadInput(
                    f"{place}: `{through[0]}` is like {_MOST_BELOW} others, each like the next: say more in fewer"
                )
            other = self._row(row.like, place, PRESETS)
            below, origins = self._with_all_below(row.like, other, (*through, row.like))
        settings, own = self._settings(name, row, str(below.get("source", "sample")))
        return merged(below, settings), origins | own

    def _settings(self, name: str, row: Row, usual: str) -> tuple[dict[str, Any], dict[Key, Origin]]:
        """A row's own settings with those of its source in their section, and where they stand."""
        above = (name, "settings")
        origins = {
            key[2:]: Origin(f"{self._file}:{line}:{column}: {name}.settings", (_ORDER, line, column))
            for key, (line, column) in self._positions.items()
            if key[:2] == above and len(key) > 2
        }
        if "method" in row.settings:
            raise BadInput(f"{self._place(*above, 'method')}: {name}.settings.method: {_NO_METHOD}")
        for key in _OF_A_JOB:
            section = row.settings if len(key) == 1 else row.settings.get(key[0])
            if isinstance(section, Mapping) and key[-1] in section:
                place = f"{self._place(*above, *key)}: {name}.settings.{dotted(key)}"
                raise BadInput(f"{place}: that is a job's own, whatever its method: give it in the job file")
        return in_sections(row.settings, origins, usual), origins


_NO_METHOD = "a row names no method: what it builds on is its `like`, such as `like: irpo`"


def _nearest(name: str, known: Mapping[str, Any]) -> str:
    names = [cut(str(one)) for one in known]
    near = difflib.get_close_matches(cut(name), names, n=1)
    return f"; did you mean `{near[0]}`?" if near else f"; known here: {cut(', '.join(names)) or 'none'}"


def unknown_method(document: Mapping[str, Any]) -> bool:
    """Whether a job names a method that is neither Ratchet's nor written out in it. A job that was resolved has every
    setting of its row, and the row's name."""
    method = document.get("method", "irpo")
    return isinstance(method, str) and method not in get_args(Method) and not document.keys() >= _WRITTEN_OUT


_WRITTEN_OUT = {"source", "rounds", "init", "reference", "generate", "pairs", "loss", "train"}
"""What a job says that has every setting of a method."""
