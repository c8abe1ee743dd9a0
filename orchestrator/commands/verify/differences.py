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
    recorded: Any
    computed: Any

    def __str__(self) -> str:
        if self.recorded is MISSING:
            return f"{self.key} is not told, and the files say {_shown(self.computed)}"
        return f"{self.key} is {_shown(self.recorded)}, and the files say {_shown(self.computed)}"


def differences(
    recorded: Mapping[str, Any], computed: Mapping[str, Any], above: str = "", whole: bool = False
) -> Iterator[Difference]:
    """Where facts differ that both have; where the `whole` must be told, also those that were found and are not said. A
    list that is not there is an empty one."""
    for key, value in computed.items():
        name = f"{above}{key}"
        if key not in recorded:
            if isinstance(value, list) and value:
                yield Difference(name, [], value)
            elif whole and not isinstance(value, list):
                yield Difference(name, MISSING, value)
            continue
        other = recorded[key]
        if isinstance(value, Mapping) and isinstance(other, Mapping) and key != "rules":
            yield from differences(other, value, f"{name}.", whole)
        elif isinstance(value, list) and isinstance(other, list) and any(isinstance(v, Mapping) for v in value):
            yield from differences(_numbered(other), _numbered(value), f"{name}.", whole)
            if len(other) != len(value):
                yield Difference(name, other, value)
        elif not _same(other, value):
            yield Difference(name, other, value)


def count(recorded: Mapping[str, Any], computed: Mapping[str, Any]) -> int:
    """How many facts were compared."""
    known = [(recorded[key], value) for key, value in computed.items() if key in recorded]
    return sum(count(a, b) if isinstance(a, Mapping) and isinstance(b, Mapping) else 1 for a, b in known)


def _numbered(values: Iterable[Any]) -> dict[str, Any]:
    return {str(number): value for number, value in enumerate(values)}


def _same(recorded: Any, computed: Any) -> bool:
    numbers = [isinstance(value, int | float) and not isinstance(value, bool) for value in (recorded, computed)]
    if all(numbers):
        return isclose(recorded, computed, rel_tol=1e-9, abs_tol=1e-12)
    if isinstance(recorded, list) and isinstance(computed, list):  # of names, in whichever order workers came to them
        return sorted(map(repr, recorded)) == sorted(map(repr, computed))
    return type(recorded) is type(computed) and bool(recorded == computed)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:97]}..."
