"""What a private Ray shows to its neighbours: nothing below its folder, and no port beyond this host."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from orchestrator import config
from orchestrator.driver.cluster import Cluster
from orchestrator.driver.private_folder import remove_leftovers
from orchestrator.driver.signals import signals
from orchestrator.errors import Interrupted
from tests.support.real import abroad, family, listening

PROJECT = Path(__file__).parents[2]
PATIENCE = 150.0  # seconds; a deadline for a hung test, not an expectation

pytestmark = [pytest.mark.real, pytest.mark.full]


@pytest.fixture
def place() -> Iterator[str]:
    """For the private Ray's folder: where no run beside this test cleans up after it."""
    with tempfile.TemporaryDirectory(prefix="rp-", ignore_cleanup_errors=True) as folder:
        yield folder


def test_a_private_ray_is_for_its_user_alone_and_leaves_nothing(tmp_path: Path, place: str) -> None:
    code = f"from tests.real.test_private_ray_real import show; show({str(tmp_path)!r})"
    driver = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=PROJECT,
        env=os.environ | {"TMPDIR": place, "RAY_USE_TLS": "1", "RAY_TLS_CA_CERT": "/nowhere"},  # for a cluster, to join
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert driver.stdout
        told = json.loads(next(line for line in driver.stdout if line.startswith("{")))
        folder = Path(told["folder"])
        assert told["temporary"] == [str(folder / "t")] * 3  # a task's and the ranks', where vLLM leaves its files
        found = listening(driver)
        assert {"gcs_server", "raylet", "ray::_Rank"} <= found.keys()
        assert not abroad(found)
        everyone = {process.pid: process.name() for process in family(driver)}
        servers = {name: pid for pid, name in everyone.items() if name in ("gcs_server", "raylet")}
        agents = [pid for pid, name in everyone.items() if "Agent" in name]
        command = psutil.Process(servers["gcs_server"]).cmdline()
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert stat.S_IMODE((folder / "r").stat().st_mode) == 0o777, "Ray leaves its folder closed: is ours needed yet?"
    finally:
        driver.kill()
        driver.wait()
    # Killed while Ray forks its head: the head goes on, and the next start ends it.
    deadline = time.monotonic() + PATIENCE
    while any(map(_runs, servers.values())):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    head = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        assert head.poll() is None
        remove_leftovers(folder.parent)
        assert head.wait(PATIENCE) in (0, -signal.SIGTERM, -signal.SIGKILL)
        assert not folder.exists()
        assert not [pid for pid in agents if _runs(pid)], "Ray's agents, which write there"
    finally:
        head.kill()
        head.wait()


def test_workers_take_no_module_from_the_current_folder(tmp_path: Path, place: str) -> None:
    """Which may be a stranger's run: Ray puts it first on the import path of a driver's workers."""
    for name in ("encodings", "json", "multiprocessing", "numpy", "torch", "workers"):
        (tmp_path / f"{name}.py").write_text(f"import posix\nposix.mkdir({str(tmp_path / 'executed')!r})\n")
    code = f"from tests.real.test_private_ray_real import search; search({str(tmp_path / 'logs')!r})"
    done = subprocess.run(
        [sys.executable, "-P", "-c", code],
        cwd=tmp_path,
        env=os.environ | {"TMPDIR": place, "PYTHONPATH": str(PROJECT)},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert str(PROJECT) in found and not {"", str(tmp_path)} & {*found}
    assert not (tmp_path / "executed").exists()


def test_a_worker_that_dies_while_ray_starts_holds_nobody_up(tmp_path: Path, place: str) -> None:
    with started(tmp_path, place) as driver:
        killed: list[int] = []
        deadline = time.monotonic() + PATIENCE
        while driver.poll() is None and not killed:
            assert time.monotonic() < deadline
            for process in family(driver):
                with contextlib.suppress(psutil.Error):
                    if any(word.endswith("default_worker.py") for word in process.cmdline()[1:4]):
                        process.kill()
                        killed.append(process.pid)
        assert driver.wait(PATIENCE) == 0 and killed


@pytest.mark.parametrize("seconds", [0.5, 1.5, 3.0])
def test_a_signal_while_ray_starts_is_an_interruption(tmp_path: Path, place: str, seconds: float) -> None:
    with started(tmp_path, place) as driver:
        assert driver.stdout and driver.stdout.readline() == "starts\n"
        time.sleep(seconds)
        driver.terminate()
        assert driver.wait(PATIENCE) == Interrupted.exit_code


@contextlib.contextmanager
def started(folder: Path, place: str) -> Iterator[subprocess.Popen[str]]:
    """A process that enters a private Ray, calls a function there, and ends."""
    code = f"from tests.real.test_private_ray_real import enter; enter({str(folder / 'logs')!r})"
    environment = os.environ | {"TMPDIR": place}
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, cwd=PROJECT, env=environment, stdout=subprocess.PIPE, text=True) as driver:
        try:
            yield driver
        finally:
            driver.kill()


def enter(logs: str) -> None:
    """Tell that it begins, and end as `ratchet run` does."""
    try:
        with signals():
            print("starts", flush=True)
            with Cluster(config.Cluster(), Path(logs)) as cluster:
                cluster.call(_import_paths)
                time.sleep(5)  # what is sent late is sent before the end
    except Interrupted as interrupted:
        sys.exit(interrupted.exit_code)


def search(logs: str) -> None:
    """Tell where a worker looks for modules."""
    with Cluster(config.Cluster(), Path(logs)) as cluster:
        print(json.dumps(cluster.call(_import_paths)), flush=True)


def _import_paths() -> list[str]:
    subprocess.run([sys.executable, "-c", "import json, multiprocessing"], check=True)  # as libraries start processes
    return sys.path


def show(logs: str) -> None:
    """Start everything that listens for others but an engine, tell of its folder, and wait to be killed."""
    with Cluster(config.Cluster(), Path(logs) / "logs") as cluster:
        from workers.training.group import TrainerGroup

        temporary = [cluster.call(tempfile.gettempdir)]
        with cluster.reserve("ranks", 2, 1, 0) as placement, TrainerGroup(config.Train(ranks=2), placement) as group:
            temporary += group.each(_temporary)
            told = {"folder": str(Path(temporary[0]).parent), "temporary": temporary}
            print(json.dumps(told), flush=True)
            sys.stdin.read()


def _runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _temporary(trainer: Any) -> str:
    return tempfile.gettempdir()
