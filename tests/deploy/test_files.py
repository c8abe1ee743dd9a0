"""What is in deploy/ beside Kubernetes: scripts, the Dockerfile, compose, the cluster launcher's file."""

from __future__ import annotations

import os
import re
import stat
import subprocess
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.tools import DEPLOY, PROJECT, said, tool

SCRIPTS = sorted(
    [*DEPLOY.rglob("*.sh"), *DEPLOY.rglob("*.sbatch"), PROJECT / "requirements/lock.sh", PROJECT / ".ci/run"]
)
DOCKER = DEPLOY / "docker"


def test_scripts_are_sound() -> None:
    program = tool("shellcheck")
    assert len(SCRIPTS) >= 5
    code, text = said(program, *SCRIPTS)
    assert code == 0, text
    code, text = said(program, "--shell=bash", "-", given="rm -rf $folder/*\n")
    assert code == 1 and "SC2086" in text


def test_scripts_can_be_started() -> None:
    sourced = DEPLOY / "ray-up/env.sh"
    assert [script for script in SCRIPTS if not script.stat().st_mode & 0o100] == [sourced]


def test_the_dockerfile_is_sound() -> None:
    program = tool("hadolint")
    code, text = said(program, "--failure-threshold", "info", DOCKER / "Dockerfile")
    assert code == 0, text
    code, text = said(program, "--failure-threshold", "info", "-", given="FROM python\nRUN cd /tmp\n")
    assert code == 1 and "DL3006" in text and "DL3003" in text


def test_the_image_has_what_its_set_up_reads_and_no_secret() -> None:
    """By the rules of a .dockerignore: the last that fits decides."""
    rules = [
        line for line in (DOCKER / "Dockerfile.dockerignore").read_text().splitlines() if line[:1] not in ("", "#")
    ]

    def goes_in(path: str) -> bool:
        decided = True
        for rule in rules:
            pattern = rule.removeprefix("!").removeprefix("**/")
            anywhere = rule.startswith("**/") and pattern in path.split("/")
            if anywhere or fnmatch(path, pattern) or fnmatch(path, f"{pattern}/*"):
                decided = rule.startswith("!")
        return decided

    tracked = subprocess.run(
        ["git", "ls-files"], cwd=PROJECT, capture_output=True, text=True, check=True
    ).stdout.split()
    inside = {path for path in tracked if goes_in(path)}
    named = set(re.findall(r"(?:requirements|deploy)/[\w./]+\w", (DEPLOY / "setup.sh").read_text()))
    assert {"deploy/setup.sh", "deploy/docker/mlflow.sh", "pyproject.toml", "README.md", "LICENSE"} | named <= inside
    assert {path.partition("/")[0] for path in inside if "/" in path} == {
        *("orchestrator", "workers", "jobs", "requirements", "deploy")
    }
    for path in ("deploy/docker/secrets/ray_token", ".git/config", "runs/irpo/ledger/1", "jobs/__pycache__/a.pyc"):
        assert not goes_in(path), path


def test_the_image_is_no_roots_and_names_no_address() -> None:
    text = (DOCKER / "Dockerfile").read_text()
    assert re.findall(r"^USER (.*)$", text, re.M) == ["1000:1000"]
    assert "://" not in text and re.search(r"^ARG BASE=python:3\.11-", text, re.M)
    assert 'deploy/setup.sh "$SET"' in text


@pytest.fixture
def compose() -> dict[str, Any]:
    found = yaml.safe_load((DOCKER / "compose.yaml").read_text())
    assert isinstance(found, dict)
    return found


def test_compose_is_sound() -> None:
    program = tool("check-jsonschema")
    code, text = said(program, "--builtin-schema", "vendor.compose-spec", *DOCKER.glob("compose*.yaml"))
    assert code == 0, text


def test_compose_publishes_on_loopback_and_writes_no_secret(compose: dict[str, Any]) -> None:
    ports = [port for service in compose["services"].values() for port in service.get("ports", [])]
    assert len(ports) == 2 and all(port.startswith("127.0.0.1:") for port in ports)
    for service in compose["services"].values():
        for name, value in service.get("environment", {}).items():
            assert not re.search("PASSWORD|TOKEN|KEY|SECRET", name) or value.startswith("/run/secrets/"), name
        named = [secret if isinstance(secret, str) else secret["source"] for secret in service.get("secrets", [])]
        assert set(named) <= compose["secrets"].keys()
    assert compose["services"]["head"]["environment"]["RAY_AUTH_MODE"] == "token"
    assert compose["services"]["worker"]["environment"]["RAY_AUTH_MODE"] == "token"
    assert compose["networks"]["database"] == {"internal": True}


def test_every_service_of_compose_says_how_it_is(compose: dict[str, Any]) -> None:
    assert {name for name, service in compose["services"].items() if "healthcheck" in service} == {
        *("head", "worker", "mlflow", "postgres")
    }


def test_secrets_are_made_once_and_are_ones_own(compose: dict[str, Any], tmp_path: Path) -> None:
    folder = tmp_path / "secrets"
    assert said(DOCKER / "secrets.sh", folder)[0] == 0
    made = {file.name: file.read_text() for file in folder.iterdir()}
    assert {Path(secret["file"]).name for secret in compose["secrets"].values()} <= made.keys()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    plain = [text for name, text in made.items() if name != "mlflow_credentials"]
    assert len(set(plain)) == len(plain) and all(re.fullmatch("[0-9a-f]{64}", text) for text in plain)
    assert made["mlflow_password"] in made["mlflow_credentials"]
    (folder / "mlflow_key").unlink()
    assert said(DOCKER / "secrets.sh", folder)[0] == 0
    again = {file.name: file.read_text() for file in folder.iterdir()}
    assert {name for name in made if again[name] != made[name]} == {"mlflow_key"}


def test_gits_rules_keep_secrets_out() -> None:
    code, _ = said("git", "-C", PROJECT, "check-ignore", DOCKER / "secrets/ray_token")
    assert code == 0


def test_mlflows_script_says_which_secret_is_missing(tmp_path: Path) -> None:
    done = subprocess.run(
        [DOCKER / "mlflow.sh"], env=os.environ | {"SECRETS": str(tmp_path)}, capture_output=True, text=True
    )
    assert done.returncode == 2 and f"{tmp_path}/postgres_password is missing or empty" in done.stderr
