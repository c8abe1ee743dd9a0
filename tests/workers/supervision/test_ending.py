"""A phase is over when its processes are gone, their children too; nobody else's are touched. Real processes."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from collections.abc import Iterator

import psutil
import pytest
import ray

from orchestrator.driver.placement import Placement
from tests.support.local_ray import local_ray
from workers.supervision.ending import phase_over

# Says that it is there, and goes on whatever asks it to end.
STUBBORN = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(600)"
)
BRIEF = "print('up', flush=True); import sys; sys.stdin.read()"


def start(program: str, mark: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        env=os.environ | {"RATCHET_PHASE": mark},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None and process.stdout.readline() == "up\n"
    return process


@pytest.fixture
def mark() -> Iterator[str]:
    yield uuid.uuid4().hex


def test_who_ignores_all_asking_is_ended_and_nobody_else(mark: str) -> None:
    ours, theirs = start(STUBBORN, mark), start(STUBBORN, mark + "0")
    try:
        assert phase_over(mark, 0.3) == []
        assert ours.wait(60) == -9 and theirs.poll() is None
    finally:
        theirs.kill()
        theirs.wait()


def test_who_ends_by_himself_is_waited_for(mark: str) -> None:
    ours = start(BRIEF, mark)
    waiting = subprocess.Popen(
        [sys.executable, "-c", f"from workers.supervision.ending import phase_over; print(phase_over({mark!r}, 600))"],
        stdout=subprocess.PIPE,
        text=True,
    )
    with pytest.raises(subprocess.TimeoutExpired):
        waiting.wait(2)
    ours.communicate("")
    assert ours.returncode == 0, "nobody killed it"
    assert waiting.communicate(timeout=60)[0] == "[]\n"


def test_a_phase_that_left_nothing_is_over_at_once(mark: str) -> None:
    assert phase_over(mark, 600) == []


class Engine:
    """An engine with a child of its own session, which outlives it."""

    def child(self) -> int:
        process = subprocess.Popen(
            [sys.executable, "-c", STUBBORN], stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        assert process.stdout is not None and process.stdout.readline() == "up\n"
        return process.pid


@pytest.mark.real
def test_the_child_of_an_actor_is_found_by_the_mark_of_its_placement() -> None:
    """The mark goes with an actor's environment to whatever it starts."""
    placement = Placement((1, 1, 0), None, lambda _: None, None)
    with local_ray():
        options = {"num_cpus": 1, "runtime_env": placement.environment(1)}
        engine = ray.remote(Engine).options(**options).remote()
        child = psutil.Process(ray.get(engine.child.remote()))
        ray.kill(engine)
        assert child.is_running()
        assert phase_over(placement.mark, 1.0) == []
        assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE
