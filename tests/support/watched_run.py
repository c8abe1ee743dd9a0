"""`ratchet run` with stand-ins for workers that take their time, in a process of its own: to be looked at.

python -m tests.support.watched_run JOB SECONDS [--plain] [--fail] [--noise] [KEY=VALUE ...]
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from orchestrator.commands.run import shown_run
from orchestrator.config.load import load_job
from orchestrator.driver.signals import signals
from orchestrator.errors import Interrupted, RatchetError
from orchestrator.records.progress import ENGINES, UNWATCHED, Watch, starting
from orchestrator.reports.meters import Meters
from orchestrator.text import terminal
from tests.support.stand_ins import StandInEngines, StandIns, StandInTrainers, all_read


class Slow(StandIns):
    """Each piece of work takes `seconds`; libraries below it print, where there is to be noise."""

    def __init__(self, seconds: float, fail: bool, noise: bool) -> None:
        super().__init__(gain=0.02, steps=6, on_call=self._work)
        self.seconds, self.fail, self.noise = seconds, fail, noise
        self.watched: Watch = UNWATCHED

    def _work(self, name: str) -> None:
        time.sleep(self.seconds)
        if self.noise:
            os.write(1, b"a library in C\n")
            print("a library in Python", file=sys.stderr)
        if self.fail and name == "train" and self.calls["train"] == 2:
            raise RatchetError("the training has failed on purpose")

    def report_to(self, say: Callable[[str], None], meters: Meters, logs: Path, watch: Watch = UNWATCHED) -> None:
        self.watched = watch

    def engines(self, model: str, probe: Path | None = None) -> StandInEngines:
        with starting(self.watched, ENGINES, 2, "engines", f"vLLM loads {Path(model).name}"):
            for _ in range(2):
                time.sleep(self.seconds)
                self.watched.grow(ENGINES)
        return super().engines(model)

    def trainers(self) -> StandInTrainers:
        return SlowTrainers(self)


class SlowTrainers(StandInTrainers):
    def train(self, plan: Any, reference_file: str | None, on_step: Any = None) -> dict[str, Any]:
        def slowly(row: dict[str, Any]) -> None:
            time.sleep(self.workers.seconds)  # type: ignore[attr-defined]
            on_step(row)

        return super().train(plan, reference_file, slowly)


def main(job: str, seconds: str, *given: str) -> int:
    options = {arg for arg in given if arg.startswith("--")}
    workers = Slow(float(seconds), "--fail" in options, "--noise" in options)
    file = load_job(Path(job), [arg for arg in given if arg not in options])
    with terminal.shielded(), signals() as received:
        try:
            return shown_run(file, received, "--plain" in options, hire=lambda *_: workers, ask=all_read)
        except RatchetError as error:
            terminal.failure(error)
            return error.exit_code
        except Interrupted:
            return Interrupted.exit_code


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
