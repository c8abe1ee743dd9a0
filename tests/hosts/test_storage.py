"""`ratchet doctor` on a folder that three hosts share, with real Ray; and on one that a host has for itself."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.hosts import Network, hosts_or_skip

pytestmark = [pytest.mark.hosts, pytest.mark.full]


@pytest.fixture
def three(tmp_path: Path) -> Iterator[Network]:
    with hosts_or_skip(tmp_path, "head", "one", "two") as made:
        made.start_ray(1, "--no-monitor")
        yield made


def shared_path(hosts: Network, run: Path) -> dict[str, Any]:
    options = [f"cluster.address={hosts.ray_address}", f"run_dir={run}", "tracking.enabled=false"]
    command = [sys.executable, "-m", "orchestrator", "doctor", *options, "--json"]
    checks = json.loads(hosts.head.run(*command, cwd=Path(__file__).parents[2], check=False))["checks"]
    found: dict[str, Any] = next(check for check in checks if check["name"] == "shared path")
    return found


def test_each_sees_what_each_other_writes(three: Network, tmp_path: Path) -> None:
    found = shared_path(three, tmp_path / "runs/x")
    assert found["level"] == "pass" and "each sees what another writes at once" in found["text"], found
    pairs = {(one["writer"], one["reader"]) for one in found["facts"]["seen_after_seconds"]}
    assert len(pairs) == 4 * 3, "the driver, and a node on each host"
    assert found["facts"]["milliseconds"].keys() == {name for pair in pairs for name in pair}
    assert list((tmp_path / "runs").iterdir()) == [], "nothing is left"


def test_a_folder_that_each_has_for_itself_fails(three: Network) -> None:
    found = shared_path(three, Path("/tmp/runs/x"))
    assert found["level"] == "FAIL" and "is not the folder that the driver sees" in found["text"], found
