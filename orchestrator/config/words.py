"""What a field of the job file may hold, in plain words: for the errors a user sees and for the documentation."""

from __future__ import annotations

import types
from collections.abc import Sequence
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from orchestrator.config import Job, Settings, Source
from orchestrator.config.base import Words

_NUMBERS = {int: ("a whole number", "whole numbers"), float: ("a number", "numbers")}
_BOUNDS = ("ge", "gt", "le", "lt")


def wanted(annotation: Any, metadata: Sequence[Any] = ()) -> str:
    """A value of this type, such as "a whole number of at least 1, or null"."""
    return _words(annotation, metadata)[0]


def wanted_at(key: Sequence[str | int]) -> str | None:
    """What belongs at a key of the job, such as ("loss", "beta", 1); None where any value does, or there is no such
    key."""
    found = _at(key)
    return wanted(*found) if found else None


def fields_at(key: Sequence[str | int]) -> list[str]:
    """The names of the keys in the section at a key of the job; none where there is no section."""
    found = _at(key)
    model = model_of(found[0]) if found else None
    return list(model.file_fields()) if model else []


def model_of(annotation: Any) -> type[Settings] | None:
    """The section that a field holds, if it holds one, or may hold one."""
    annotation, _ = _bare(annotation, ())
    if get_origin(annotation) in (Union, types.UnionType):
        branches = [branch for branch in get_args(annotation) if branch is not type(None)]
        return model_of(branches[0]) if len(branches) == 1 else None
    return annotation if isinstance(annotation, type) and issubclass(annotation, Settings) else None


def is_schedule(annotation: Any) -> bool:
    """Whether a field takes one value for every round, or a list of one value a round."""
    branches = get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else ()
    return any(get_origin(_bare(branch, ())[0]) is list for branch in branches)


def schedule_at(key: Sequence[str | int]) -> bool:
    """Whether the job takes one value a round at this key."""
    found = _at(key)
    return found is not None and is_schedule(found[0])


def _at(key: Sequence[str | int]) -> tuple[Any, Sequence[Any]] | None:
    found: tuple[Any, Sequence[Any]] | None = (Job, ())
    for part in key:
        found = _below(found[0], part) if found else None
    return found


def _below(annotation: Any, part: str | int) -> tuple[Any, Sequence[Any]] | None:
    if isinstance(part, int):
        for branch in (annotation, *get_args(annotation)):
            bare, _ = _bare(branch, ())
            if get_origin(bare) in (list, tuple):
                return get_args(bare)[0], ()
        return None
    model = model_of(annotation)
    field = model.file_fields().get(part) if model else None
    return (field.annotation, field.metadata) if field else None


def _bare(annotation: Any, metadata: Sequence[Any]) -> tuple[Any, list[Any]]:
    """The type without `Annotated`, and everything it was annotated with."""
    found = list(metadata)
    while get_origin(annotation) is Annotated:
        annotation, *more = get_args(annotation)
        found += more
    return annotation, found


def _words(annotation: Any, metadata: Sequence[Any]) -> tuple[str, str]:
    """One such value, and several of them."""
    annotation, metadata = _bare(annotation, metadata)
    if get_origin(annotation) in (Union, types.UnionType):
        return _union(get_args(annotation))
    if said := next((item for item in metadata if isinstance(item, Words)), None):
        return said.words, said.words
    limits = _limits(metadata)
    if annotation is bool:
        return "true or false", "true or false"
    if annotation in _NUMBERS:
        one, many = _NUMBERS[annotation]
        return one + _range(limits), many + _range(limits)
    if annotation is str:
        form = f" of the form `{limits['pattern']}`" if "pattern" in limits else ""
        form += f", at most {limits['max_length']} characters" if "max_length" in limits else ""
        if limits.get("min_length"):
            return f"text that is not empty{form}", f"texts that are not empty{form}"
        return "text" + form, "texts" + form
    return _composite(annotation, limits)


def _composite(annotation: Any, limits: dict[str, Any]) -> tuple[str, str]:
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        names = [f"`{name}`" for name in parts]
        return " or ".join(filter(None, (", ".join(names[:-1]), names[-1]))), "any of " + ", ".join(names)
    if origin is list:
        many = "a list of " + _words(parts[0], ())[1]
        return many + (", not empty" if limits.get("min_length") else ""), "lists"
    if origin is tuple:
        return f"a list of {len(parts)} {_words(parts[0], ())[1]}", "lists"
    if origin is dict:
        return "a mapping of names to values", "mappings"
    if annotation is Source:
        return "a path, or a section with `path` or `hub`", "sources"
    return "a section of keys", "sections"


def _union(branches: Sequence[Any]) -> tuple[str, str]:
    some = [branch for branch in branches if branch is not type(None)]
    one, many = _words(some[0], ())
    first = _bare(some[0], ())[0]
    if len(some) == 2 and get_origin(_bare(some[1], ())[0]) is list and get_origin(first) is not Literal:  # a schedule
        one = f"{one}, or a list of such numbers, one a round"
    elif len(some) == 2:
        other, others = _words(some[1], ())
        one, many = f"{one}, or {other}", f"{many} or {others}"
    else:
        one += ", or null" if len(some) < len(branches) else ""
    return one, many


def _limits(metadata: Sequence[Any]) -> dict[str, Any]:
    """Constraints by name, wherever pydantic keeps them."""
    found: dict[str, Any] = {}
    for item in metadata:
        inner = item.metadata if isinstance(item, FieldInfo) else [item]
        for constraint in inner:
            names = (*_BOUNDS, "min_length", "max_length", "pattern")
            found |= {n: v for n in names if (v := getattr(constraint, n, None)) is not None}
    return found


def _range(limits: dict[str, Any]) -> str:
    low = f"at least {limits['ge']}" if "ge" in limits else f"above {limits['gt']}" if "gt" in limits else ""
    high = f"at most {limits['le']}" if "le" in limits else f"below {limits['lt']}" if "lt" in limits else ""
    if "ge" in limits and "le" in limits:
        return f" from {limits['ge']} to {limits['le']}"
    words = " and ".join(filter(None, (low, high)))
    return f" {'of ' if words.startswith('at') else ''}{words}" if words else ""
