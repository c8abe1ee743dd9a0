"""From YAML to a checked `Job`: overrides, positions, and errors that name file, line, key, value and cure."""

from __future__ import annotations

import datetime
import difflib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from orchestrator.config import Job, addresses, methods
from orchestrator.config.document import Key, Origin, dotted, in_sections, put_all, unwritable
from orchestrator.config.job import BESIDE
from orchestrator.config.other_words import key_for
from orchestrator.config.own_methods import OwnMethod, is_own, read_own, unknown_method
from orchestrator.config.sources import kind_named
from orchestrator.config.words import fields_at, wanted_at
from orchestrator.config.yaml_text import read_yaml, text_of
from orchestrator.errors import BadInput
from orchestrator.files.named import real, spelled
from orchestrator.files.rights import reason
from orchestrator.text import shown


@dataclass(frozen=True)
class JobFile:
    """A job, where it was read from, and what was overridden on the command line."""

    job: Job
    path: Path
    overrides: tuple[str, ...]
    recorded: tuple[Path, ...] = ()
    """Of a run that goes on by itself (see driver/resume.py): the folders that its relative paths were in so far."""
    own: OwnMethod | None = None
    """The row of the user's own that its `method` named."""

    @property
    def folders(self) -> tuple[Path, ...]:
        """Where a relative path of the job is looked for, before the current folder."""
        return self.recorded or (self.path.parent,)

    def find(self, path: str, key: str) -> Path:
        """A file or folder that the job names: relative to the job file's folder, else to the current folder.

        Raises:
            BadInput: it is in neither, or no file can have that name.
        """
        given, looked = spelled(path, f"{self.path}: {key}"), dict[str, None]()
        for place in (*(folder / given for folder in self.folders), given):  # an absolute one is itself in any folder
            try:
                if place.exists():
                    if not (place.is_file() or place.is_dir()):
                        raise BadInput(f"{self.path}: {key}: {place} is neither file nor folder, but a pipe or device")
                    return real(place)
                looked[str(place)] = None
            except PermissionError as error:  # a run of somebody else's, whose files are closed to us
                looked[f"{place} ({reason(error)})"] = None
        cure = f". If it was moved, say where it is now: {_naming(key)}" if self.recorded else ""
        raise BadInput(f"{self.path}: {key}: {path!r} does not exist: nothing at {' nor at '.join(looked)}{cure}")


def _naming(key: str) -> str:
    """How a command names another place for what a key of the job names."""
    if key.startswith("data.tests."):
        return "data.tests=[{name: NAME, path: FILE, ...}, ...], all of them"
    if key.startswith("stages.sources."):
        return "stages.sources=[{path: FILE, ...}, ...], all of them"
    if key.startswith("reward.models."):
        return "reward.models=[{model: FOLDER, ...}, ...], all of them"
    return f"{key}.path=FILE" if key.startswith("data.") else f"{key}=FOLDER"


def load_job(path: Path, overrides: Sequence[str] = ()) -> JobFile:
    """Read a job file and apply `key=value` overrides.

    Raises:
        BadInput: with every error at once, each on a line of its own.
    """
    return parse_job(text_of(path), path, overrides)


def parse_job(
    text: str, path: Path, overrides: Sequence[str] = (), keeps: Callable[[Key], bool] | None = None
) -> JobFile:
    """A job from the text of a file that is, or will be, at `path`; as `load_job`. `keeps` is for a text that a run of
    an earlier version has recorded: of which keys a password in it is let be."""
    document, positions = read_yaml(text, str(path))
    if not isinstance(document, dict):
        raise BadInput(f"{path}: a job file is a mapping of keys to values, such as `name: irpo`")
    if "arms" in document:
        raise BadInput(f"{path}: this is a comparison, with `arms`, and no job: `ratchet compare {path}`")
    if document and all(isinstance(row, dict) and "settings" in row for row in document.values()):
        name = next(iter(document))
        raise BadInput(
            f"{path}: these are rows of methods, and no job: a job file names one, `method: {path.name}#{name}`"
        )
    origins = {key: Origin(f"{path}:{line}:{column}", (0, line, column)) for key, (line, column) in positions.items()}
    own = _own_method(document, path, overrides, origins)
    return job_of(document, path, overrides, keeps, origins, own)


def _own_method(
    document: Mapping[str, Any], path: Path, overrides: Sequence[str], origins: Mapping[Key, Origin]
) -> OwnMethod | None:
    """The row that a job file names as its method, or an override beside it."""
    given = [(override, value) for override in overrides for key, value in [_parsed(override)] if key == ("method",)]
    if given:
        override, method = given[-1]
        return read_own(method, path, f"override {override!r}", True) if is_own(method) else None
    method = document.get("method")
    return read_own(method, path, f"{origins['method',].place}: method") if is_own(method) else None


def job_of(
    document: dict[str, Any],
    path: Path,
    overrides: Sequence[str] = (),
    keeps: Callable[[Key], bool] | None = None,
    origins: Mapping[Key, Origin] | None = None,
    own: OwnMethod | None = None,
) -> JobFile:
    """As `parse_job`, of a document that has been read, or that a run has recorded; `origins` say where its keys
    stand, and `own` is the row that its method names."""
    origins, usual = dict(origins or {}), own.source if own else None
    document = in_sections(document, origins, usual)
    given = [
        (*_parsed(override), Origin(f"override {addresses.without_secrets(override)!r}", (1, number, 0)))
        for number, override in enumerate(overrides, 1)
    ]
    put_all(document, origins, given, usual)
    if own:  # whose file a run does without
        overrides = [f"method={own.name}" if each.startswith("method=") else each for each in overrides]
    return JobFile(checked(document, path, origins, keeps, own), real(path), tuple(overrides), own=own)


def checked(
    document: Mapping[str, Any],
    path: Path,
    origins: Mapping[Key, Origin],
    keeps: Callable[[Key], bool] | None = None,
    own: OwnMethod | None = None,
) -> Job:
    """The job that a document is, `origins` being where its keys were set, and `own` the row that its method names; as
    `load_job`, and `keeps` as there."""
    if own:
        document, origins = own.below(document, origins)
    lines, filled = _unfit(document, path, origins, keeps), methods.filled_in(document)
    if not own and unknown_method(document):
        origin = origins.get(("method",), Origin(str(path), (2, 0, 0)))
        name = "" if origin.order[0] == 1 else "method: "
        said = f"must be {wanted_at(('method',))} (it is {_shown(document['method'])})"
        lines.append((origin.order, f"{origin.place}: {name}{said}"))
    try:
        job = Job.model_validate(filled)
    except ValidationError as error:
        told = [line for line in _explain(error, path, origins, filled) if line[0] not in {order for order, _ in lines}]
        raise BadInput(_in_order([*lines, *told])) from error
    if lines:
        raise BadInput(_in_order(lines))
    return job


def holds_secret(text: str) -> bool:
    """Whether the text of a job file has something in it that a job must not have, in a comment too.

    Raises:
        BadInput: it is no YAML.
    """
    values = addresses.leaves(read_yaml(text, "job")[0])
    written = re.findall(r"[\w.+-]+://[^\n'\"]+", text)
    held = any(map(addresses.secret_in, written)) or addresses.without_keys(text) != text
    return held or any(addresses.refusal(key, value) for key, value in values)


def resolved_yaml(job: Job) -> str:
    """The job with every default filled in."""
    values = job.model_dump(mode="json")
    text: str = yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
    if shown.text(text) != text:  # in quotes, a value's own escapes say what is there
        text = yaml.safe_dump(values, sort_keys=False, allow_unicode=False)
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


def _parsed(override: str) -> tuple[tuple[str, ...], Any]:
    """Key and value of a key=value."""
    name, equals, text = override.partition("=")
    key, shown_as = tuple(name.split(".")), addresses.without_secrets(override)
    if not equals or not all(key):
        raise BadInput(f"override {shown_as!r}: write key=value, such as train.learning_rate=1e-6")
    value, _ = read_yaml(text, f"override {shown_as!r}", several_lines=False) if text else (None, {})
    return key, value


_NAMED = re.compile(r"`([a-z_]+(?:\.[a-z_]+)*)(?=[`:])")
"""A key in a message, or with a value behind it."""
_Line = tuple[tuple[int, int, int], str]
"""A line of an error, with its place in the order in which errors are told."""


def _in_order(lines: Sequence[_Line]) -> str:
    """Those of the file in its order, then overrides, then what is missing."""
    return "\n".join(addresses.without_keys(line) for _, line in sorted(lines, key=lambda line: line[0]))


def _unfit(
    document: Mapping[str, Any], path: Path, origins: Mapping[Key, Origin], keeps: Callable[[Key], bool] | None
) -> list[_Line]:
    """One line for each value with a password in it, or that no record can hold. It does not show the value."""
    lines = []
    for key, value in addresses.leaves(document):
        if (refusal := unwritable(key, value) or addresses.refusal(key, value)) is None:
            continue
        found = next((key[:n] for n in range(len(key), 0, -1) if key[:n] in origins), None)
        origin = origins[found] if found else Origin(str(path), (2, 0, 0))
        if found and origin.order[0] == 1:
            lines.append((origin.order, f"override '{dotted(found)}=...': {dotted(key)}: {refusal}"))
        elif keeps is None:
            lines.append((origin.order, f"{origin.place}: {dotted(key)}: {refusal}"))
        elif not keeps(key):
            cure = f"{refusal}. The run has it already: give another beside the command, `{dotted(key)}=...`"
            lines.append((origin.order, f"{origin.place}: {dotted(key)}: {cure}"))
    return lines


def _explain(
    error: ValidationError, path: Path, origins: Mapping[Key, Origin], document: Mapping[str, Any]
) -> list[_Line]:
    """One line for each key of the document that is wrong."""
    lines: dict[Key, _Line] = {}
    for problem in error.errors(include_url=False):
        key, value = _key_of(problem, document)
        found = _blamed(problem, key, origins)
        origin = origins[found] if found else Origin(str(path), (2, 0, 0))
        name = "" if found == key and origin.order[0] == 1 else f"{dotted(key)}: "
        lines[key] = (origin.order, f"{origin.place}: {name}{_cure(problem, key, value)}")
    # Where one branch of a union saw deeper than another, its word is the better one.
    return [line for key, line in lines.items() if not any(k != key and k[: len(key)] == key for k in lines)]


def _blamed(problem: Any, key: Key, origins: Mapping[Key, Origin]) -> Key | None:
    """The key of `origins` that a problem at `key` is told of; None where it is of the job as a whole."""
    overridden = [k for k, origin in origins.items() if origin.order[0] == 1]
    if problem["type"] == "value_error" and key not in overridden:  # of keys that do not go together, which it names
        named = [tuple(name.split(".")) for name in _NAMED.findall(problem["msg"])]
        named = [full for name in named for full in ((*key, *name), name)]
        matches = [(len(k) > len(n), k) for n in named for k in overridden if k[: len(n)] == n[: len(k)]]
        if matches:  # the key itself, or its section, before one that is only within a section that is named
            return min(matches, key=lambda match: match[0])[1]
        overridden = [] if named or not key else overridden
    if key in origins:
        return key
    # What is missing has no place of its own: that of its section is the nearest. What an override has put around
    # its own key came with it.
    around = (key[:n] for n in range(len(key), 0, -1))
    return next((k for k in (*(k for k in overridden if k[: len(key)] == key), *around) if k in origins), None)


def _key_of(problem: Any, document: Mapping[str, Any]) -> tuple[Key, Any]:
    """The key of the job that a problem is about, and the value there."""
    key: Key = ()
    for part in _in_file(problem, document):
        # A union's branches appear in the location too; they are no keys of the file.
        if isinstance(part, int) or fields_at(key):
            key = (*key, part)
    if problem["type"] == "missing" and key and isinstance(key[-1], int):
        return key[:-1], problem["input"]  # a list that is too short
    return key, problem["input"]


def _in_file(problem: Any, document: Mapping[str, Any]) -> Sequence[str | int]:
    """Where a file has what the job has there: the settings of its source are a section."""
    first, *below = problem["loc"] or ("",)
    if first == BESIDE:
        return below
    kind = kind_named(document.get("source"))
    in_section = first == "source" and kind is not None and kind.section in document
    return [kind.section, *below] if in_section and kind else problem["loc"]


def _cure(problem: Any, key: Key, value: Any) -> str:
    if problem["type"] in ("extra_forbidden", "invalid_key"):
        known = fields_at(key[:-1])
        near = difflib.get_close_matches(str(key[-1]), known, n=1)
        elsewhere = [section for section in fields_at(()) if key[-1] in fields_at((section,))]
        hint = f"known here: {', '.join(known)}"
        section, *below = str(key[-1]).split(".")
        if len(key) == 1 and below and fields_at((section,)):
            nested = f"{section}: {{{': {'.join(below)}: ...{'}' * len(below)}"
            hint = f"dotted keys are for the command line; here write `{nested}`"
        elif other := key_for(str(key[-1])):
            hint = f"that is `{other}` here"
        elif elsewhere or near:
            hint = f"did you mean `{f'{elsewhere[0]}.{key[-1]}' if elsewhere else near[0]}`?"
        return f"unknown key; {hint}"
    words = wanted_at(key)
    if problem["type"] == "missing" and len(key) == len(problem["loc"]):
        return f"missing; it has no default and must be {words}"
    if problem["type"] == "value_error" and not (isinstance(value, bool) and words):
        message: str = problem["msg"].removeprefix("Value error, ")
        return message if isinstance(value, dict) or key == ("source",) else f"{message} (it is {_shown(value)})"
    return f"must be {words} (it is {_shown(value)}{_slip(words or '', value)})"


def _slip(words: str, value: Any) -> str:
    """How YAML comes to read another value than was meant."""
    if value is None and words.startswith("a section"):
        return "; remove the key to take the defaults"
    if isinstance(value, bool):
        return ": YAML reads yes, no, on and off as true and false"
    if words.startswith("text") and isinstance(value, int | float | datetime.date):
        return "; put it in quotes"
    if words.startswith("text") and isinstance(value, Mapping | list):
        return "; put it in quotes: YAML reads braces and brackets as more than text. On a command line: 'KEY=\"...\"'"
    return ""


def _shown(value: Any) -> str:
    """A value as it would stand in the file, cut where it is long."""
    plain = {None: "null", True: "true", False: "false"}
    text = plain[value] if value is None or isinstance(value, bool) else value
    text = str(text) if isinstance(text, datetime.date) or text in plain.values() else repr(text)
    text = addresses.without_secrets(text)
    return text if len(text) <= 80 else text[:77] + "..."
