"""Calls in a helper process of a private Ray."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from orchestrator import config
from orchestrator.config.load import load_job
from orchestrator.driver.cluster import Cluster
from orchestrator.driver.wiring import RealWorkers
from orchestrator.errors import BadInput, RatchetError
from orchestrator.records.rows import Problem, TokenizingPlan
from tests.support.made_tokenizers import growing, with_parts
from tests.support.real import in_own_process
from tests.support.stand_ins import make_project

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
        with pytest.raises(RatchetError, match="die: two processes were lost over it; the last one died"):
            cluster.call(die, 5)
        assert deaths.read_text() == "xx"
        with pytest.raises(BadInput, match="the prompts are no prompts"):
            cluster.call(refuse)
    print("all as expected")


def test_a_tokenizer_that_takes_its_process_down_is_named(tmp_path: Path) -> None:
    """One that the first look at the prompts, of which these are none, found sound."""
    assert in_own_process(tokenizing, tmp_path) == "all as expected"


def tokenizing(place: str) -> None:
    folder = Path(place)
    model = with_parts(folder / "model", normalizer=growing(4, "normalizers"))
    plan = TokenizingPlan(model, chat=False, system=None, max_model_len=None, max_tokens=8)
    said = rf"model: {model}: two processes were lost over it; the last one died\. Look at the model's chat template, "
    with RealWorkers(load_job(make_project(folder, model="model")).job, folder / "run/logs") as workers:
        assert workers.tokenize([Problem("1", "Two?", "2", None)], plan, str(folder / "sound.parquet"))["prompts"] == 1
        with pytest.raises(RatchetError, match=said + r"and at .* its tokenizer\.json, and whether .* memory\.$"):
            workers.tokenize([Problem("2", "q?", "2", None)], plan, str(folder / "lost.parquet"))
    print("all as expected")
