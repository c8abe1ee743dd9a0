"""deploy/ray-up: Ray's own rules for a cluster launcher's file, and what the nodes are started with."""

from __future__ import annotations

import copy
import os
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from tests.deploy.tools import DEPLOY, PROJECT

FOLDER = DEPLOY / "ray-up"


@pytest.fixture
def config() -> dict[str, Any]:
    found = yaml.safe_load((FOLDER / "cluster.yaml").read_text())
    assert isinstance(found, dict)
    return found


def test_ray_takes_it(config: dict[str, Any]) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config  # seconds, for this test alone

    prepared = prepare_config(copy.deepcopy(config))
    validate_config(prepared)
    (kind,) = prepared["available_node_types"].values()
    assert kind["min_workers"] == kind["max_workers"] == len(config["provider"]["worker_ips"])
    with pytest.raises(jsonschema.ValidationError, match="setup_comands"):
        validate_config(prepared | {"setup_comands": []})


def test_every_ray_is_started_with_the_token_and_the_dashboard_stays_on_loopback(config: dict[str, Any]) -> None:
    head, worker = (config[f"{kind}_start_ray_commands"] for kind in ("head", "worker"))
    for command in (*head, *worker):
        assert command.startswith("source ~/ratchet/deploy/ray-up/env.sh && ")
    assert "--dashboard-host=127.0.0.1" in head[-1] and "--autoscaling-config=~/ray_bootstrap_config.yaml" in head[-1]
    assert "--address=$RAY_HEAD_IP:6379" in worker[-1]


def test_the_projects_environment_and_secrets_are_not_sent(config: dict[str, Any]) -> None:
    assert config["file_mounts"] == {"~/ratchet": "."}
    assert {".venv", "runs", "deploy/docker/secrets"} <= set(config["rsync_exclude"])
    assert all((PROJECT / word).exists() for word in ("deploy/setup.sh", "deploy/ray-up/env.sh"))


def test_the_token_is_made_once_and_is_only_the_users(config: dict[str, Any], tmp_path: Path) -> None:
    """The head's command, with another folder in the place of /shared."""
    (command,) = config["head_setup_commands"]
    token, seen = tmp_path / ".ray-token", set()
    for _ in range(2):
        done = subprocess.run(["bash", "-c", command.replace("/shared", str(tmp_path))], capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")
        assert token.stat().st_mode & 0o777 == 0o600
        seen.add(token.read_text())
    assert [len(one) for one in seen] == [64]


def test_what_nodes_source_sets_what_a_driver_needs(tmp_path: Path) -> None:
    (tmp_path / "ratchet/.venv/bin").mkdir(parents=True)
    (tmp_path / "ratchet/.venv/bin/activate").write_text("")
    done = subprocess.run(
        ["bash", "-c", f"set -euo pipefail; source {FOLDER / 'env.sh'}; env"],
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    found = dict(line.split("=", 1) for line in done.stdout.splitlines())
    assert found["RAY_AUTH_MODE"] == "token" and found["RAY_ADDRESS"] == "auto"
    assert {found[name].split("/")[1] for name in ("RATCHET_HOME", "RATCHET_STATE_HOME", "RAY_AUTH_TOKEN_PATH")} == {
        "shared"
    }


def test_with_an_authority_each_node_has_a_certificate_and_ray_uses_it(tmp_path: Path) -> None:
    """What nodes source, with another folder in the place of /shared."""
    (tmp_path / "ratchet/.venv/bin").mkdir(parents=True)
    (tmp_path / "ratchet/.venv/bin/activate").write_text("")
    (tmp_path / "ratchet/deploy").symlink_to(FOLDER.parent)
    (tmp_path / "env.sh").write_text((FOLDER / "env.sh").read_text().replace("/shared", str(tmp_path / "shared")))
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    command = ["bash", "-c", f"set -euo pipefail; source {tmp_path}/env.sh; env"]
    without = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    assert "RAY_USE_TLS" not in without
    subprocess.run([FOLDER.parent / "tls.sh", "ca", tmp_path / "shared/.tls"], check=True)
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    found = dict(line.split("=", 1) for line in done.splitlines())
    assert found["RAY_USE_TLS"] == "1"
    ca, node, key = (Path(found[f"RAY_TLS_{name}"]) for name in ("CA_CERT", "SERVER_CERT", "SERVER_KEY"))
    assert key.stat().st_mode & 0o777 == 0o600
    assert subprocess.run(["openssl", "verify", "-CAfile", ca, node], capture_output=True).returncode == 0
