"""Calls in a helper process of a private Ray."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from orchestrator import config
from orchestrator.driver.cluster import Cluster
from orchestrator.errors import BadInput, RatchetError
from tests.support.real import in_own_process

pytestmark = [pytest.mark.real, pytest.mark.full]


def test_a_call_survives_the_death_of_its_process_once(tmp_path: Path) -> None:
    assert in_own_process(calls, tmp_path) == "all as expected"


def calls(folder: str) -> None:
    deaths = Path(folder) / "deaths"

    def die(times: int) -> str:
        with open(deaths, "a") as file:
            file.write("x")
        if len(deaths.read_text()) <= times:
            os._exit(1)
        return "done"

    def refuse() -> None:
        raise BadInput("the prompts are no prompts")

    with Cluster(config.Cluster(), Path(folder) / "logs") as cluster:
        assert cluster.call(die, 1) == "done"
        assert deaths.read_text() == "xx"
        deaths.unlink()
        with pytest.raises(RatchetError, match="die: two processes in a row were lost over it; the last one died"):
            cluster.call(die, 5)
        assert deaths.read_text() == "xx"
        with pytest.raises(BadInput, match="the prompts are no prompts"):
            cluster.call(refuse)
    print("all as expected")
