"""Running the real product from tests: a process of its own, watched through its ledger, killed for real."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import psutil

from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.record_files import Record

PROJECT = Path(__file__).parents[2]
PATIENCE = 600.0  # seconds; a deadline for a hung test, not an expectation


def start(run_dir: Path, *overrides: str, job: str = "jobs/irpo.yaml") -> subprocess.Popen[str]:
    """`ratchet run` in a process group of its own, its output in `<run_dir>.log`."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    with open(run_dir.with_suffix(".log"), "a") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "orchestrator", "run", job, f"run_dir={run_dir}", *overrides],
            cwd=PROJECT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            text=True,
        )


def in_own_process(work: Callable[[str], None], folder: Path) -> str:
    """Do a module's `work(folder)` in a process of its own; returns what it printed last. Ray takes its token from the
    environment as it is when Ray is first imported, so that only such a process can have a private one."""
    code = f"from {work.__module__} import {work.__name__} as work; work({str(folder)!r})"
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


def log_of(run_dir: Path) -> str:
    return run_dir.with_suffix(".log").read_text()


def records(run_dir: Path) -> list[Record]:
    return Ledger(run_dir / "ledger").records


def wait_for(process: subprocess.Popen[str], run_dir: Path, reached: Callable[[Sequence[Record]], bool]) -> None:
    """Return when the ledger shows what is waited for; fail when the process ends before."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if (run_dir / "ledger").is_dir() and reached(records(run_dir)):
            return
        assert process.poll() is None, log_of(run_dir)
        time.sleep(0.05)
    raise AssertionError(f"not reached within {PATIENCE:.0f} s\n{log_of(run_dir)}")


def committed(step: str) -> Callable[[Sequence[Record]], bool]:
    return lambda found: any(r.kind == "commit" and r.data["step"] == step for r in found)


def has_shard(step: str) -> Callable[[Sequence[Record]], bool]:
    return lambda found: any(r.kind == "shard" and r.data["step"] == step for r in found)


def finish(process: subprocess.Popen[str], run_dir: Path) -> int:
    try:
        return process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        raise AssertionError(log_of(run_dir)) from None
    finally:
        end(process)


def family(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """The process and everything it has started."""
    try:
        parent = psutil.Process(process.pid)
        return [parent, *parent.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def listening(process: subprocess.Popen[str]) -> dict[str, list[str]]:
    """Addresses that the process and everything it has started listen on, by the process's name."""
    found: dict[str, list[str]] = {}
    for each in family(process):
        with contextlib.suppress(psutil.Error):
            addresses = [c.laddr.ip for c in each.net_connections("inet") if c.status == psutil.CONN_LISTEN]
            if addresses:
                found.setdefault(each.name(), []).extend(addresses)
    return found


def abroad(found: Mapping[str, Sequence[str]]) -> dict[str, Sequence[str]]:
    """Of what `listening` tells, all with an address that other hosts reach."""
    return {name: addresses for name, addresses in found.items() if not all(map(_is_loopback, addresses))}


def _is_loopback(address: str) -> bool:
    found = ipaddress.ip_address(address)
    return (getattr(found, "ipv4_mapped", None) or found).is_loopback


def end(process: subprocess.Popen[str]) -> None:
    """kill -9 the driver alone, and see that what it had started is gone by itself.

    Ray's two agents outlive their cluster by a minute (they try to report its death to it); they hold
    no device and little memory, so they are given that minute at the end of the tests, in `all_gone`.
    """
    everyone = family(process)
    if process.poll() is None:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    _, alive = psutil.wait_procs([p for p in everyone if "Agent" not in _name(p)], timeout=120)
    # Asked again: one that was just starting had no name yet.
    _agents.extend(p for p in everyone if "Agent" in _name(p))
    _alive_after(0, [p for p in alive if "Agent" not in _name(p)])


_agents: list[psutil.Process] = []


def all_gone() -> None:
    _alive_after(120, _agents)
    _agents.clear()


def _alive_after(seconds: float, processes: list[psutil.Process]) -> None:
    _, alive = psutil.wait_procs(processes, timeout=seconds)
    left = [f"{p.pid} {_name(p)}" for p in alive if _name(p)]
    for process in alive:
        process.kill()
    assert not left, f"left running: {left}"


def _name(process: psutil.Process) -> str:
    """The start of the command line; empty for a zombie and for a process that is gone."""
    try:
        return " ".join(process.cmdline()[:4])
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return ""
