"""How far an engine may be from the trainer's word on a checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.config.load import load_job
from orchestrator.rounds.evaluation import EXACT, ROUNDED, ProbeFailed, tolerance
from tests.support.stand_ins import StandInEngines, StandIns, make_project, run_job


@pytest.mark.parametrize(
    ("said", "dtype", "overrides", "most"),
    [
        ("float32", "own", ["train.precision=fp32"], EXACT),
        ("bfloat16", "own", ["train.precision=fp32"], ROUNDED),
        ("float32", "bfloat16", ["train.precision=fp32"], ROUNDED),
        ("bfloat16", "float32", ["train.precision=fp32"], EXACT),
        ("float32", "own", [], ROUNDED),
        ("float32", "own", ["train.precision=fp32", "generate.engine={dtype: half}"], ROUNDED),
        ("bfloat16", "own", ["train.precision=fp32", "generate.engine={dtype: float}"], EXACT),
        ("float32", "own", ["train.precision=fp32", "generate.engine={dtype: auto}"], EXACT),
        ("bfloat16", "own", ["evaluate.probe_tolerance=0.3"], 0.3),
    ],
)
def test_the_tolerance_fits_the_numbers_that_trainer_and_engine_compute_in(
    tmp_path: Path, said: str, dtype: str, overrides: list[str], most: float
) -> None:
    job = load_job(make_project(tmp_path), overrides).job
    (tmp_path / "seed/config.json").write_text(f'{{"dtype": "{said}"}}')
    assert tolerance(job, dtype, tmp_path / "seed") == most


class Rounding(StandIns):
    """Engines that are two hundredths of a nat a token from the trainer."""

    def engines(self, model: str, probe: Path | None = None) -> StandInEngines:
        engines = super().engines(model)
        engines.skill += 0.02
        return engines


def test_float32_is_held_to_more_than_16_bits(tmp_path: Path) -> None:
    job = make_project(tmp_path, rounds=1, generate={"dtype": "float32", "max_tokens": 8, "samples": 4})
    run_job(job, Rounding(), f"run_dir={tmp_path / 'bf16'}")
    with pytest.raises(ProbeFailed, match=r"by 0\.0200 nats .* \(evaluate\.probe_tolerance is 0\.005\)"):
        run_job(job, Rounding(), "train.precision=fp32")
