"""The reward models that a job names: found, checked, and kept by the run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from orchestrator.commands.fork.command import fork
from orchestrator.commands.validate import check, told
from orchestrator.commands.verify.command import verify
from orchestrator.config.load import load_job
from orchestrator.config.places import run_folder
from orchestrator.driver.kept import reward_models_of
from orchestrator.errors import BadInput, Damaged
from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.run import Run
from tests.orchestrator.rounds.test_rewards import project
from tests.orchestrator.test_loop import StopAt
from tests.support.stand_ins import StandIns, make_reward_model, run_job

CLASSIFIER: dict[str, Any] = {"model_type": "llama", "architectures": ["LlamaForSequenceClassification"]}


@pytest.mark.parametrize(
    ("config", "told_"),
    [
        ({"model_type": "llama", "architectures": ["LlamaForCausalLM"]}, "is LlamaForCausalLM, which gives no reward"),
        ({"model_type": "llama"}, "is a llama without `architectures`, which gives no reward"),
        (CLASSIFIER, "has 2 outputs, and is to be a sequence classifier with one output (num_labels: 1)"),
        (CLASSIFIER | {"id2label": {"0": "a", "1": "b", "2": "c"}}, "has 3 outputs"),
    ],
)
def test_what_gives_no_reward_is_refused_before_anything_starts(
    tmp_path: Path, config: dict[str, Any], told_: str
) -> None:
    job = project(tmp_path)
    (tmp_path / "reward/config.json").write_text(json.dumps(config))
    with pytest.raises(BadInput) as refused:
        run_job(job, StandIns())
    assert str(refused.value).startswith(f"{job}: reward.models.0.model: ") and told_ in str(refused.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("said", [{"id2label": {"0": "LABEL_0"}}, {"num_labels": 1}])
def test_a_classifier_with_one_output_is_taken(tmp_path: Path, said: dict[str, Any]) -> None:
    file = load_job(project(tmp_path))
    bert = {"model_type": "bert", "architectures": ["BertForSequenceClassification"]}
    (tmp_path / "reward/config.json").write_text(json.dumps(bert | said))
    (tmp_path / "reward/model.safetensors").write_bytes(_safetensors())
    [model] = reward_models_of(file, Run(run_folder(file.job))).values()
    assert model.folder == tmp_path / "reward"


def _safetensors() -> bytes:
    header = json.dumps({"score.weight": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    return len(header).to_bytes(8, "little") + header + bytes(4)


def test_a_model_that_is_not_there_or_cannot_read_is_refused(tmp_path: Path) -> None:
    job = project(tmp_path)
    (tmp_path / "reward/tokenizer.json").unlink()
    with pytest.raises(BadInput, match=r"reward\.models\.0\.model: .*/reward has no tokenizer"):
        run_job(job, StandIns())
    with pytest.raises(BadInput, match=r"reward\.models\.1\.model: 'none' does not exist"):
        make_reward_model(tmp_path / "reward")
        run_job(job, StandIns(), "reward.models=[{model: reward}, {model: none}]")


def test_validate_tells_the_models_and_which_problems_lack_a_gold_answer(tmp_path: Path) -> None:
    job = project(tmp_path, golds=False)
    lines = list(told(check(load_job(job)), job, seen=[], settings=[]))
    assert f"reward    {tmp_path / 'reward'}" in lines
    assert any(line.startswith("golds     data.train: 20 of 20 problems have no gold answer") for line in lines)


def test_a_fork_takes_the_models_that_it_names_again_and_finds_the_others(tmp_path: Path) -> None:
    run_job(project(tmp_path, {"model": "reward"}, {"model": "style"}), StandIns())
    make_reward_model(tmp_path / "other")
    fork(tmp_path / "run", tmp_path / "child", [f"reward.models=[{{model: reward}}, {{model: {tmp_path}/other}}]"])
    workers = StandIns()
    run_job(tmp_path / "child/job.yaml", workers)
    state = Ledger(tmp_path / "child/ledger").state
    assert {"baseline/reward/1", "baseline/reward/2"} <= state.commits.keys()
    assert workers.calls["reward"] == 0, "another folder with the same files is the same model"
    assert verify(tmp_path / "child").findings == []


def test_a_kept_model_that_was_changed_is_not_asked(tmp_path: Path) -> None:
    job = project(tmp_path)
    with pytest.raises(RuntimeError):
        run_job(job, StandIns(on_call=StopAt(15, RuntimeError("a bug"))))
    kept = tmp_path / "run/baseline/reward/1/model.safetensors"
    kept.unlink()
    kept.write_text('{"skill": 2.0}')
    with pytest.raises(Damaged, match=r"reward/1"):
        run_job(job, StandIns())
    assert any("baseline/reward/1/model.safetensors" in line for line in verify(tmp_path / "run").findings)
