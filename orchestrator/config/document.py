"""A job file as it is written: where each of its keys was set, and setting more of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.config import methods
from orchestrator.config.sources import form
from orchestrator.errors import BadInput
from orchestrator.files.strict_json import MAX_DIGITS

Key = tuple[str | int, ...]


@dataclass(frozen=True)
class Origin:
    """Where a key was set, for people, and its place in the order in which errors are told."""

    place: str
    order: tuple[int, int, int]


def in_sections(document: Mapping[str, Any], origins: dict[Key, Origin], usual: str | None = None) -> dict[str, Any]:
    """The document with the settings of its source in their section, and `origins` with their places there. `usual` is
    the source where it names none; null is that of its method.

    Raises:
        BadInput: a setting stands in both places, or the source has none.
    """
    usual = usual or methods.usual_source(document)
    try:
        made, moves = form.in_sections(document, usual), list(form.moved(document, usual))
    except form.Misplaced as error:
        origin = _near(error.key, origins)
        raise BadInput(f"{origin.place}: {dotted(error.key)}: {error}") from error
    for key in list(origins):
        for was, now in moves:
            if key[: len(was)] == was:
                origins[*now, *key[len(was) :]] = origins.pop(key)
    return made


def put_all(
    document: dict[str, Any],
    origins: dict[Key, Origin],
    given: Sequence[tuple[tuple[str, ...], Any, Origin]],
    usual: str | None = None,
) -> list[tuple[str, ...]]:
    """Set keys of a document, whose source's settings are in their section; returns where they stand now. `source.KEY`
    is a setting of the source that the document then has. `usual` is as in `in_sections`.

    Raises:
        BadInput: that source has no settings.
    """
    given = [one for key, value, origin in given for one in _apart(key, value, origin)]
    named = {"method": document.get("method", "irpo"), "source": document.get("source")}
    named |= {key[0]: value for key, value, _ in given if key in (("method",), ("source",))}
    source = (usual or methods.usual_source(named)) if named["source"] is None else named["source"]
    places = []
    for key, value, origin in given:
        try:
            place = form.place(key, source)
        except form.Misplaced as error:
            raise BadInput(f"{origin.place}: {dotted(error.key)}: {error}") from error
        if place[:1] != ("source",) or len(place) == 1:  # else it is of no source that there is, which is told
            put(document, origins, place, value, origin)
        places.append(place)
    return places


def _apart(key: tuple[str, ...], value: Any, origin: Origin) -> Iterator[tuple[tuple[str, ...], Any, Origin]]:
    """A source with its settings as a key each."""
    if key == ("source",) and isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _apart((*key, str(name)), inner, origin)
    else:
        yield ("source",) if key == ("source", "type") else key, value, origin


def _near(key: Key, origins: Mapping[Key, Origin]) -> Origin:
    return next((origins[key[:n]] for n in range(len(key), 0, -1) if key[:n] in origins), Origin("job", (2, 0, 0)))


def put(document: dict[str, Any], origins: dict[Key, Origin], key: tuple[str, ...], value: Any, origin: Origin) -> None:
    """Set a key of a document, whatever stood there or above it before."""
    section = document
    for part in key[:-1]:
        below = section.get(part)
        if isinstance(below, str) and part in ("train", "gate", "test"):
            below = {"path": below}  # a source's short form
        # A copy: an alias in the file would let the value reach other sections too.
        section[part] = dict(below) if isinstance(below, dict) else {}
        section = section[part]
    section[key[-1]] = value
    for old in [known for known in origins if known[: len(key)] == key]:
        del origins[old]
    origins[key] = origin


def unwritable(key: Key, value: Any) -> str | None:
    """Why no record can hold a value, or its key; None where one can."""
    try:
        "".join(text for text in (*key, value) if isinstance(text, str)).encode()
    except UnicodeEncodeError:
        return "it has half of a surrogate pair in it, which is no character"
    if isinstance(value, int) and abs(value) >= 10**MAX_DIGITS:
        return f"it has more than {MAX_DIGITS} digits"
    return None


def dotted(key: Key) -> str:
    """A key as the command line has it."""
    return ".".join(map(str, key)) or "job"
