"""What reaches the workers' environment through a private Ray, and what Ray writes of it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from orchestrator import config
from orchestrator.driver.cluster import Cluster
from orchestrator.driver.secrets import Secrets
from tests.support.real import in_own_process
from workers.secret_environment import knowing

pytestmark = [pytest.mark.real, pytest.mark.full]

OPEN, SECRET = "value-for-everybody", "value-of-a-secret"


def test_variables_reach_every_worker_and_no_secret_is_written(tmp_path: Path) -> None:
    assert in_own_process(reached, tmp_path) == "all as expected"


class Engine:
    def __init__(self, number: int) -> None:
        self.number, self.found = number, {name: os.environ.get(name) for name in ("NCCL_DEBUG_FILE", "HF_TOKEN")}

    def says(self) -> tuple[int, dict[str, Any]]:
        return self.number, self.found


def reached(folder: str) -> None:
    with Cluster(config.Cluster(env={"NCCL_DEBUG_FILE": OPEN}), Path(folder) / "logs") as cluster:
        import ray

        assert cluster.call(os.getenv, "NCCL_DEBUG_FILE") == OPEN
        [there] = cluster.on_nodes(os.getenv, "NCCL_DEBUG_FILE", timeout=300).values()
        assert there == OPEN
        with cluster.reserve("engines", 1, 1, 0) as placement:
            options = placement.actor_options(0)
            plain = ray.remote(knowing(Engine, {})).options(**options).remote(7)
            assert ray.get(plain.says.remote()) == (7, {"NCCL_DEBUG_FILE": OPEN, "HF_TOKEN": None})
            ray.kill(plain)
            secrets = Secrets({"HF_TOKEN": SECRET})
            told = ray.remote(knowing(Engine, secrets)).options(**options).remote(secrets, 8)
            assert ray.get(told.says.remote()) == (8, {"NCCL_DEBUG_FILE": OPEN, "HF_TOKEN": SECRET})
        assert cluster._folder is not None
        written = b"".join(file.read_bytes() for file in cluster._folder.ray.rglob("*") if file.is_file())
        assert OPEN.encode() in written, "what Ray is told of an environment it writes into its logs"
        assert SECRET.encode() not in written
    print("all as expected")
