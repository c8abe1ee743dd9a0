"""One driver's life in a process of its own: `python -m benchmarks.scale.driver CASE.json`, which the benchmark starts.
It ends as a driver that is killed does where it is to, and leaves its figures in a file."""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from benchmarks.scale.model import Case, Costs, Failures, Model
from benchmarks.scale.simulation import Simulation
from benchmarks.scale.workers import SimulatedWorkers
from orchestrator.config import Grade, Job
from orchestrator.config.load import load_job
from orchestrator.driver.drive import drive
from orchestrator.driver.signals import signals

KILLED = 137


def as_json(value: Any) -> Any:
    """A dataclass as an object of JSON."""
    if is_dataclass(value):
        return {field.name: as_json(getattr(value, field.name)) for field in fields(value)}
    return value


def case_of(said: dict[str, Any]) -> Case:
    """The case that `as_json` has written."""
    parts = {"model": Model(**said["model"]), "costs": Costs(**said["costs"]), "failures": Failures(**said["failures"])}
    return Case(**said | parts)


def all_read(_grade: Grade, golds: Iterable[str]) -> tuple[dict[str, str], int]:
    """Graders that read every gold answer."""
    return {}, len(set(golds))


def figures(simulation: Simulation, started: float, root: Path) -> dict[str, Any]:
    """What a driver's life came to."""
    simulation.accounts.settle(simulation.now)
    records = sum(1 for _ in (root / "ledger").glob("*.json"))
    return {
        "now": simulation.now,
        "gpu_seconds": dict(simulation.accounts.seconds),
        "failures": dict(simulation.cluster.failures),
        "driver": {
            "seconds": round(simulation.driver_seconds, 3),
            "cpu": round(simulation.driver_cpu, 3),
            "before_workers": round(simulation.before_workers, 3),
            "charged": {name: round(seconds, 3) for name, seconds in simulation.charged.items()},
            "process_cpu": round(time.process_time(), 3),
            "process_seconds": round(time.perf_counter() - started, 3),
            "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
            "records": records,
            "calls": dict(simulation.calls),
            "parts": {name: round(seconds, 3) for name, seconds in simulation.parts_cpu.items()},
        },
    }


def run(simulation: Simulation, folder: Path, seed: int, say: Callable[[str], None] = lambda line: None) -> None:
    """Drive the run of a project to its end, by the driver of `ratchet run`."""

    def hired(job: Job, logs: Path) -> SimulatedWorkers:
        return SimulatedWorkers(job, logs, simulation, seed)

    def told(line: str) -> None:
        say(f"{simulation.now:10.0f}  {line}")
        simulation.part(line)

    with signals() as received:
        drive(load_job(folder / "scale.yaml"), told, received, hired, ask=all_read)


def main() -> None:
    """Drive a case from where its run is."""
    started = time.perf_counter()
    said = json.loads(Path(sys.argv[1]).read_text())
    folder = Path(said["folder"])
    simulation = Simulation(case_of(said["case"]), said["now"], said["end"])

    def ended() -> None:
        Path(said["figures"]).write_text(json.dumps(figures(simulation, started, folder / "run")))
        sys.stdout.flush()

    def killed() -> None:
        ended()
        os._exit(KILLED)  # nothing is seen to, as by a driver that is killed

    simulation.on_killed = killed
    run(simulation, folder, said["seed"], print)
    ended()


if __name__ == "__main__":
    main()
