"""Models that cannot be trained are refused before a run starts; one that has begun goes on."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.cli import main
from orchestrator.config.load import load_job
from orchestrator.driver.kept import read_all_problems
from orchestrator.driver.start_checks import check_start, tried_models
from orchestrator.driver.trainable import request
from orchestrator.errors import BadInput
from orchestrator.ledger.run import Run
from orchestrator.models.named import NamedModel
from tests.support.stand_ins import StandIns, all_read, make_project, run_job


class Trainer:
    """Says the same of every model, and keeps what it was asked."""

    def __init__(self, refused: list[str], warned: list[str]) -> None:
        self.found, self.asked = {"refused": refused, "warned": warned}, list[Mapping[str, Any]]()

    def __call__(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        self.asked.append(request)
        return self.found


def kind_of(folder: Path, kind: str | None = "llama") -> Path:
    (folder / "config.json").write_text(json.dumps({"model_type": kind} if kind else {}))
    return folder


def start(job: Path, trainer: Trainer, reference: Path | None = None) -> list[str]:
    file, said = load_job(job, []), list[str]()
    run, problems = Run(job.parent / "run"), read_all_problems(load_job(job, []))
    model = job.parent / "seed"
    fixed = NamedModel(reference) if reference else None
    check_start(file, run, model, problems, [], said.append, all_read, None, trial=trainer, reference=fixed)
    return said


def test_a_new_run_is_refused_and_what_is_unknown_is_said(tmp_path: Path) -> None:
    job = make_project(tmp_path)
    kind_of(tmp_path / "seed")
    with pytest.raises(BadInput, match="model: /seed: bert: it is no causal language model; choose another"):
        start(job, Trainer(["model: /seed: bert: it is no causal language model; choose another"], []))
    assert "warning   model: could not be tried" in start(job, Trainer([], ["model: could not be tried"]))


def test_a_fixed_reference_is_asked_about_too_and_a_model_of_no_kind_is_not(tmp_path: Path) -> None:
    job, trainer = make_project(tmp_path), Trainer([], [])
    start(job, trainer)
    assert trainer.asked == []
    kind_of(tmp_path / "seed")
    (tmp_path / "other").mkdir()
    start(job, trainer, kind_of(tmp_path / "other"))
    assert trainer.asked[0]["models"] == {"model": str(tmp_path / "seed"), "reference": str(tmp_path / "other")}
    kind_of(tmp_path / "seed", None)
    start(job, trainer, kind_of(tmp_path / "other"))
    assert trainer.asked[1]["models"] == {"reference": str(tmp_path / "other")}


def test_a_run_that_has_begun_is_not_tried_again_and_validate_only_warns_of_it(tmp_path: Path) -> None:
    job, trainer = make_project(tmp_path), Trainer(["no"], [])
    kind_of(tmp_path / "seed")
    run = Run(tmp_path / "run")
    with pytest.raises(BadInput):
        tried_models(load_job(job, []), run, tmp_path / "seed", None, trainer).check()
    kind_of(tmp_path / "seed", None)
    run_job(job, StandIns())
    kind_of(tmp_path / "seed")
    asked = len(trainer.asked)
    start(job, trainer)
    assert len(trainer.asked) == asked
    seen = tried_models(load_job(job, []), Run(tmp_path / "run"), tmp_path / "seed", None, trainer)
    assert (seen.warnings, seen.refusals) == (["no"], [])


def test_the_lengths_asked_about_are_those_that_bound_a_pair(tmp_path: Path) -> None:
    job = make_project(tmp_path)
    models = {"model": tmp_path / "seed"}
    asked = request(load_job(job, ["train.max_tokens=100", "generate.max_model_len=600"]).job, models)
    assert asked["paths"] == {"train.max_tokens": 100, "generate.max_model_len": 600}
    assert asked["engine"] == {"key": "generate.max_model_len", "tokens": 600}
    own = request(load_job(job, ['generate.engine={"hf_overrides": {}}']).job, models)
    assert own["engine"] is None
    staged = {"name": "tiny", "method": "sdpo", "model": "seed", "stages": {"sources": ["rows.jsonl"]}}
    (tmp_path / "staged.yaml").write_text(yaml.safe_dump(staged))
    assert request(load_job(tmp_path / "staged.yaml", []).job, models)["paths"] == {"train.max_tokens": None}


@pytest.mark.full
@pytest.mark.parametrize("command", ["validate", "run"])
def test_a_command_refuses_a_model_that_trees_do_not_fit(
    tmp_path: Path, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the real trainer's process, in one line, before anything is made."""
    pytest.importorskip("torch")
    job = make_project(tmp_path)
    kind_of(tmp_path / "seed", "bert")
    header = json.dumps({"bert.x": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    (tmp_path / "seed/model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + b"\0" * 4)
    with pytest.raises(SystemExit) as left:
        main([command, str(job), "grade.graders=[exact]", "tracking.enabled=false"])
    said = capsys.readouterr().err
    assert left.value.code == 2, said
    assert f"model: {tmp_path / 'seed'}: bert: its tokens attend to those that come after them" in said
    assert "choose one that is" in said and "Traceback" not in said
    assert not (tmp_path / "run").exists()
