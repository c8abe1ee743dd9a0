"""What a round with an adapter starts from, and is compared with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from orchestrator.commands.verify.command import verify
from orchestrator.config import Lora
from orchestrator.config.load import load_job
from orchestrator.errors import BadInput
from orchestrator.records.adapters import FOLDER
from orchestrator.records.rows import ScoringPlan, TrainingPlan
from orchestrator.rounds.adapters import merge_said
from tests.support.stand_ins import StandIns, StandInTrainers, make_project, run_job


class Watching(StandIns):
    """Keeps the plans; a checkpoint has an adapter beside its weights."""

    def __init__(self) -> None:
        super().__init__()
        self.trained: list[TrainingPlan] = []
        self.scored: list[ScoringPlan] = []

    def trainers(self) -> StandInTrainers:
        return Adapting(self)

    def watch(self, plan: TrainingPlan) -> None:
        self.trained.append(plan)


class Adapting(StandInTrainers):
    workers: Watching

    def score(self, plan: ScoringPlan, out_file: str) -> dict[str, Any]:
        self.workers.scored.append(plan)
        return super().score(plan, out_file)

    def _export(self, plan: TrainingPlan, step: int) -> None:
        super()._export(plan, step)
        folder = Path(plan.checkpoint_dir, FOLDER)
        folder.mkdir()
        (folder / "adapter_model.safetensors").write_bytes(b"A and B")


def plans(folder: Path, *settings: str) -> Watching:
    workers, job = Watching(), make_project(folder, lora={"rank": 4})
    run_job(job, workers, *settings)
    done = workers.calls.copy()
    run_job(job, workers, *settings)
    assert workers.calls == done, "nothing is done again"
    return workers


def test_a_new_adapter_begins_on_the_merged_weights(tmp_path: Path) -> None:
    workers = plans(tmp_path)
    first, second = workers.trained
    checkpoint = tmp_path / "run/rounds/01/checkpoint"
    assert (first.init, second.init) == (str(tmp_path / "seed"), str(checkpoint))
    for plan, scored in zip(workers.trained, workers.scored, strict=True):
        assert plan.adapter is not None and plan.adapter.start is None and plan.adapter.lora.rank == 4
        assert plan.starts_at_reference and (scored.model, scored.adapter) == (plan.init, plan.adapter)
        assert plan.adapter.base.keys() == {path.name for path in Path(plan.init).iterdir() if path.is_file()}
    assert first.adapter and second.adapter and first.adapter.seed != second.adapter.seed
    report = verify(tmp_path / "run")
    assert report.followed and not report.findings


@pytest.mark.parametrize("reference", ["previous", "base"])
def test_the_adapter_goes_on_over_the_base(tmp_path: Path, reference: str) -> None:
    """And is compared with what the job says: never silently with the base model."""
    workers = plans(tmp_path, "lora.between_rounds=continue", f"reference={reference}")
    first, second = workers.trained
    assert first.adapter and first.adapter.start is None and first.starts_at_reference
    assert second.init == second.reference == first.init == str(tmp_path / "seed")
    assert second.adapter and second.adapter.start == str(tmp_path / "run/rounds/01/checkpoint" / FOLDER)
    assert second.adapter.base == first.adapter.base
    assert second.starts_at_reference == second.adapted == (reference == "previous")
    scored = workers.scored[-1]
    assert (scored.model, scored.policy, scored.adapted) == (second.init, second.init, second.adapted)
    assert scored.adapter == second.adapter, "the reference pass keeps its model for the training"


def test_what_makes_no_sense_is_refused(tmp_path: Path) -> None:
    job = make_project(tmp_path, lora={"rank": 4})
    with pytest.raises(BadInput, match=r"goes on with the reference's adapter.*set `lora\.between_rounds: merge`"):
        load_job(job, ["lora.between_rounds=continue", "init=base"])
    with pytest.raises(BadInput, match=r"`lora\.rank` is 9999, that of whole weights"):
        load_job(job, ["lora.rank=9999"])


def test_a_merge_that_loses_what_was_learnt_is_told() -> None:
    lora = Lora()
    assert merge_said(lora, 0.99) is merge_said(lora, None) is merge_said(None, 0.0) is None
    said = merge_said(lora, 0.02)
    assert said and "keep 2%" in said and "train.export_dtype: float32" in said
