"""What each attempt at a training writes has names of its own."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

from orchestrator.records.rows import TrainingPlan


class Attempts:
    """The plan of each attempt at a training, with names of its own for all that it writes: ranks that were given up
    and still live write where nobody looks."""

    def __init__(self, plan: TrainingPlan) -> None:
        self._plan = self._last = plan
        self._number = 0

    def next(self) -> TrainingPlan:
        """The plan of the next attempt. It goes on from the states that the last one has saved."""
        self._number += 1
        metrics, probe, checkpoint = (self._own(path) for path in self._outputs(self._plan))
        for folder in {metrics.parent, probe.parent}:
            folder.mkdir(exist_ok=True)
        states = self._plan.state_dir
        if self._number > 1:
            states = f"{states}.{self._number}"
            if Path(self._last.state_dir).is_dir():
                os.rename(self._last.state_dir, states)
        self._last = replace(
            self._plan,
            state_dir=states,
            metrics_file=str(metrics),
            probe_file=str(probe),
            checkpoint_dir=str(checkpoint),
        )
        return self._last

    def publish(self) -> None:
        """Give what the last attempt has written the names that were asked for."""
        for own, final in zip(self._outputs(self._last), self._outputs(self._plan), strict=True):
            if own.exists():  # there is no probe beside several checkpoints
                shutil.rmtree(final, ignore_errors=True)
                os.replace(own, final)

    def remove(self) -> None:
        """Remove what attempts have left, but for the saved states."""
        for folder in {*(path.parent for path in self._outputs(self._plan)[:2]), Path(self._plan.checkpoint_dir)}:
            for number in range(1, self._number + 1):
                shutil.rmtree(_beside(folder, number), ignore_errors=True)

    def _own(self, path: Path) -> Path:
        """Beside the folder of a file: what is in that is committed with it."""
        if path == Path(self._plan.checkpoint_dir):
            return _beside(path, self._number)
        return _beside(path.parent, self._number) / path.name

    @staticmethod
    def _outputs(plan: TrainingPlan) -> tuple[Path, Path, Path]:
        return Path(plan.metrics_file), Path(plan.probe_file), Path(plan.checkpoint_dir)


def _beside(folder: Path, number: int) -> Path:
    return folder.with_name(f"{folder.name}.{number}-e0")
