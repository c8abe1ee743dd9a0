"""A benchmark beside a recorded one: each figure, old and new, and new/old.

    python -m benchmarks.ledger --json | python -m benchmarks.compare benchmarks/baselines/ledger.json
    python -m benchmarks.compare OLD NEW

Says on what machine each was measured, and which settings differ. Figures of two machines, or of a busy one, are shown
all the same: it is the reader who judges them. CPU seconds depend least on other work.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any


def numbers(figures: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """Every number by the names on the way to it: "results / padded / seconds"."""
    for name, value in figures.items():
        if isinstance(value, Mapping):
            yield from numbers(value, f"{prefix}{name} / ")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield f"{prefix}{name}", value


def ratio(old: float, new: float) -> str:
    """new/old; there is none to 0."""
    return f"{new / old:.3f}" if old else "same" if new == old else "-"


def differences(old: Mapping[str, Any], new: Mapping[str, Any], what: str) -> list[str]:
    """What of two mappings is not the same, a line each."""
    keys = dict.fromkeys([*old, *new])
    return [
        f"{what} {key}: {old.get(key)} -> {new.get(key)}"
        for key in keys
        if key != "load_per_core" and old.get(key) != new.get(key)
    ]


def machine_line(machine: Mapping[str, Any]) -> str:
    """A machine in words, with how busy it was: more than 1 runnable task a core is a machine shared with others."""
    packages = ", ".join(f"{name} {version}" for name, version in machine["packages"].items())
    busy = f"{machine['load_per_core']} tasks a core" + (" (busy)" if machine["load_per_core"] > 1 else "")
    return f"{machine['cpu']}, {machine['cores']} cores, {busy}; Python {machine['python']}, {packages}"


def compare(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """Both reports as text.

    Raises:
        ValueError: they are of different benchmarks.
    """
    if old["benchmark"] != new["benchmark"]:
        raise ValueError(f"one is of `{old['benchmark']}`, the other of `{new['benchmark']}`: nothing to compare")
    before, after = dict(numbers(old["figures"])), dict(numbers(new["figures"]))
    names = list(dict.fromkeys([*before, *after]))
    width = max(map(len, ["figure", *names]))
    lines = [f"old  {machine_line(old['machine'])}", f"new  {machine_line(new['machine'])}"]
    lines += differences(old["machine"], new["machine"], "machine")
    lines += differences(old["settings"], new["settings"], "setting")
    lines += ["", f"{'figure':{width}} {'old':>12} {'new':>12} {'new/old':>9}"]
    for name in names:
        told = [f"{side[name]:>12.6g}" if name in side else f"{'-':>12}" for side in (before, after)]
        both = name in before and name in after
        lines.append(f"{name:{width}} {told[0]} {told[1]} {ratio(before[name], after[name]) if both else '-':>9}")
    return "\n".join(lines)


def read(file: str) -> dict[str, Any]:
    """A report, of a file or (`-`) of the standard input."""
    found: dict[str, Any] = json.loads(sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8"))
    if not isinstance(found, dict) or not {"benchmark", "machine", "settings", "figures"} <= found.keys():
        raise ValueError(f"{file}: what a benchmark prints with --json is needed")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", help="a recorded one: benchmarks/baselines/NAME.json")
    parser.add_argument("new", nargs="?", default="-", help="the other; without it, the standard input")
    arguments = parser.parse_args()
    try:
        print(compare(read(arguments.old), read(arguments.new)))
    except (OSError, ValueError) as error:
        parser.exit(2, f"{parser.prog}: {error}\n")


if __name__ == "__main__":
    main()
