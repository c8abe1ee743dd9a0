"""Benchmarks against their recorded runs, each within its tolerance.

    python -m benchmarks.watch [NAME ...] [--record]

A file of `baselines/` that says by which `command` it was made is made again and compared: each figure that its
`tolerance` names must come to between so much and so much of the recorded one. Names stand for all that begins with
them. Tolerances are about ratios of two sides of one run, and CPU seconds, since other work hardly moves these.
`--record` keeps what comes out as the new baseline. Exits with 1 where a figure is out of its bounds.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.compare import compare, numbers, read

BASELINES = Path(__file__).parent / "baselines"


def known() -> dict[str, Path]:
    """The baselines that can be made again, by name."""
    return {file.stem: file for file in sorted(BASELINES.glob("*.json")) if "command" in read(str(file))}


def made_again(old: Mapping[str, Any]) -> dict[str, Any]:
    """What the baseline's command prints now.

    Raises:
        ValueError: it failed, or prints no report.
    """
    command = [sys.executable, "-m", *old["command"], "--json"]
    done = subprocess.run(command, cwd=BASELINES.parents[1], capture_output=True, text=True, check=False)
    if done.returncode:
        raise ValueError(f"{' '.join(old['command'])} ended with {done.returncode}: {done.stderr[-1000:]}")
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def out_of_bounds(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    """Figures that are not what their tolerance allows, a line each."""
    before, after = dict(numbers(old["figures"])), dict(numbers(new["figures"]))
    for prefix, (least, most) in old["tolerance"].items():
        names = [name for name in before if name.startswith(prefix)]
        if not names:
            yield f"{prefix}: no figure of this name is recorded"
        for name in names:
            if name not in after:
                yield f"{name}: it is not measured any more"
            elif not least * before[name] <= after[name] <= most * before[name]:
                yield f"{name}: {after[name]:g}, and {least:g} to {most:g} of {before[name]:g} is allowed"


def watch(file: Path, record: bool) -> list[str]:
    """Make a baseline again and print both; what is out of bounds."""
    old = read(str(file))
    new = made_again(old)
    print(f"{file.stem}: {' '.join(old['command'])}\n{compare(old, new)}\n", flush=True)
    if record:
        kept = {name: old[name] for name in ("command", "tolerance")}
        file.write_text(json.dumps(new | kept, indent=1) + "\n", encoding="utf-8")
        return []
    return [f"{file.stem}: {line}" for line in out_of_bounds(old, new)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(known())}; without any, all")
    parser.add_argument("--record", action="store_true")
    options = parser.parse_args()
    if unknown := sorted(set(options.names) - known().keys()):
        parser.exit(2, f"{parser.prog}: {', '.join(unknown)}: not among {', '.join(known())}\n")
    try:
        found = [line for name in options.names or known() for line in watch(known()[name], options.record)]
    except (OSError, ValueError) as error:
        parser.exit(2, f"{parser.prog}: {error}\n")
    if found:
        parser.exit(1, "out of bounds:\n" + "\n".join(found) + "\n")


if __name__ == "__main__":
    main()
