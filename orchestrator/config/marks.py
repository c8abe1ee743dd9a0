"""The mark of a field that only says how the work is executed.

What has no mark decides what comes out: it enters the fingerprints of the steps that it is an input of (see
ledger/recipes.py), and a run keeps it. What is executed otherwise comes out the same, or the same but for rounding: it
may change at every start, and the ledger says for each step what was used. An unknown thing decides: a mark is there
only where it is known that nothing else follows from the value.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from orchestrator.config.base import Settings

T = TypeVar("T")


def _nothing(_: Any) -> None:
    return None


@dataclass(frozen=True)
class Executes:
    """Of a field: its value only says how the work is executed."""

    since: int = 1
    """The first recipe of fingerprints that leaves it out. A field that has decided so far takes a new recipe."""
    decides: Callable[[Any], Any] = _nothing
    """What of a value decides all the same; two values that agree in it may take each other's place."""
    was: Any = None
    """The default that earlier recipes than `since` knew, and what they make of null."""
    words: str = "May change at every start."
    """For the documentation."""

    @property
    def wholly(self) -> bool:
        """Whether no value decides anything."""
        return self.decides is _nothing


Executing = Annotated[T, Executes()]
"""The type of a field that has never been in a fingerprint, and decides nothing."""


def mark_of(field: FieldInfo) -> Executes | None:
    """The mark of a field; None where it decides."""
    return next((mark for mark in field.metadata if isinstance(mark, Executes)), None)


@functools.cache
def marks_of(section: type[BaseModel]) -> Mapping[str, Executes]:
    """The marks of a section's fields, by name."""
    found = ((name, mark_of(field)) for name, field in section.model_fields.items())
    return {name: mark for name, mark in found if mark is not None}


def sections_in(annotation: Any) -> Iterator[type[Settings]]:
    """The sections that a field holds or may hold: none, one, or those of a union."""
    if isinstance(annotation, type) and issubclass(annotation, Settings):
        yield annotation
    elif get_origin(annotation) in (Union, types.UnionType, Annotated):
        for branch in get_args(annotation):
            yield from sections_in(branch)


def mark_at(root: type[Settings], key: str) -> tuple[Executes | None, list[str]]:
    """The mark that a dotted key is under, which may be that of a section above it, and the key's parts below that;
    None where it decides, or is no key."""
    sections, parts = [root], key.split(".")
    for number, name in enumerate(parts, 1):
        field = next((fields[name] for found in sections if name in (fields := found.file_fields())), None)
        if field is None:
            break
        if (mark := mark_of(field)) is not None:
            return mark, parts[number:]
        sections = list(sections_in(field.annotation))
    return None, []


def executing_in(section: BaseModel) -> dict[str, Any]:
    """The values, as JSON, of those fields of a section that say how its work is executed."""
    said = section.model_dump(mode="json", include=set(marks_of(type(section))))
    return {name: said[name] for name in marks_of(type(section))}
