"""Hosts on this machine: each has network, host name, mounts, processes, /tmp and /dev/shm of its own.

They share one folder, and read the code and its environment. All hang on a switch of their own: no link, address or
name of a namespace appears on the machine itself. The kernel removes everything of a host with its first process, which
ends with the tests' process at the latest.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

PATIENCE = 400.0  # seconds; a deadline for a hung test, not an expectation
_TOOLS = ("ip", "unshare", "nsenter", "setpriv", "mount", "hostname")
_RAY = str(Path(sys.executable).with_name("ray"))
_PROJECT = Path(__file__).parents[2]
_STARTS = 4
_PORT = 6379
_PORTS = (
    "dashboard-agent-listen-port", "dashboard-agent-grpc-port", "runtime-env-agent-port", "metrics-export-port",
    "object-manager-port", "node-manager-port",
)  # fmt: skip
# Never reaped processes would look alive: the first one of a host does for its orphans what init does.
_INIT = """
import os, time
print("ready", flush=True)
while True:
    try:
        os.wait()
    except ChildProcessError:
        time.sleep(0.2)
"""
# A host's own name is that of a loopback address, as distributions have it; no other host knows it.
_MOUNTS = """
set -e
hostname "$1"
cd "$2"
mount -t tmpfs -o mode=1777 tmpfs /tmp
mount -t tmpfs -o mode=1777 tmpfs /dev/shm
mkdir -p "$2" /tmp/home
mount --no-canonicalize --bind . "$2"
printf '127.0.0.1 localhost\\n127.0.1.1 %s\\n' "$1" > /tmp/home/hosts
mount --bind /tmp/home/hosts /etc/hosts
touch /tmp/home/resolv.conf
mount --bind /tmp/home/resolv.conf /etc/resolv.conf
ip link set lo up
cd /
exec "$3" -S -c "$4"
"""


_LEFT = """
import json, sys
import ray
from ray._private.state import actors
from ray.util import placement_group_table
ray.init(address=sys.argv[1], log_to_driver=False, logging_level="ERROR")
living = [actor["ActorClassName"] for actor in actors().values() if actor["State"] != "DEAD"]
groups = [group["name"] for group in placement_group_table().values() if group["state"] != "REMOVED"]
print(json.dumps({"actors": living, "groups": groups}))
"""
Driver = subprocess.Popen[str]


class NoHosts(Exception):
    """This machine or this user cannot make hosts; the message says why."""


@dataclass
class Host:
    """A host: the process that holds it, and where it is in the network."""

    name: str
    number: int
    holder: subprocess.Popen[str]
    init: int
    """The first process of the host, as its number is outside."""
    environment: dict[str, str]
    switch: int = 0

    @property
    def address(self) -> str:
        return f"10.77.0.{self.number}"

    def command(self, *command: str | Path, cwd: Path | None = None) -> list[str]:
        """A command that runs another one on the host."""
        enter = ["nsenter", f"--target={self.init}", "--net", "--mount", "--pid", "--uts", "--ipc", "--"]
        return [*enter, "sh", "-c", 'cd "$0" && exec "$@"', str(cwd or "/tmp"), *map(str, command)]

    def start(self, *command: str | Path, log: Path, cwd: Path | None = None, **more: str) -> subprocess.Popen[str]:
        """Start a command on the host, in a process group of its own."""
        with open(log, "a") as file:
            return subprocess.Popen(
                self.command(*command, cwd=cwd),
                env=self.environment | more,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                text=True,
            )

    def run(self, *command: str | Path, cwd: Path | None = None, check: bool = True, **more: str) -> str:
        """What a command on the host says."""
        done = subprocess.run(
            self.command(*command, cwd=cwd),
            env=self.environment | more,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert done.returncode == 0 or not check, f"{self.name}: {command}: {done.stdout}"
        return done.stdout

    def processes(self) -> list[psutil.Process]:
        """All processes of the host but the first one, as they are seen from outside."""
        mine, found = _namespace(self.init), []
        for each in psutil.process_iter():
            if each.pid != self.init and mine and _namespace(each.pid) == mine:
                found.append(each)
        return found

    def find(self, name: str) -> list[psutil.Process]:
        """Processes of the host whose title or command line begins so."""
        return [p for p in self.processes() if _title(p).startswith(name)]

    def files(self) -> list[str]:
        """What lies in the host's shared memory and temporary folder."""
        return sorted(self.run("find", "/dev/shm", "/tmp", "-mindepth", "1", "-maxdepth", "1").split())

    def crash(self) -> None:
        """End the host at once, with everything on it."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.init, 9)
        self.holder.wait(PATIENCE)

    @property
    def lives(self) -> bool:
        return self.holder.poll() is None

    def cut(self) -> None:
        """Pull its cable."""
        _ip(self.switch, "link", "set", f"port{self.number}", "down")

    def mend(self) -> None:
        """Put the cable back."""
        _ip(self.switch, "link", "set", f"port{self.number}", "up")


@dataclass
class Network:
    """A switch and the hosts that hang on it; the first one is the head of their Ray."""

    shared: Path
    switch: tuple[subprocess.Popen[str], int]
    environment: dict[str, str]
    hosts: list[Host] = field(default_factory=list)
    dashboard: bool = False
    """Whether the head takes submitted jobs."""

    @property
    def head(self) -> Host:
        return self.hosts[0]

    @property
    def ray_address(self) -> str:
        return f"{self.head.address}:{_PORT}"

    def add(self, name: str) -> Host:
        """A new host. Raises NoHosts."""
        number = 1 + max((host.number for host in self.hosts), default=0)
        holder, init = _hold(name, self.shared, self.environment)
        host = Host(name, number, holder, init, self.environment, self.switch[1])
        self.hosts.append(host)
        link = ("link", "add", f"port{number}", "netns", str(self.switch[1]), "type", "veth")
        _ip(None, *link, "peer", "name", "eth0", "netns", str(init))
        _ip(self.switch[1], "link", "set", f"port{number}", "master", "switch", "up")
        _ip(init, "address", "add", f"{host.address}/24", "dev", "eth0")
        _ip(init, "link", "set", "eth0", "up")
        _ip(init, "route", "add", "default", "dev", "eth0")
        return host

    def start_ray(self, cpus: int, *options: str, **environment: str) -> None:
        """Start a Ray with a node on every host, the head's on the first one, that gives out so many cores each."""
        self.start_node(self.head, cpus, *options, **environment)
        with ThreadPoolExecutor() as together:
            started = [together.submit(self.start_node, h, cpus, *options, **environment) for h in self.hosts[1:]]
            for each in started:
                each.result()

    def start_node(self, host: Host, cpus: int, *options: str, **environment: str) -> None:
        """Start Ray's processes on a host, as few as will do."""
        where = [f"--address={self.ray_address}"]
        if host is self.head:
            where = ["--head", f"--port={_PORT}", f"--include-dashboard={self.dashboard}", "--dashboard-host=0.0.0.0"]
        where += [f"--{name}={port}" for port, name in enumerate(_PORTS, start=_PORT + 1)]
        where += [f"--node-ip-address={host.address}", f"--num-cpus={cpus}", "--num-gpus=0", "--temp-dir=/tmp/ray"]
        where += ["--object-store-memory=100000000", "--disable-usage-stats", "--include-log-monitor=False", *options]
        for attempt in range(1, _STARTS + 1):
            # A node of Ray's goes if its agents take longer than 15 s to start: on a busy machine they come first.
            try:
                host.run("nice", "-n", "-6", _RAY, "start", *where, **environment)
                break
            except (AssertionError, subprocess.TimeoutExpired):
                if attempt == _STARTS:
                    raise
            for process in host.processes():
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            host.run("rm", "-rf", "/tmp/ray")
        for process in host.processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.nice(os.nice(0))

    def end(self) -> None:
        for host in self.hosts:
            host.crash()
        _kill(*self.switch)


@contextlib.contextmanager
def network(shared: Path, *names: str, **environment: str) -> Iterator[Network]:
    """Hosts of these names that share a folder. What was started or made is gone at the end.

    Raises:
        NoHosts: before anything is made.
    """
    if missing := [tool for tool in _TOOLS if shutil.which(tool) is None]:
        raise NoHosts(f"no {', '.join(missing)} here (util-linux, iproute2, hostname)")
    if os.geteuid():
        raise NoHosts("making hosts takes root")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "RATCHET_", "GLOO_", "NCCL_"))}
    everything = kept | {
        "HOME": "/tmp/home",
        "TMPDIR": "/tmp",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(_PROJECT),
        "RATCHET_STATE_HOME": str(shared / "state"),
        "RAY_raylet_start_wait_time_s": "60",  # a busy machine needs more than Ray's 30
        "RAY_worker_niceness": "0",  # Ray's 15 would leave them the rest of a busy machine
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
    }
    everything |= environment
    made = Network(shared, _hold("switch", shared, everything), everything)
    try:
        _ip(made.switch[1], "link", "add", "switch", "type", "bridge")
        _ip(made.switch[1], "link", "set", "switch", "up")
        for name in names:
            made.add(name)
        yield made
    finally:
        made.end()


def ratchet(host: Host, run: Path, *overrides: str, job: str = "jobs/irpo.yaml", **more: str) -> Driver:
    """`ratchet run` on a host, its output in `<run>.log`."""
    command = [sys.executable, "-m", "orchestrator", "run", job, f"run_dir={run}", *overrides]
    return host.start(*command, log=run.with_suffix(".log"), cwd=_PROJECT, **more)


def left_in_ray(hosts: Network) -> dict[str, list[str]]:
    """Actors and placement groups that the cluster still has."""
    said = hosts.head.run(sys.executable, "-c", _LEFT, hosts.ray_address)
    found: dict[str, list[str]] = json.loads(said.splitlines()[-1])
    return found


@contextlib.contextmanager
def hosts_or_skip(shared: Path, *names: str, **environment: str) -> Iterator[Network]:
    """As `network`; where there can be none, the test is skipped."""
    try:
        with network(shared, *names, **environment) as made:
            yield made
    except NoHosts as reason:
        pytest.skip(str(reason))


def _hold(name: str, shared: Path, environment: Mapping[str, str]) -> tuple[subprocess.Popen[str], int]:
    """Make a host's namespaces: the process that holds them, and the first process inside."""
    spaces = ["--net", "--mount", "--pid", "--uts", "--ipc", "--fork", "--kill-child", "--mount-proc"]
    script = ["sh", "-c", _MOUNTS, "sh", name, str(shared), sys.executable, _INIT]
    holder = subprocess.Popen(
        ["setpriv", "--pdeathsig", "KILL", "unshare", *spaces, *script],
        env=dict(environment),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        text=True,
    )
    assert holder.stdout and holder.stderr
    if holder.stdout.readline() != "ready\n":
        holder.kill()
        raise NoHosts(f"namespaces cannot be made here: {holder.communicate()[1].strip()}")
    [first] = psutil.Process(holder.pid).children()
    return holder, first.pid


def _kill(holder: subprocess.Popen[str], init: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(init, 9)
    holder.wait(PATIENCE)


def _ip(inside: int | None, *arguments: str) -> None:
    enter = [] if inside is None else ["nsenter", f"--target={inside}", "--net", "--"]
    done = subprocess.run([*enter, "ip", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise NoHosts(f"ip {' '.join(arguments)}: {done.stderr.strip()}")


def _namespace(pid: int) -> str:
    try:
        return os.readlink(f"/proc/{pid}/ns/pid")
    except OSError:  # it is gone
        return ""


def _title(process: psutil.Process) -> str:
    """The start of the command line; empty for a zombie and for a process that is gone."""
    with contextlib.suppress(psutil.Error):
        if process.status() != psutil.STATUS_ZOMBIE:
            return " ".join(process.cmdline()[:4])
    return ""


def wait_until(reached: Callable[[], bool], what: str, seconds: float = PATIENCE) -> None:
    """Return when `reached()` holds."""
    deadline = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {what}"
        time.sleep(0.2)
