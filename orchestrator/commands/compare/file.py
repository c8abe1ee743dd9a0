"""The file of `ratchet compare`, such as jobs/compare.yaml: one job, several methods and seeds; and the job of every
run that follows from it.

    name: compare
    job: irpo.yaml                      what all arms share
    set: {generate.samples: 8}          before the methods' own settings
    seeds: [1]
    arms:
      irpo: {seeds: [1, 2, 3]}
      spin: {method: irpo, set: {pairs: {gold_as_chosen: only, rejected: any}}}
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Annotated, Any, get_args

from pydantic import AfterValidator, Field, ValidationError, field_validator, model_validator

from orchestrator.config import CountOrZero, Job, Method, Settings
from orchestrator.config.archive import is_shared
from orchestrator.config.document import Key, Origin, in_sections, put, put_all
from orchestrator.config.load import JobFile, checked
from orchestrator.config.methods import PRESETS, with_method
from orchestrator.config.own_methods import OwnMethod, is_own, place_of, read_own
from orchestrator.config.places import home
from orchestrator.config.words import fields_at, wanted
from orchestrator.config.yaml_text import read_yaml, text_of
from orchestrator.driver.trust import require_file
from orchestrator.errors import BadInput
from orchestrator.files.inside import run_around
from orchestrator.files.named import named_path, real
from orchestrator.tracking.tracker import default_address

_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
_ELSEWHERE = {"name": "the arm's name", "method": "an arm's `method`", "seed": "`seeds`", "run_dir": "the name"}
"""Keys of a job that the comparison decides, and by what."""

Name = Annotated[str, Field(pattern=_NAME, max_length=40)]
Seeds = Annotated[list[CountOrZero], Field(min_length=1)]


def _settings(value: dict[str, Any]) -> dict[str, Any]:
    for key in value:
        if key in _ELSEWHERE:
            raise ValueError(f"`{key}` cannot be set here: {_ELSEWHERE[key]} decide{'s' * (key != 'seed')} it")
    return value


def _method(value: str) -> str:
    if value not in get_args(Method) and not is_own(value):
        raise ValueError(f"must be {wanted(Job.model_fields['method'].annotation)} (it is {value!r})")
    return value


def _different(value: list[int] | None) -> list[int] | None:
    if value and len(set(value)) < len(value):
        raise ValueError("a seed stands twice")
    if value and max(value) >= 2**31:
        raise ValueError("a seed must be below 2147483648")
    return value


class Arm(Settings):
    """One side of a comparison: a method with its settings, one run a seed."""

    method: Annotated[str, AfterValidator(_method)] | None = None
    """Which method's settings are the defaults: one of Ratchet's, or a row of a file of your own, `FILE#NAME`, relative
    to this file's folder, else to the current one; null takes the arm's name."""
    set: dict[str, Any] = Field(default={})
    """Settings of this arm alone, dotted or in sections, as in the comparison's `set`."""
    seeds: Seeds | None = None
    """Seeds of the arm's runs; null takes the comparison's."""
    start: str | None = None
    """An arm above this one, whose run of the same seed has trained the base model: its last promoted checkpoint."""

    _checked_set = field_validator("set")(_settings)
    _checked_seeds = field_validator("seeds")(_different)


class Comparison(Settings):
    """Several methods on the same problems, with the same budgets."""

    name: Name
    """Name of the comparison and of its folder `runs/<name>`, which holds a run for each arm and seed."""
    job: str
    """The job file that all arms share; relative to this file's folder, else to the current one. Where an arm has
    another method than that file, what the method's row names is not taken from the file."""
    set: dict[str, Any] = Field(default={})
    """Settings of all arms, which go before the shared file's and the methods' own: dotted keys, or sections whose keys
    are merged with the others. Paths are relative to the shared file's folder, else to the current one."""
    seeds: Seeds = Field(default=[1])
    """Seeds of the runs of each arm."""
    arms: dict[Name, Arm] = Field(min_length=1)
    """The arms, in the order in which they are run."""

    _checked_set = field_validator("set")(_settings)
    _checked_seeds = field_validator("seeds")(_different)

    @model_validator(mode="after")
    def _arms_fit(self) -> Comparison:
        above: list[str] = []
        for name, arm in self.arms.items():
            if arm.method is None and name not in get_args(Method):
                raise ValueError(f"arms.{name}: no method has this name; give `method`")
            if arm.start is not None:
                if "model" in arm.set:
                    raise ValueError(f"arms.{name}: `start` gives the base model, so `set` must not give `model`")
                if arm.start not in above:
                    raise ValueError(f"arms.{name}.start: {arm.start!r} is no arm above this one")
                if missing := set(self.seeds_of(name)) - set(self.seeds_of(arm.start)):
                    raise ValueError(f"arms.{name}.start: {arm.start!r} has no run with seed {min(missing)}")
            above.append(name)
        return self

    def seeds_of(self, arm: str) -> list[int]:
        return self.arms[arm].seeds or self.seeds


def run_name(arm: str, seed: int) -> str:
    """The name of a run's folder."""
    return f"{arm}-seed{seed}"


@dataclass(frozen=True)
class PlannedRun:
    """One run of a comparison: an arm with one seed."""

    arm: str
    seed: int
    file: JobFile
    """The job; `path` is the shared file's, which the job's paths are relative to."""
    start: str | None
    """The run that trains its base model, by name."""

    @property
    def name(self) -> str:
        return run_name(self.arm, self.seed)


@dataclass(frozen=True)
class Plan:
    """A comparison, resolved."""

    path: Path
    shared: Path
    """The job file that all arms share."""
    name: str
    folder: Path
    """Holds the runs, their job files and logs, and the table."""
    runs: tuple[PlannedRun, ...]
    """In the order in which they are run."""


def load_plan(path: Path) -> Plan:
    """Read a comparison, and make the job of each of its runs.

    Raises:
        BadInput: with every error at once, each on a line of its own.
    """
    require_file(path)
    document, positions = read_yaml(text_of(path, "comparison"), str(path))
    if not isinstance(document, dict):
        raise BadInput(f"{path}: a comparison is a mapping of keys to values, such as `name: compare`")
    if "model" in document and "arms" not in document:
        raise BadInput(f"{path}: this is a job, without `arms`, and no comparison: `ratchet run {path}`")
    try:
        comparison = Comparison.model_validate(document)
    except ValidationError as error:
        raise BadInput("\n".join(_explain(error, path, positions))) from error
    return _planned(comparison, path, positions)


def _planned(comparison: Comparison, path: Path, positions: Mapping[Key, tuple[int, int]]) -> Plan:
    shared = _find(comparison.job, path)
    require_file(shared)
    if run_around(path) not in (None, run_around(shared)):
        raise BadInput(
            f"{path}: job: {comparison.job!r} leads out of the run that this file lies in. Name your own file"
        )
    folder = real(home() / "runs" / comparison.name)
    document, lines = read_yaml(text_of(shared), str(shared))
    if not isinstance(document, dict):
        raise BadInput(f"{shared}: a job file is a mapping of keys to values, such as `name: irpo`")
    places = _origins(lines, shared)
    document = in_sections(document, places)
    runs: list[PlannedRun] = []
    wrong: dict[str, list[str]] = {}
    for name, arm in comparison.arms.items():
        try:
            own, origins = _own_method(name, arm, path, positions), dict(places)
            job = _for_method(document, arm.method or name, own, shared)
            given, where_of = [], []
            for where, said in ((("set",), comparison.set), (("arms", name, "set"), arm.set)):
                for at, key, value in _flat(said, f"{path}: {'.'.join(where)}"):
                    given.append((key, value, _nearest(positions, (*where, *at), path)))
                    where_of.append(where)
            for where, keys in groupby(
                zip(where_of, put_all(job, origins, given, own.source if own else None), strict=True), itemgetter(0)
            ):
                _require_different([key for _, key in keys], f"{path}: {'.'.join(where)}")
            for seed in comparison.seeds_of(name):
                runs.append(_run(comparison, name, seed, dict(job), dict(origins), shared, folder, own))
        except BadInput as error:
            for text in str(error).splitlines():
                wrong.setdefault(text, []).append(name)
    if wrong:
        raise BadInput("\n".join(_said(text, arms, len(comparison.arms)) for text, arms in wrong.items()))
    return Plan(path, shared, comparison.name, folder, tuple(runs))


def _own_method(name: str, arm: Arm, path: Path, positions: Mapping[Key, tuple[int, int]]) -> OwnMethod | None:
    """The row that an arm names as its method."""
    if arm.method is None or not is_own(arm.method):
        return None
    where = f"{_nearest(positions, ('arms', name, 'method'), path).place}: arms.{name}.method"
    return read_own(arm.method, path, where)


def _for_method(document: dict[str, Any], method: str, own: OwnMethod | None, shared: Path) -> dict[str, Any]:
    """The shared job file for an arm's method: as it is where it has the same, else without what the method's row
    names."""
    said = document.get("method", "irpo")
    if own is None:
        return dict(document) if said == method else with_method(document, method, PRESETS[method].settings)  # type: ignore[index]
    if is_own(said):
        file, name = place_of(said, shared, f"{shared}: method")
        if (real(file), name) == (real(own.file), own.name):
            return dict(document)
    return with_method(document, own.name, own.settings)


def _run(
    comparison: Comparison,
    arm: str,
    seed: int,
    document: dict[str, Any],
    origins: dict[Key, Origin],
    shared: Path,
    folder: Path,
    own: OwnMethod | None,
) -> PlannedRun:
    name, start = run_name(arm, seed), comparison.arms[arm].start
    before = run_name(start, seed) if start else None
    # The dashboard's models have the names of jobs, and a comparison's are not those of another run.
    decided: dict[tuple[str, ...], Any] = {("name",): f"{comparison.name}-{name}"}
    decided |= {("seed",): seed, ("run_dir",): str(folder / name)}
    # One experiment for all, in the dashboard of the other runs, unless the job says where.
    tracking = {"experiment": comparison.name, "uri": default_address(folder.parent)}
    said = document.get("tracking", {})
    if isinstance(said, Mapping):  # what is no section is left for the job's own checks to refuse
        decided |= {("tracking", key): value for key, value in tracking.items() if key not in said}
    if before:  # relative to the folder of the job file that the run will have
        decided["model",] = f"run:../{comparison.name}/{before}"
    for key, value in decided.items():
        put(document, origins, key, value, Origin(str(shared), (2, 0, 0)))
    job = checked(document, shared, origins, own=own)
    if job.archive and is_shared(job.archive):
        raise BadInput(f"{shared}: archive: each run needs an address of its own: put {{name}} into it")
    return PlannedRun(arm, seed, JobFile(job, real(shared), ()), before)


def _flat(said: Mapping[str, Any], where: str) -> Iterator[tuple[Key, tuple[str, ...], Any]]:
    """Each setting: where it stands, the job's key, and the value. Sections of a job are merged, all else replaces.

    Raises:
        BadInput: a key is none, or stands twice: dotted, and in its section.
    """
    seen = set()
    for at, key, value in _settings_of(said):
        if key in seen or not all(key):
            why = "stands twice" if key in seen else "is no key"
            raise BadInput(f"{where}: `{'.'.join(key)}` {why}")
        seen.add(key)
        yield at, key, value


def _require_different(keys: list[tuple[str, ...]], where: str) -> None:
    """A setting of a source may stand in its section, or with the source."""
    if (twice := next((key for key in keys if keys.count(key) > 1), None)) is not None:
        raise BadInput(f"{where}: `{'.'.join(twice)}` stands twice")


def _settings_of(said: Mapping[str, Any]) -> Iterator[tuple[Key, tuple[str, ...], Any]]:
    for name, value in said.items():
        key = tuple(name.split("."))
        if len(key) == 1 and (fields_at(key) or name == "source") and isinstance(value, Mapping):
            for below, inner in value.items():
                yield (name, below), (*key, *str(below).split(".")), inner
        else:
            yield (name,), key, value


def _nearest(positions: Mapping[Key, tuple[int, int]], key: Key, path: Path) -> Origin:
    """Where a key stands, or else what it is in: what YAML has merged into a section (`<<`) has no place there."""
    line, column = next((positions[key[:n]] for n in range(len(key), 0, -1) if key[:n] in positions), (1, 1))
    return Origin(f"{path}:{line}:{column}", (0, line, column))


def _origins(lines: Mapping[Key, tuple[int, int]], path: Path) -> dict[Key, Origin]:
    return {key: Origin(f"{path}:{line}:{column}", (0, line, column)) for key, (line, column) in lines.items()}


def _said(text: str, arms: list[str], num_arms: int) -> str:
    return text if len(arms) == num_arms else f"{text} [arms: {', '.join(arms)}]"


def _find(name: str, path: Path) -> Path:
    named = named_path(name, f"{path}: job")
    places = [path.parent / named, named]
    for place in places:
        if place.is_file():
            return place
    raise BadInput(f"{path}: job: {name!r} does not exist: nothing at {' nor at '.join(map(str, places))}")


def _explain(error: ValidationError, path: Path, positions: Mapping[Key, tuple[int, int]]) -> Iterator[str]:
    """One line for each key that is wrong."""
    for problem in error.errors(include_url=False):
        key: Key = tuple(part for part in problem["loc"] if part != "[key]")
        near = next((positions[key[:n]] for n in range(len(key), 0, -1) if key[:n] in positions), None)
        place = f"{path}:{near[0]}:{near[1]}" if near else str(path)
        name = f"{'.'.join(map(str, key))}: " if key else ""
        yield f"{place}: {name}{_cure(problem, key)}"


def _cure(problem: Any, key: Key) -> str:
    inside = len(key) > 2 and key[0] == "arms"
    fields, name = (Arm.model_fields, str(key[2])) if inside else (Comparison.model_fields, str(key[0]) if key else "")
    if problem["type"] == "extra_forbidden":
        return f"unknown key; known here: {', '.join(fields)}"
    if problem["type"] == "value_error":
        return str(problem["msg"]).removeprefix("Value error, ")
    if key[:1] == ("arms",) and len(key) == 2:
        words = f"a name of the form `{_NAME}`" if problem["type"].startswith("string") else "a section of keys"
    else:
        words = wanted(fields[name].annotation, fields[name].metadata)
    return f"{'missing; it ' if problem['type'] == 'missing' else ''}must be {words}"
