"""What `ratchet plan` says of a job, against what the job takes when it runs: memory of rank and engine, and seconds.

    python -m benchmarks.planned [--rounds 2] [--job jobs/irpo.yaml] [--json]

Two runs from the job's beginning, each planned just before it starts: the first knows nothing of this machine, the
second knows the first. Memory is the most that a process held at once without files that are mapped into it, looked at
several times a second. On a machine with other work the seconds are those of that work, too.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from benchmarks.measured import report
from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.record_files import Record

ROOT = Path(__file__).parents[1]
JOB = ROOT / "jobs/irpo.yaml"
MEMORY, FIRST, LATER = 1.5, 5.0, 2.5
"""The factors that docs/planning.md states: of memory, of the seconds of a first run here, and of later ones."""
_LOOK = 0.1  # seconds
_ROLES = {"ray::_Rank": "rank", "ray::VllmEngine": "engine"}
"""By how the titles of their processes begin."""


def command(verb: str, job: Path, *words: str) -> list[str]:
    return [sys.executable, "-m", "orchestrator", verb, str(job), "tracking.enabled=false", *words]


def planned(job: Path, home: Path, *words: str) -> dict[str, Any]:
    """What a plan says, as JSON."""
    done = subprocess.run(
        [*command("plan", job, *words), "--json"], env=_environment(home), capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(f"plan: {done.stdout[-2000:]}{done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def ran(job: Path, home: Path, *words: str) -> dict[str, int]:
    """Run a job to its end; the most bytes that a process of each role held."""
    most: dict[str, int] = {}
    with subprocess.Popen(
        [*command("run", job, *words), "--plain"],
        env=_environment(home),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as process:
        root = psutil.Process(process.pid)
        while process.poll() is None:
            for one in _below(root):
                with contextlib.suppress(psutil.Error):
                    title = " ".join(one.cmdline())
                    if role := next((role for name, role in _ROLES.items() if title.startswith(name)), None):
                        held = one.memory_info()
                        most[role] = max(most.get(role, 0), held.rss - held.shared)
            time.sleep(_LOOK)
        said = process.stdout.read().decode(errors="replace") if process.stdout else ""
    if process.returncode:
        raise SystemExit(f"run: {said[-2000:]}")
    return most


def _environment(home: Path) -> dict[str, str]:
    return os.environ | {"RATCHET_HOME": str(home)}


def _below(process: psutil.Process) -> list[psutil.Process]:
    try:
        found: list[psutil.Process] = process.children(recursive=True)
    except psutil.Error:
        return []
    return found


def seconds(records: list[Record]) -> float:
    """From a run's first record to its last."""
    return records[-1].time - records[0].time


def figures(job: Path, rounds: int, home: Path) -> dict[str, Any]:
    """Both runs: what was planned, what came of it, and the factors between."""
    found: dict[str, Any] = {}
    for name in ("first", "later"):
        words = (f"name={name}", f"rounds={rounds}")
        said = planned(job, home, *words)
        held = ran(job, home, *words)
        took = seconds(Ledger(home / "runs" / name / "ledger").records)
        wanted = {holding["role"]: holding["total"] for holding in said["memory"]}
        found[name] = {
            "planned_seconds": round(3600 * said["hours"], 1),
            "seconds": round(took, 1),
            "seconds_factor": factor(3600 * said["hours"], took),
            "planned_bytes": wanted,
            "bytes": held,
            "memory_factor": {role: factor(wanted[role], held[role]) for role in held},
            "rests_on": said["texts"]["rests_on"],
        }
    return found


def factor(one: float, other: float) -> float:
    """How many times the larger is the smaller."""
    return round(max(one, other) / max(1e-9, min(one, other)), 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--job", type=Path, default=JOB)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        found = figures(options.job, options.rounds, Path(home))
    if options.json:
        print(json.dumps(report("planned", {"job": options.job.name, "rounds": options.rounds}, found)))
        return
    for name, row in found.items():
        print(f"{name:8}" + "".join(f"  {key} {value}" for key, value in row.items()))


if __name__ == "__main__":
    main()
