"""What a large cluster would do under the real driver, and what the driver costs it.

    python -m benchmarks.scale [--cases 8b,70b,1000] [--rate 1] [--kill-at SECONDS] [--json]

The loop, the ledger, the pool of engines, the group of ranks and the graders' group are those of a run. Engines, ranks
and graders sleep by a cost model, in simulated time, and fail. The model and its sources stand in docs/scale.md.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.measured import report
from benchmarks.scale.driver import KILLED, as_json
from benchmarks.scale.files import make_project
from benchmarks.scale.model import CASES, Case

USEFUL = ("sampling", "reference pass", "training")
PARTS = {
    "useful": USEFUL,
    "engines below their full rate": ("engine works",),
    "engines with nothing to do": ("engine idle",),
    "starts of engines": ("starting engines",),
    "starts of ranks": ("starting ranks",),
    "saved states": ("saving",),
    "export of checkpoints": ("exporting",),
    "work that was lost": ("lost sampling", "lost training", "lost peers", "hanging"),
    "nodes that are missing": ("node down", "waiting for a node"),
    "the driver": ("driver",),
    "other work between phases": ("between phases",),
    "a driver that was killed": ("no driver",),
}
"""Where the time of the GPUs goes: all of it."""


def simulate(
    case: Case, folder: Path, seed: int = 1, kill_at: float | None = None, quiet: bool = True
) -> dict[str, Any]:
    """Run a case to its end, with a driver that is killed at a time; returns its figures."""
    make_project(case, folder)
    now, end, drivers = 0.0, kill_at, list[dict[str, Any]]()
    seconds: Counter[str] = Counter()
    while True:
        told = {"case": as_json(case), "folder": str(folder), "now": now, "end": end, "seed": seed + len(drivers)}
        told["figures"] = str(folder / f"figures-{len(drivers)}.json")
        (folder / "case.json").write_text(json.dumps(told))
        command = [sys.executable, "-m", "benchmarks.scale.driver", str(folder / "case.json")]
        code = subprocess.run(command, stdout=sys.stderr if not quiet else subprocess.DEVNULL, check=False).returncode
        if code not in (0, KILLED):
            raise RuntimeError(f"the driver of case {case.name} ended with {code}")
        found = json.loads(Path(told["figures"]).read_text())
        drivers.append(found)
        seconds.update(found["gpu_seconds"])
        if code == 0:
            return figures(case, found["now"], seconds, drivers)
        seconds["no driver"] += case.restart * case.gpus
        now, end = found["now"] + case.restart, None


def figures(case: Case, end: float, seconds: Counter[str], drivers: list[dict[str, Any]]) -> dict[str, Any]:
    """What a case came to. `goodput` is the share of all GPU-seconds that went into samples, reference passes and
    updates that were kept, at the full rate of engines and ranks."""
    whole = end * case.gpus
    parts = {name: sum(seconds[state] for state in states) / whole for name, states in PARTS.items()}
    failures = {name: sum(d["failures"][name] for d in drivers) for name in drivers[0]["failures"]}
    between = case.mean_time_between_failures if case.rate_factor else None
    interval = math.sqrt(2 * case.saving * between) if between else None
    return {
        "gpus": case.gpus,
        "hours": round(end / 3600, 3),
        "goodput": round(parts["useful"], 4),
        "ideal_hours": round(parts["useful"] * end / 3600, 3),
        "parts": {name: round(share, 4) for name, share in parts.items()},
        "counted": round(sum(seconds.values()) / whole, 6),
        "failures": failures,
        "hours_between_failures": round(between / 3600, 1) if between else None,
        "saving_seconds": round(case.saving, 1),
        "best_save_minutes": round(interval / 60, 1) if interval else None,
        "drivers": [driver["driver"] for driver in drivers],
    }


def table(found: dict[str, dict[str, Any]]) -> str:
    """The figures of some cases, side by side."""
    rows = [("", list(found))]
    rows += [(name, [f"{one[name]:g}" for one in found.values()]) for name in ("gpus", "hours", "ideal_hours")]
    rows += [(name, [f"{100 * one['parts'][name]:.1f} %" for one in found.values()]) for name in PARTS]
    rows += [
        (f"failures: {name}", [str(one["failures"][name]) for one in found.values()])
        for name in ("nodes", "processes", "hangs")
    ]
    for name in ("hours_between_failures", "saving_seconds", "best_save_minutes"):
        rows.append(
            (name.replace("_", " "), ["-" if one[name] is None else f"{one[name]:g}" for one in found.values()])
        )
    for name in ("cpu", "seconds", "records", "peak_mib"):
        rows.append((f"driver: {name}", [" + ".join(f"{d[name]:g}" for d in one["drivers"]) for one in found.values()]))
    return "\n".join(f"{name:<32}" + "".join(f"{value:>16}" for value in values) for name, values in rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", default=",".join(CASES), help="names with commas between: " + ", ".join(CASES))
    parser.add_argument("--rate", type=float, default=1.0, help="times the rate of failures")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kill-at", type=float, help="kill the driver after so many simulated seconds, and resume")
    parser.add_argument("--save-minutes", type=float, default=10.0)
    parser.add_argument("--scale", type=float, default=1.0, help="times the prompts of a round")
    parser.add_argument("--folder", type=Path, help="keep the runs here")
    parser.add_argument("--verbose", action="store_true", help="print what the drivers say, on stderr")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if unknown := [name for name in arguments.cases.split(",") if name not in CASES]:
        parser.error(f"--cases: {', '.join(unknown)} is none of {', '.join(CASES)}")
    changes = {"rate_factor": arguments.rate, "save_minutes": arguments.save_minutes}
    found, settings = {}, {"seed": arguments.seed, "kill_at": arguments.kill_at, "scale": arguments.scale} | changes
    with tempfile.TemporaryDirectory() as temporary:
        for name in arguments.cases.split(","):
            folder = (arguments.folder or Path(temporary)) / name
            case = replace(CASES[name], prompts=round(CASES[name].prompts * arguments.scale), **changes)
            found[name] = simulate(case, folder, arguments.seed, arguments.kill_at, not arguments.verbose)
    print(json.dumps(report("scale", settings, found)) if arguments.json else table(found))


if __name__ == "__main__":
    main()
