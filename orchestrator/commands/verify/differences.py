"""Where facts that a record tells are not what was found, a key at a time. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from math import isclose
from typing import Any, NamedTuple

MISSING = object()
"""What is said of a fact that is not there."""


class Difference(NamedTuple):
    """A fact that is not what its files say. `key` is dotted."""

    key: str
    said: Any
    found: Any

    def __str__(self) -> str:
        if self.said is MISSING:
            return f"{self.key} is not told, and the files say {_shown(self.found)}"
        return f"{self.key} is {_shown(self.said)}, and the files say {_shown(self.found)}"


def differences(
    said: Mapping[str, Any], found: Mapping[str, Any], above: str = "", whole: bool = False
) -> Iterator[Difference]:
    """Where facts differ that both have; where the `whole` must be told, also those that were found and are not said. A
    list that is not there is an empty one."""
    for key, value in found.items():
        name = f"{above}{key}"
        if key not in said:
            if isinstance(value, list) and value:
                yield Difference(name, [], value)
            elif whole and not isinstance(value, list):
                yield Difference(name, MISSING, value)
            continue
        other = said[key]
        if isinstance(value, Mapping) and isinstance(other, Mapping) and key != "rules":
            yield from differences(other, value, f"{name}.", whole)
        elif isinstance(value, list) and isinstance(other, list) and any(isinstance(v, Mapping) for v in value):
            yield from differences(_numbered(other), _numbered(value), f"{name}.", whole)
            if len(other) != len(value):
                yield Difference(name, other, value)
        elif not _same(other, value):
            yield Difference(name, other, value)


def count(said: Mapping[str, Any], found: Mapping[str, Any]) -> int:
    """How many facts were compared."""
    known = [(said[key], value) for key, value in found.items() if key in said]
    return sum(count(a, b) if isinstance(a, Mapping) and isinstance(b, Mapping) else 1 for a, b in known)


def _numbered(values: Iterable[Any]) -> dict[str, Any]:
    return {str(number): value for number, value in enumerate(values)}


def _same(said: Any, found: Any) -> bool:
    numbers = [isinstance(value, int | float) and not isinstance(value, bool) for value in (said, found)]
    if all(numbers):
        return isclose(said, found, rel_tol=1e-9, abs_tol=1e-12)
    if isinstance(said, list) and isinstance(found, list):  # of names, in whichever order workers came to them
        return sorted(map(repr, said)) == sorted(map(repr, found))
    return type(said) is type(found) and bool(said == found)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:97]}..."
