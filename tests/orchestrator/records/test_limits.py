"""How long an engine may take to start: what its user says, else what its model's size asks for."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from orchestrator.config import Generate
from orchestrator.config.load import load_job
from orchestrator.driver.start_checks import limits_of
from orchestrator.records.limits import start_limit
from orchestrator.records.model_folder import INDEX
from tests.support.placements import ForEngines
from tests.support.stand_in_engine import STAND_IN
from tests.support.stand_ins import StandIns, make_project, run_job
from workers.generation.pool import GeneratorPool


def grown(folder: Path, gigabytes: float) -> Path:
    """A model's folder with so much more of weights, in a file with a hole that takes no room."""
    folder.mkdir(exist_ok=True)
    for number in range(2):
        (folder / f"more-{number}.safetensors").touch()
        os.truncate(folder / f"more-{number}.safetensors", int(gigabytes * 5e8))
    names = sorted(file.name for file in folder.glob("*.safetensors"))
    (folder / INDEX).write_text(json.dumps({"weight_map": {name: name for name in names}}))
    return folder


def test_a_limit_that_is_left_open_grows_with_the_model_and_one_that_is_set_holds(tmp_path: Path) -> None:
    small, large = grown(tmp_path / "small", 3), grown(tmp_path / "large", 140)
    assert start_limit(Generate(), small) == 1800
    assert start_limit(Generate(), large) == pytest.approx(2800)
    assert start_limit(Generate(start_timeout=60), large) == 60
    assert start_limit(Generate(start_timeout=6000), large) == 6000
    assert start_limit(Generate(), tmp_path / "none") == 1800


def test_what_a_model_makes_of_a_limit_is_told_before_a_run_starts(tmp_path: Path) -> None:
    large, job = grown(tmp_path / "large", 140), load_job(make_project(tmp_path)).job
    [line] = limits_of(job, large).lines()
    assert line == "limits    engines may take 2800 s to start, for a model of 140.0 GB (generate.start_timeout)"
    assert not list(limits_of(job, tmp_path / "seed").lines())


def test_a_limit_that_is_too_short_for_the_model_is_warned_of_at_every_start(tmp_path: Path) -> None:
    job = make_project(tmp_path)
    grown(tmp_path / "seed", 0.1)
    for _ in range(2):
        [line] = [line for line in run_job(job, StandIns(), "generate.start_timeout=1") if "start_timeout" in line]
        assert line.startswith("warning   generate.start_timeout: 1 s may be too short: a model of 0.1 GB takes 2 s")
    assert not any("start_timeout" in line for line in run_job(job, StandIns(), "generate.start_timeout=3"))


def test_engines_get_as_long_as_their_model_needs(tmp_path: Path) -> None:
    """Not the run's base model: a checkpoint may be stored in another number format."""
    pool = GeneratorPool(str(grown(tmp_path / "model", 140)), Generate(), 5, ForEngines(1), STAND_IN)
    assert pool.start_limit == pytest.approx(2800)
