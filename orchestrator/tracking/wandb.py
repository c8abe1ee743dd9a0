"""Weights & Biases: a job is one run, with the figures of all its rounds. The key is read from the environment.

Without a network, or with WANDB_MODE=offline, `wandb sync --append RUN/wandb/offline-run-*` sends it later.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from orchestrator.files.inside import require_below
from orchestrator.tracking.projection import LEARNING, SYSTEM, Figure
from orchestrator.tracking.sink import RunStatus
from orchestrator.tracking.stores import Place

_EXIT_CODES: dict[RunStatus | None, int] = {"FINISHED": 0, None: 0, "FAILED": 1, "KILLED": 255}
_AXES = {LEARNING: "update", SYSTEM: "seconds"}
"""What the steps of a section's figures count; of the others rounds."""
_AXIS = "round"


def open_place(place: Place) -> Run:
    """The run's place.

    Raises:
        wandb.Error: it cannot be reached, or knows no key.
        Damaged: a link leads out of the run.
    """
    require_below(place.run_dir, place.run_dir / "wandb" / "x")  # a stranger's link would lead W&B out
    return Run(place)


class Run:
    """A `Store`: a run of W&B, which its own process sends."""

    def __init__(self, place: Place) -> None:
        import wandb

        # Ratchet tells all there is to tell. Else W&B would add the machine's load, the output of this process, the
        # user's code, its repository and its packages.
        quiet = wandb.Settings(
            silent=True,
            console="off",
            disable_code=True,
            disable_git=True,
            save_code=False,
            x_disable_machine_info=True,
            x_disable_meta=True,
            x_disable_stats=True,
            x_save_requirements=False,
            init_timeout=20,  # seconds; it is tried again
        )
        self._run: Any = wandb.init(
            project=place.project,
            id=place.id,
            name=place.name,
            config=dict(place.parameters),
            dir=str(place.run_dir),
            resume="allow",
            reinit="create_new",
            settings=quiet,
        )
        for axis in (_AXIS, *_AXES.values()):
            self._run.define_metric(axis, hidden=True)
        for section, axis in _AXES.items():
            self._run.define_metric(f"{section}/*", step_metric=axis)

    def add(self, number: int, figures: Sequence[Figure]) -> None:
        """See `Store`."""
        if number:
            return  # those of the job have the same, with updates counted over all rounds
        rows: dict[tuple[str, int, int], dict[str, float]] = {}
        for figure in figures:
            section = figure.key.partition("/")[0]
            axis = _AXES.get(section, _AXIS)
            rows.setdefault((axis, figure.step, figure.milliseconds), {})[figure.key] = figure.value
            if axis is _AXIS:
                self._run.define_metric(figure.key, step_metric=_AXIS)
        for (axis, step, milliseconds), values in rows.items():
            self._run.log({**values, axis: step, "_timestamp": milliseconds / 1000})

    def settle(self) -> None:
        """See `Store`: W&B's process has it, and writes it to the disk by itself."""

    def close(self, status: RunStatus | None) -> None:
        """See `Store`. Waits until it is sent, or written: `finish` alone returns before W&B's process has."""
        import wandb

        self._run.finish(exit_code=_EXIT_CODES[status])
        wandb.teardown()
