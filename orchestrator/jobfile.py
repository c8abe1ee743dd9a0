"""From YAML to a checked `Job`: overrides, positions, and errors that name file, line, key, value and cure."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from orchestrator.config import Job
from orchestrator.errors import BadInput

Key = tuple[str | int, ...]


@dataclass(frozen=True)
class JobFile:
    """A job, where it was read from, and what was overridden on the command line."""

    job: Job
    path: Path
    overrides: tuple[str, ...]

    def find(self, path: str, key: str) -> Path:
        """A file or folder that the job names: relative to the job file's folder, else to the current folder.

        Raises:
            BadInput: it is in neither.
        """
        places = [Path(path).expanduser()] if Path(path).is_absolute() else [self.path.parent / path, Path(path)]
        for place in places:
            if place.exists():
                return place.resolve()
        looked = " nor at ".join(str(place) for place in places)
        raise BadInput(f"{self.path}: {key}: {path!r} does not exist: nothing at {looked}")


def load_job(path: Path, overrides: Sequence[str] = ()) -> JobFile:
    """Read a job file and apply `key=value` overrides.

    Raises:
        BadInput: with every error at once, each on a line of its own.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        near = difflib.get_close_matches(path.name, [p.name for p in path.parent.glob("*.yaml")], n=1)
        hint = f" Did you mean {path.parent / near[0]}?" if near else ""
        raise BadInput(f"{path}: cannot read the job file ({error.strerror}).{hint}") from error
    except UnicodeDecodeError as error:
        raise BadInput(f"{path}: not UTF-8 (byte {error.start})") from error
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        document = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise BadInput(f"{path}: not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(document, dict):
        raise BadInput(f"{path}: a job file is a mapping of keys to values, such as `name: irpo`")
    positions = dict(_positions(node, ()))
    for override in overrides:
        key = _apply(document, override)
        positions = {k: v for k, v in positions.items() if k[: len(key)] != key}
    try:
        return JobFile(Job.model_validate(document), path.resolve(), tuple(overrides))
    except ValidationError as error:
        raise BadInput("\n".join(_explain(error, path, positions))) from error


def resolved_yaml(job: Job) -> str:
    """The job with every default filled in."""
    text: str = yaml.safe_dump(job.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    return text


def changed_keys(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """Dotted keys whose values differ between two resolved jobs, with both values (None: absent)."""
    old, new = dict(_flatten(before, "")), dict(_flatten(after, ""))
    return [(k, old.get(k), new.get(k)) for k in sorted(old.keys() | new.keys()) if old.get(k) != new.get(k)]


def _flatten(value: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, below in value.items():
            yield from _flatten(below, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, value


def _apply(document: dict[str, Any], override: str) -> Key:
    name, equals, text = override.partition("=")
    key = tuple(name.split("."))
    if not equals or not all(key):
        raise BadInput(f"override {override!r}: write key=value, such as train.learning_rate=1e-6")
    try:
        value = yaml.safe_load(text) if text else None
    except yaml.YAMLError as error:
        raise BadInput(f"override {override!r}: the value is not YAML ({' '.join(str(error).split())})") from error
    section = document
    for part in key[:-1]:
        below = section.get(part)
        if isinstance(below, str) and part in ("train", "gate", "test"):
            below = {"path": below}  # a source's short form
        section[part] = below if isinstance(below, dict) else {}
        section = section[part]
    section[key[-1]] = value
    return key


def _positions(node: yaml.Node | None, key: Key) -> Iterator[tuple[Key, str]]:
    """Line and column of every key, from 1."""
    if isinstance(node, yaml.MappingNode):
        for name, value in node.value:
            below = (*key, name.value)
            yield below, f"{name.start_mark.line + 1}:{name.start_mark.column + 1}"
            yield from _positions(value, below)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            yield (*key, index), f"{value.start_mark.line + 1}:{value.start_mark.column + 1}"
            yield from _positions(value, (*key, index))


def _explain(error: ValidationError, path: Path, positions: Mapping[Key, str]) -> list[str]:
    lines: dict[Key, str] = {}
    for problem in error.errors(include_url=False):
        # A union's branches appear in the location; they are no keys of the file.
        key = tuple(p for p in problem["loc"] if isinstance(p, int) or str(p).isidentifier())
        place = next((positions[key[:n]] for n in range(len(key), 0, -1) if key[:n] in positions), None)
        where = f"{path}:{place}" if place else str(path)
        name = ".".join(map(str, key)) or "job"
        lines[key] = f"{where}: {name}: {_cure(problem, key)}"
    # Where one branch of a union saw deeper than another, its word is the better one.
    return [line for key, line in lines.items() if not any(k != key and k[: len(key)] == key for k in lines)]


def _cure(problem: Any, key: Key) -> str:
    if problem["type"] == "extra_forbidden":
        known = _fields_of(key[:-1])
        near = difflib.get_close_matches(str(key[-1]), known, n=1)
        hint = f"did you mean `{near[0]}`?" if near else f"known here: {', '.join(known)}"
        return f"unknown key; {hint}"
    if problem["type"] == "missing":
        return "missing; it has no default"
    message = problem["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
    value = repr(problem["input"])
    return f"{message} (it is {value if len(value) <= 80 else value[:77] + '...'})"


def _fields_of(key: Key) -> list[str]:
    model: Any = Job
    for part in key:
        field = model.model_fields.get(str(part)) if isinstance(model, type) and issubclass(model, BaseModel) else None
        if field is None:
            return []
        model = field.annotation
    return list(model.model_fields) if isinstance(model, type) and issubclass(model, BaseModel) else []
