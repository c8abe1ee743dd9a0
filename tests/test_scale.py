"""The simulated clusters of benchmarks/scale: the real driver runs on them, and their numbers add up."""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.scale import __main__ as scale
from benchmarks.scale.driver import as_json, case_of, figures, run
from benchmarks.scale.files import make_project
from benchmarks.scale.model import CASES, M8, Case, Costs, Model
from benchmarks.scale.simulation import Simulation
from orchestrator.commands.verify.command import verify
from orchestrator.ledger.ledger import Ledger

FOREVER = 1e30
FREE = Costs(
    **dict.fromkeys(("process", "engine", "connect", "connect_each", "ending", "tokenise", "grade"), 0.0),
    **dict.fromkeys(("read", "write", "storage", "hash"), FOREVER),
    **dict.fromkeys(("ray_call", "ray_wait", "ray_wait_each"), 0.0),
)
SLOW = Model("slow", 8e9, engine_gpus=1, full_batch=1, full_rate=1.0, alone_step=0.5)
"""An engine of it gives a token a second, with one sequence as with any other number."""
TINY = Case("tiny", SLOW, nodes=2, rounds=1, prompts=32, samples=4, held_out=16, mean_tokens=200.0, sigma=0.0)
TINY = replace(TINY, max_tokens=300, shard_prompts=1, pairs=2, batch_pairs=8, costs=FREE, rate_factor=0.0)


def simulated(case: Case, folder: Path, seed: int = 1) -> dict[str, Any]:
    """A case, driven in this process."""
    make_project(case, folder)
    simulation = Simulation(case)
    run(simulation, folder, seed)
    found = figures(simulation, 0.0, folder / "run")
    return scale.figures(case, found["now"], Counter(found["gpu_seconds"]), [found])


def test_nearly_all_time_is_useful_where_nothing_fails_or_takes_time_to_start(tmp_path: Path) -> None:
    found = simulated(TINY, tmp_path)
    assert found["counted"] == pytest.approx(1.0) and found["failures"] == {"nodes": 0, "processes": 0, "hangs": 0}
    assert found["goodput"] > 0.98
    # 32 problems of gate and test for base model and candidate, and 32 prompts four times: 12 sequences an engine.
    assert found["hours"] * 3600 > 12 * 200
    assert not verify(tmp_path / "run").findings


def test_what_fails_costs_time_and_the_run_ends_all_the_same(tmp_path: Path) -> None:
    case = replace(TINY, costs=Costs(), prompts=64, rate_factor=6000.0)
    found = simulated(case, tmp_path, seed=4)
    assert found["counted"] == pytest.approx(1.0)
    assert found["failures"]["nodes"] and found["failures"]["processes"]
    assert found["parts"]["work that was lost"] > 0 and found["parts"]["nodes that are missing"] > 0
    assert found["goodput"] < 0.9
    state = Ledger(tmp_path / "run/ledger").state
    assert state.finished
    samples = state.commits["rounds/01/samples"].facts
    assert samples["samples"] == 64 * 4 and samples["engines_lost"]
    assert not verify(tmp_path / "run").findings


def test_a_case_survives_being_written_down() -> None:
    for case in CASES.values():
        assert case_of(json.loads(json.dumps(as_json(case)))) == case


def test_the_cost_model_gives_what_it_is_made_from() -> None:
    for case in CASES.values():
        model = case.model
        assert model.full_batch * model.sequence_rate(model.full_batch) == pytest.approx(model.full_rate)
        assert model.sequence_rate(1) > model.sequence_rate(model.full_batch)
    assert M8.sequence_rate(1) == pytest.approx(1 / (M8.alone_step + M8.step_each))
    thousand = CASES["1000"]
    assert thousand.gpus == 1000 and thousand.engines == 250
    assert thousand.mean_time_between_failures / 3600 == pytest.approx(24 / (125 * 6.5e-3))
    assert math.isinf(TINY.mean_time_between_failures)
