"""What a change of phase costs: rounds of the demo with processes that stay, and with new ones for each phase.

    python -m benchmarks.round [--rounds 2] [--json]

Both sides run `jobs/irpo.yaml` from its beginning, each in a process of its own, and give the same checkpoints. As
yardstick the start of one engine process: it loads its libraries and the demo's model, and ends. Memory is what all
processes of a side held at the same moment, with what they share counted once a process.
"""

from __future__ import annotations

import argparse
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
from orchestrator.config import Generate, Job
from orchestrator.config.load import load_job
from orchestrator.driver.drive import drive
from orchestrator.driver.signals import signals
from orchestrator.driver.turns import ENGINES, RANKS
from orchestrator.driver.wiring import RealWorkers
from orchestrator.ledger.ledger import Ledger
from orchestrator.reports.seconds import walls

ROOT = Path(__file__).parents[1]
JOB = ROOT / "jobs/irpo.yaml"
SIDES = ("engine", "new processes", "kept processes")
_LOOK = 0.2  # seconds between two looks at the processes


class Cold(RealWorkers):
    """Ends the processes of each phase before the next one."""

    early = False

    def __init__(self, job: Job, logs: Path) -> None:
        super().__init__(job, logs)
        self._last: str | None = None

    def engines(self, model: str, probe: Path | None = None) -> Any:
        if self._turns.turn == RANKS or (self._last and self._last != model):
            self._turns.release()
        self._last = model
        return super().engines(model)

    def trainers(self) -> Any:
        if self._turns.turn == ENGINES:
            self._turns.release()
        return super().trainers()


def work(side: str, folder: str, rounds: int) -> None:
    """One side, in this process and those that it starts."""
    if side == "engine":
        from workers.generation.vllm import VLLM, VllmEngine

        os.environ.update(VLLM.environment)
        VllmEngine(str(ROOT / "jobs/demo/base"), Generate(max_model_len=256, max_tokens=44), 1, False).close()
        return
    hire = Cold if side == "new processes" else RealWorkers
    job = load_job(JOB, [f"run_dir={folder}", f"rounds={rounds}", "tracking.enabled=false"])
    with signals() as received:
        drive(job, lambda line: None, received, hire)


def measured(command: list[str]) -> dict[str, float]:
    """Seconds by the clock, CPU seconds and the most memory of a command and all that it starts."""
    began, most = time.monotonic(), 0
    used: dict[tuple[int, float], float] = {}
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        root = psutil.Process(process.pid)
        while process.poll() is None:
            held = 0
            for one in [root, *_descendants(root)]:
                try:
                    times = one.cpu_times()
                    used[one.pid, one.create_time()] = times.user + times.system
                    held += one.memory_info().rss
                except psutil.Error:
                    continue
            most = max(most, held)
            time.sleep(_LOOK)
        said = process.stderr.read() if process.stderr else ""
    if process.returncode:
        raise SystemExit(f"{' '.join(command)}: {said[-2000:]}")
    seconds = time.monotonic() - began
    return {"seconds": round(seconds, 1), "cpu_seconds": round(sum(used.values()), 1), "gib": round(most / 2**30, 2)}


def _descendants(process: psutil.Process) -> list[psutil.Process]:
    try:
        found: list[psutil.Process] = process.children(recursive=True)
    except psutil.Error:
        return []
    return found


def checkpoints(folder: Path) -> list[str]:
    """The digests of the run's trained weights."""
    commits = Ledger(folder / "ledger").state.commits
    return [
        said["sha256"]
        for name, commit in sorted(commits.items())
        if name.endswith("/train")
        for artifact in commit.artifacts
        for file, said in sorted(artifact.files.items())
        if file.endswith(".safetensors")
    ]


def last_round(folder: Path, rounds: int) -> float:
    """Seconds of the last round, in which nothing starts that stays."""
    return round(walls(Ledger(folder / "ledger").records)[rounds], 1)


def figures(rounds: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for side in SIDES:
            place = f"{folder}/{side.partition(' ')[0]}"
            command = [sys.executable, "-m", "benchmarks.round", "--side", side, "--folder", place]
            found[side] = measured([*command, "--rounds", str(rounds)])
        runs = {side: Path(folder) / side.partition(" ")[0] for side in SIDES[1:]}
        for side, run in runs.items():
            found[side]["last_round"] = last_round(run, rounds)
        cold, warm = map(checkpoints, runs.values())
    new, kept = found["new processes"], found["kept processes"]
    found["kept / new"] = {key: round(kept[key] / new[key], 3) for key in new}
    found["last round / engine"] = {
        side: round(found[side]["last_round"] / found["engine"]["seconds"], 3) for side in runs
    }
    found["rounds"] = {"trained": len(warm), "same_weights": sum(a == b for a, b in zip(cold, warm, strict=True))}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        work(options.side, options.folder, options.rounds)
        return
    found = figures(options.rounds)
    if options.json:
        print(json.dumps(report("round", {"job": JOB.name, "rounds": options.rounds}, found)))
        return
    for name, row in found.items():
        print(f"{name:20}" + "".join(f"  {key} {value}" for key, value in row.items()))


if __name__ == "__main__":
    main()
