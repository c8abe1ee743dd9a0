"""Ray's own calls between hosts under TLS: what is on the wire, who gets in, and a run over it.

The wire is read where the hosts' cables meet, with and without TLS: what is not found in the one case is found in the
other.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deploy.tools import DEPLOY, said
from tests.support.hosts import Host, Network, hosts_or_skip, ratchet
from tests.support.real import records

pytestmark = [pytest.mark.hosts, pytest.mark.full]

SECRET = "planted-secret-7c1d0f2a"
SMALL = (
    *("rounds=1", "data.prompts_per_round=8", "data.gate.limit=8", "data.test.limit=8", "generate.samples=4"),
    *("generate.engines=2", "generate.shard_prompts=4", "train.ranks=2", "train.zero=2", "train.max_steps=1"),
    *("tracking.enabled=false", "cluster.secrets=[HF_TOKEN]"),
)
_LISTEN = """
import socket, sys
wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.ntohs(3))
wire.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**26)
with open(sys.argv[1], "wb", buffering=0) as file:
    while True:
        file.write(wire.recv(2**17))
"""
_ELSEWHERE = """
import os, socket, sys
import ray
from orchestrator.driver.secrets import Secrets
from workers.secret_environment import knowing

class Engine:
    def found(self):
        return os.environ["HF_TOKEN"], socket.gethostname()

ray.init(address=sys.argv[1], log_to_driver=False, logging_level="ERROR")
secrets = Secrets({"HF_TOKEN": os.environ["HF_TOKEN"]})
actor = ray.remote(knowing(Engine, secrets)).options(resources={"elsewhere": 1}).remote(secrets)
assert ray.get(actor.found.remote()) == (os.environ["HF_TOKEN"], "one")
print("reached")
"""


@contextlib.contextmanager
def overheard(hosts: Network, file: Path) -> Iterator[Path]:
    """All that goes from host to host meanwhile, in a file."""
    enter = ["nsenter", f"--target={hosts.switch[1]}", "--net", "--"]
    listener = subprocess.Popen([*enter, sys.executable, "-S", "-c", _LISTEN, str(file)])
    try:
        while not file.exists():
            assert listener.poll() is None
            time.sleep(0.05)
        yield file
    finally:
        listener.kill()
        listener.wait()


def tls(host: Host, shared: Path, authority: str = "ca") -> dict[str, str]:
    """The environment of a Ray that has a certificate for this host, made by the script of deploy/."""
    folder = shared / f"{authority}-{host.name}"
    assert said(DEPLOY / "tls.sh", "ca", shared / authority)[0] == 0
    code, text = said(DEPLOY / "tls.sh", "node", shared / authority, folder, host.address)
    assert code == 0, text
    files = {"CA_CERT": "ca.crt", "SERVER_CERT": "node.crt", "SERVER_KEY": "node.key"}
    return {"RAY_USE_TLS": "1"} | {f"RAY_TLS_{name}": str(folder / file) for name, file in files.items()}


def start(hosts: Network, environments: dict[str, dict[str, str]]) -> None:
    head, one = hosts.hosts
    hosts.start_node(head, 1, "--no-monitor", **environments[head.name])
    hosts.start_node(one, 1, '--resources={"elsewhere": 1}', **environments[one.name])


def program(hosts: Network, **environment: str) -> str:
    """What a driver on the head says that hands a secret to an actor on the other host."""
    return hosts.head.run(sys.executable, "-c", _ELSEWHERE, hosts.ray_address, HF_TOKEN=SECRET, **environment)


def test_without_it_the_wire_shows_what_actors_are_given(tmp_path: Path) -> None:
    with hosts_or_skip(tmp_path, "head", "one") as hosts:
        start(hosts, {"head": {}, "one": {}})
        with overheard(hosts, tmp_path / "wire") as wire:
            assert "reached" in program(hosts)
        heard = wire.read_bytes()
    assert SECRET.encode() in heard
    assert hosts.environment["RAY_AUTH_TOKEN"].encode() in heard, "and the token, with each call"


def test_a_run_over_hosts_says_nothing_on_the_wire(tmp_path: Path) -> None:
    with hosts_or_skip(tmp_path, "head", "one") as hosts:
        own = {host.name: tls(host, tmp_path) for host in hosts.hosts}
        start(hosts, own)
        run = tmp_path / "irpo"
        with overheard(hosts, tmp_path / "wire") as wire:
            assert "reached" in program(hosts, **own["head"])
            given = own["head"] | {"HF_TOKEN": SECRET, "RATCHET_SECRETS": "HF_TOKEN"}
            driver = ratchet(hosts.head, run, *SMALL, f"cluster.address={hosts.ray_address}", **given)
            assert driver.wait(900) == 0, run.with_suffix(".log").read_text()
        heard = wire.read_bytes()
        assert len(heard) > 2**20 and SECRET.encode() not in heard
        assert hosts.environment["RAY_AUTH_TOKEN"].encode() not in heard
        assert records(run)[-1].data["state"] == "finished"

        for name, stranger in {"plain": {}, "strange": tls(hosts.head, tmp_path, "another-ca")}.items():
            run = tmp_path / name
            driver = ratchet(
                hosts.head, run, *SMALL[:-1], f"cluster.address={hosts.ray_address}", "cluster.timeout=15", **stranger
            )
            assert driver.wait(300) == 2, run.with_suffix(".log").read_text()
            assert "did not let us in within 15 s" in run.with_suffix(".log").read_text()
