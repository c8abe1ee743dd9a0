"""The two ways to write a source's settings in a job file: in the section of their own, which is how a job is kept, or
with its name, `source: {type: steps, localiser: judge}`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from orchestrator.config.sources import kind_named


class Misplaced(ValueError):
    """A setting of a source that stands where it cannot; `key` is the job's."""

    def __init__(self, key: tuple[str, ...], text: str) -> None:
        super().__init__(text)
        self.key = key


def place(key: tuple[str, ...], source: Any) -> tuple[str, ...]:
    """Where `source.KEY` is kept, the job's source being `source`; any other key is its own place.

    Raises:
        Misplaced: the source has no settings.
    """
    if key[:1] != ("source",) or len(key) == 1:
        return key
    if key[1] == "type":
        return ("source", *key[2:])
    kind = kind_named(source)
    if kind is not None and not kind.section:
        raise Misplaced(key, f"unknown key; `source: {source}` has no settings of its own")
    return (kind.section, *key[1:]) if kind else key


def in_sections(document: Mapping[str, Any], usual: Any = "sample") -> dict[str, Any]:
    """A job file whose `source` is a name, with its settings in their section; `usual` is the source where it names
    none.

    Raises:
        Misplaced: a setting stands in both places, or the source has none.
    """
    said = document.get("source")
    if not isinstance(said, Mapping):
        return dict(document)
    name = said.get("type", usual)
    made = {**document, "source": name}
    for key, value in said.items():
        if key == "type":
            continue
        section, *_ = place(("source", str(key)), name)
        if section == "source":  # no such source, which is what is told
            continue
        beside = made.get(section)
        beside = {} if beside is None else beside
        if not isinstance(beside, Mapping) or key in beside:
            raise Misplaced(("source", str(key)), f"`{section}.{key}` stands twice: in `source`, and in `{section}`")
        made[section] = {**beside, key: value}
    return made


def moved(document: Mapping[str, Any], usual: Any = "sample") -> Iterator[tuple[tuple[str, ...], tuple[str, ...]]]:
    """The keys of `source` in a file, and where they are kept."""
    said = document.get("source")
    if isinstance(said, Mapping):
        name = said.get("type", usual)
        yield from ((("source", str(key)), place(("source", str(key)), name)) for key in said)
