"""The job in a `config` record, held against the sections of the job by type alone.

An earlier version may have written it: keys that came later are missing there, keys that went are still there, and the
rules about settings that make no sense together are not asked, since what is done stays done. Whoever goes on with a
run has its job checked as a whole (`jobfile.parse_job`).
"""

from __future__ import annotations

import functools
import types
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, BeforeValidator, ConfigDict, create_model

from orchestrator.config import Job, Settings
from orchestrator.config.sources import KINDS
from orchestrator.config.yaml_text import MOST_VALUES

_MOST_CHARACTERS = 2_000_000
_ALWAYS: Mapping[str, frozenset[str]] = {
    "Job": frozenset(
        {"name", "method", "rounds", "seed", "model", "data", "generate", "grade", "pairs", "loss", "train", "tracking"}
    ),
    "Data": frozenset({"train", "gate", "test"}),
    "Source": frozenset({"path"}),
    "Stages": frozenset({"sources"}),
    "Loss": frozenset({"dpo"}),
    "Train": frozenset({"batch_pairs", "order"}),
}
"""What every version has written, and readers of records count on, besides what a section cannot be without. All else
may be missing."""


def check(job: dict[str, Any]) -> None:
    """Raises pydantic.ValidationError where a key has a value of another type than the job file's, or out of range, and
    ValueError where it has more values than a job file may have."""
    values, characters = _amount(job)
    if values > MOST_VALUES or characters > _MOST_CHARACTERS:
        raise ValueError(
            f"`data.job` has more than {MOST_VALUES:,} values, or {_MOST_CHARACTERS:,} characters; no job has so many"
        )
    _by_types(Job, tuple(KINDS)).__pydantic_validator__.validate_python(job)


def _amount(value: Any) -> tuple[int, int]:
    """How many values and how much text a JSON value holds, at whatever depth; no more is counted than decides."""
    waiting, number, characters = [value], 0, 0
    while waiting and number <= MOST_VALUES:
        below = waiting.pop()
        if isinstance(below, str):
            characters += len(below)
        inner = list(below.values()) if isinstance(below, dict) else below if isinstance(below, list) else []
        number += len(inner)
        waiting += inner
    return number, characters


@functools.cache
def _by_types(section: type[Settings], sources: tuple[str, ...]) -> type[BaseModel]:
    """A section as it is recorded: the same types, no conversions, and no rules beyond a field's own. `sources` are the
    names that a job can give as its source."""
    fields: dict[str, Any] = {}
    for name, field in section.file_fields().items():
        bounds = [mark for mark in field.metadata if not isinstance(mark, BeforeValidator)]
        kind = _recorded(field.annotation, sources)
        needed = field.is_required() or name in _ALWAYS.get(section.__name__, ())
        fields[name] = (Annotated[(kind, *bounds)] if bounds else kind, ... if needed else None)
    config = ConfigDict(extra="allow", frozen=True, strict=True, allow_inf_nan=False, protected_namespaces=())
    return create_model(section.__name__, __config__=config, **fields)


def _recorded(kind: Any, sources: tuple[str, ...]) -> Any:
    """A field's type as JSON has it: no short forms, and lists for tuples."""
    if isinstance(kind, type) and issubclass(kind, Settings):
        return _by_types(kind, sources)
    origin, of = get_origin(kind), get_args(kind)
    if origin is None or origin is Literal:
        return kind
    if origin is Annotated:
        marks = [mark for mark in of[1:] if not isinstance(mark, BeforeValidator)]
        return Annotated[(_recorded(of[0], sources), *marks)] if marks else _recorded(of[0], sources)
    inner = tuple(_recorded(part, sources) for part in of)
    if origin is tuple:
        return list[inner[0]]  # type: ignore[valid-type]
    return Union[inner] if origin in (Union, types.UnionType) else origin[inner]  # noqa: UP007
