"""SIGTERM and Ctrl-C in each phase, while a worker is at work; and the second one, while the workers are ended."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.faults.children import Undisturbed, finish, running, wait_for
from tests.faults.sweeps import state_of

DEADLINE = 10.0  # seconds; `ray job stop` gives 3, and a slow machine must not fail this test
PHASES = {
    "prompts": ("tokenize", 3),
    "base model's evaluation": ("generate", 1),
    "samples": ("generate", 3),
    "verdicts": ("grade", 4),
    "held-out samples": ("generate", 5),
    "reference": ("reference", 1),
    "training": ("train", 1),
    "selection": ("generate", 6),
    "retraining": ("train", 2),
    "evaluation": ("grade", 10),
}


def _signals() -> list[Any]:
    """In each phase one of the two, by turns; with both in `make faults`."""
    return [
        pytest.param(phase, number, marks=() if (at + which) % 2 else pytest.mark.faults, id=f"{phase}-{number.name}")
        for at, phase in enumerate(PHASES)
        for which, number in enumerate((signal.SIGTERM, signal.SIGINT))
    ]


@pytest.mark.parametrize(("phase", "number"), _signals())
def test_a_signal_in_any_phase_ends_the_driver_with_130(
    calm: Undisturbed, space: Path, phase: str, number: signal.Signals
) -> None:
    case = calm.case(space / f"{number.name}-{phase}", wait_at=PHASES[phase])
    with running(case) as driver:
        wait_for(case.waiting, driver)
        assert driver.pid
        os.kill(driver.pid, number)
        assert finish(driver, DEADLINE) == 130, case.output
    assert state_of(case.run) == "interrupted"
    assert f"Interrupted: {number.name}" in case.output and "Traceback" not in case.output
    assert case.drive() == 0, case.output
    calm.require_same(case.run)


def test_a_second_signal_does_not_wait_for_the_workers(calm: Undisturbed, space: Path) -> None:
    case = calm.case(space / "impatient", wait_at=("train", 1), slow_exit=True)
    with running(case) as driver:
        wait_for(case.waiting, driver)
        assert driver.pid
        os.kill(driver.pid, signal.SIGINT)
        wait_for(case.leaving, driver)
        os.kill(driver.pid, signal.SIGINT)
        assert finish(driver, DEADLINE) == 130, case.output
    assert state_of(case.run) == "interrupted"
    assert calm.case(case.folder).drive() == 0, case.output
    calm.require_same(case.run)
