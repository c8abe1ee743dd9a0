"""Two IRPO rounds on the real stack (Ray, vLLM, DeepSpeed, MLflow), killed in the middle of phases and resumed.

One run serves all tests: starting the stack is what costs.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import mlflow
import pyarrow.parquet as pq
import pytest

from orchestrator.ledger.record_files import Record
from orchestrator.records.rows import EVALUATION, PROMPTS, SAMPLES, VERDICTS, pairs_schema
from tests.support.real import (
    PROJECT,
    abroad,
    all_gone,
    committed,
    end,
    finish,
    has_shard,
    listening,
    log_of,
    records,
    start,
    wait_for,
)

pytestmark = pytest.mark.real

SMALL = (
    "rounds=2",
    "data.prompts_per_round=96",
    "data.gate.limit=64",
    "data.test.limit=64",
    "generate.shard_prompts=16",
    "train.save_every=1",
)
FIRST, THEN = ("train.ranks=2", "train.zero=3"), ("train.ranks=1", "train.zero=2")
"""How trainings are executed, until one of them was killed, and from there on."""


def has_state(folder: Path) -> Callable[[Sequence[Record]], bool]:
    return lambda _: any(folder.glob("rounds/01/.train-state-of-*/0*/manifest.json"))


Moment = Callable[[Sequence[Record]], bool] | None
TRAINING = "while training"
KILLED: dict[str, Moment] = {TRAINING: None}  # once a state is saved
KILLED_ANYWHERE: dict[str, Moment] = {
    "while the base model is evaluated": committed("baseline/prompts"),
    "while sampling and grading": has_shard("rounds/01/samples"),
    "while the reference pass starts": committed("rounds/01/pairs"),
    TRAINING: None,
    "while the candidate is evaluated": committed("rounds/01/train"),
}


@pytest.fixture(scope="module", params=["once", pytest.param("anywhere", marks=pytest.mark.full)])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two rounds whose driver was interrupted (as its first engine started, or while it sampled in round 2),
    killed in phases of round 1, and resumed."""
    folder = tmp_path_factory.mktemp("real") / "irpo"
    moments = KILLED if request.param == "once" else KILLED_ANYWHERE
    executed = FIRST
    if request.param == "once":
        interrupt(start(folder, *SMALL, *executed), folder, committed("baseline/prompts"))
    for name, moment in moments.items():
        process = start(folder, *SMALL, *executed)
        wait_for(process, folder, moment or has_state(folder))
        os.kill(process.pid, signal.SIGSTOP)  # on a busy machine it could end the training while it is looked at
        before = records(folder)
        assert not abroad(listening(process))
        end(process)
        assert records(folder)[: len(before)] == before
        assert status(folder)["state"] == "interrupted"
        executed = THEN if name == TRAINING else executed
    process = start(folder, *SMALL, *executed)
    wait_for(process, folder, has_shard("rounds/02/samples"))
    assert status(folder)["state"] == "running"
    if request.param == "anywhere":
        interrupt(process, folder, has_shard("rounds/02/samples"))
        process = start(folder, *SMALL, *executed)
    assert finish(process, folder) == 0, log_of(folder)
    all_gone()
    return folder


def interrupt(process: subprocess.Popen[str], folder: Path, moment: Callable[[Sequence[Record]], bool]) -> None:
    wait_for(process, folder, moment)
    assert not abroad(listening(process))
    os.kill(process.pid, signal.SIGTERM)
    assert finish(process, folder) == 130, log_of(folder)
    assert status(folder)["state"] == "interrupted"


def ratchet(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "orchestrator", *map(str, arguments)]
    return subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)


def status(folder: Path) -> dict[str, Any]:
    done = ratchet("status", folder, "--json")
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def rows(path: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    return found


def test_it_finishes_with_both_rounds_decided(run: Path) -> None:
    found = status(run)
    assert found["state"] == "finished"
    assert [r["round"] for r in found["rounds"]] == [1, 2]
    assert all(r["promoted"] for r in found["rounds"])
    assert found["reference"] == str(run / "rounds/02/checkpoint")
    assert 0.2 <= found["baseline"] <= 0.6
    assert found["rounds"][-1]["accuracy"] > found["baseline"]
    for round_ in found["rounds"]:
        assert round_["correct"] + round_["wrong"] + round_["ungradable"] == round_["samples"] == 96 * 8
        assert round_["pairs"] > 0
        assert set(round_["seconds"]) >= {"samples", "verdicts", "pairs", "train", "evaluation"}


def test_it_told_what_it_did(run: Path) -> None:
    told = log_of(run)
    for said in (
        "start      ray ",
        "start      engines     vLLM loads base",
        "start      ranks ",
        "baseline  =evaluation ",
    ):
        assert f" {said}" in told, told
    progress = json.loads((run / "progress.json").read_text())
    assert progress["state"] == "finished" and [line["number"] for line in progress["finished"]] == [0, 1, 2]


def test_the_training_went_on_from_its_state_with_other_ranks_and_another_stage(run: Path) -> None:
    [facts] = [r.data["facts"] for r in records(run) if r.kind == "commit" and r.data["step"] == "rounds/01/train"]
    assert 0 < facts["resumed_from"] < facts["steps"]
    assert (facts["executed"]["train.ranks"], facts["executed"]["train.zero"]) == (1, 2)


def test_nothing_was_done_twice_or_lost(run: Path) -> None:
    done = Counter((r.kind, r.data["step"], r.data.get("index")) for r in records(run) if r.kind in ("commit", "shard"))
    assert set(done.values()) == {1}
    for number in ("01", "02"):
        keys = [(r["prompt_id"], r["sample_index"]) for r in rows(run / f"rounds/{number}/samples")]
        assert len(keys) == len(set(keys)) == 96 * 8
        assert keys == [(r["prompt_id"], r["sample_index"]) for r in rows(run / f"rounds/{number}/verdicts")]
    assert not [p for p in (run / "rounds").rglob(".*") if p.name.rpartition("-e")[2].isdigit()]


def test_tables_have_their_schemas(run: Path) -> None:
    schemas = {"prompts": PROMPTS, "samples": SAMPLES, "verdicts": VERDICTS, "pairs": pairs_schema(False)}
    for number in ("01", "02"):
        for name, schema in (schemas | {"evaluation": EVALUATION}).items():
            assert pq.read_table(run / "rounds" / number / name).schema.equals(schema), name


def test_ids_are_what_the_engine_produced_all_the_way(run: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(run / "rounds/01/checkpoint")
    for number in ("01", "02"):
        folder = run / "rounds" / number
        prompts = {r["prompt_id"]: r for r in rows(folder / "prompts")}
        samples = {(r["prompt_id"], r["sample_index"]): r for r in rows(folder / "samples")}
        for prompt in prompts.values():
            assert tokenizer(prompt["text"])["input_ids"] == prompt["token_ids"]
        for sample in samples.values():
            ended = sample["token_ids"][-1] == tokenizer.eos_token_id
            assert ended == (sample["finish_reason"] == "stop")
            assert tokenizer.eos_token_id not in sample["token_ids"][:-1]
            assert len(sample["token_ids"]) == sample["num_tokens"]
            assert tokenizer.decode(sample["token_ids"], skip_special_tokens=True) == sample["text"]
        for pair in rows(folder / "pairs"):
            assert pair["prompt_token_ids"] == prompts[pair["prompt_id"]]["token_ids"]
            for side in ("chosen", "rejected"):
                key = (pair["prompt_id"], pair[f"{side}_sample"])
                assert pair[f"{side}_token_ids"] == samples[key]["token_ids"]


def test_verdicts_are_right(run: Path) -> None:
    golds = {r["prompt_id"]: int(r["gold"]) for r in rows(run / "rounds/01/prompts")}
    texts = {(r["prompt_id"], r["sample_index"]): r for r in rows(run / "rounds/01/samples")}
    for verdict in rows(run / "rounds/01/verdicts"):
        sample = texts[verdict["prompt_id"], verdict["sample_index"]]
        answer = sample["text"].rpartition("Final answer:")[2].strip()
        if sample["finish_reason"] == "length":
            assert verdict["verdict"] == "ungradable"
        elif answer.isdigit():
            right = int(answer) == golds[verdict["prompt_id"]]
            assert verdict["verdict"] == ("correct" if right else "wrong")
        else:  # there is no answer, or none that is read as a number: "After splits5"
            assert verdict["verdict"] != "correct"
            assert verdict["cause"] == ("unreadable" if verdict["verdict"] == "ungradable" else None)


def test_the_checkpoint_loads_and_differs_from_its_reference(run: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(PROJECT / "jobs/demo/base")
    first, second = (AutoModelForCausalLM.from_pretrained(run / f"rounds/{n}/checkpoint") for n in ("01", "02"))
    for earlier, later in ((base, first), (first, second)):
        before, after = earlier.state_dict(), later.state_dict()
        assert before.keys() == after.keys()
        assert any(not torch.equal(before[name], after[name]) for name in before)
    assert second.get_output_embeddings().weight is second.get_input_embeddings().weight


def test_training_started_at_the_reference_and_agreed_with_the_engine(run: Path) -> None:
    for number in ("01", "02"):
        metrics = rows(run / f"rounds/{number}/train/metrics.parquet")
        assert metrics[0]["dpo_loss"] == pytest.approx(0.6931, abs=1e-3)
        assert metrics[-1]["loss"] < metrics[0]["loss"]
        [facts] = [r.data["facts"] for r in records(run) if r.data.get("step") == f"rounds/{number}/evaluation"]
        assert facts["probe"]["mean_difference"] < 0.01
        assert facts["probe"]["completions"] > 0


def test_the_exported_folder_gives_the_trainer_s_logprobs_in_transformers(run: Path) -> None:
    """In vLLM too: that is the probe of the test above. The trainer had the weights in shards (ZeRO 3, two ranks)."""
    import torch
    from transformers import AutoModelForCausalLM

    for number in ("01", "02"):
        model = AutoModelForCausalLM.from_pretrained(run / f"rounds/{number}/checkpoint", dtype=torch.float32)
        difference = num_tokens = 0.0
        for row in rows(run / f"rounds/{number}/train/probe.parquet"):
            prompt, completion = row["prompt_token_ids"], row["completion_token_ids"]
            ids = torch.tensor([prompt + completion])
            with torch.no_grad():
                logprobs = model(ids).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
            difference += abs(float(logprobs.gather(1, ids[0, len(prompt) :, None]).sum()) - row["logprob"])
            num_tokens += len(completion)
        assert difference / num_tokens < 0.01  # the trainer computes in bfloat16


def test_trl_reads_the_pairs(run: Path, tmp_path: Path) -> None:
    from datasets import load_dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import DPOConfig, DPOTrainer

    pairs = load_dataset("parquet", data_files=str(run / "rounds/01/pairs/*.parquet"), cache_dir=str(tmp_path))["train"]
    checkpoint = PROJECT / "jobs/demo/base"
    settings = DPOConfig(output_dir=str(tmp_path / "trl"), max_steps=1, use_cpu=True, report_to=[], bf16=False)
    trainer = DPOTrainer(
        AutoModelForCausalLM.from_pretrained(checkpoint),
        args=settings,
        train_dataset=pairs,
        processing_class=AutoTokenizer.from_pretrained(checkpoint),
    )
    assert trainer.train().training_loss == pytest.approx(0.6931, abs=0.01)


def test_mlflow_has_the_job_and_its_rounds(run: Path) -> None:
    client = mlflow.MlflowClient(f"sqlite:///{run.parent / 'mlflow.db'}")
    [experiment] = [e for e in client.search_experiments() if e.name != "Default"]
    runs = client.search_runs([experiment.experiment_id])
    assert len(runs) == 3  # the job and two rounds, however often the driver was started
    assert {r.info.status for r in runs} == {"FINISHED"}
    [parent] = [r for r in runs if "mlflow.parentRunId" not in r.data.tags]
    assert parent.data.params["train.learning_rate"] == "3e-05"
    steps = [r.data["facts"]["steps"] for r in records(run) if r.kind == "commit" and r.data["step"].endswith("/train")]
    for number, child in enumerate(sorted((r for r in runs if r is not parent), key=lambda r: r.info.run_name)):
        assert len(client.get_metric_history(child.info.run_id, "learning/loss")) == steps[number]
    assert len(client.get_metric_history(parent.info.run_id, "learning/loss")) == sum(steps)
    last = client.get_metric_history(parent.info.run_id, "accuracy/test")
    assert [m.value for m in sorted(last, key=lambda m: m.step)][1:] == [r["accuracy"] for r in status(run)["rounds"]]


def test_a_finished_run_needs_nothing_to_say_so(run: Path) -> None:
    before = records(run)
    done = ratchet("run", "jobs/irpo.yaml", f"run_dir={run}", *SMALL, *THEN)
    assert done.returncode == 0, done.stderr
    assert [r for r in records(run)[len(before) :] if r.kind not in ("claim", "end")] == []


def test_other_settings_are_refused(run: Path) -> None:
    done = ratchet("run", "jobs/irpo.yaml", f"run_dir={run}", *SMALL, "loss.beta=0.5")
    assert done.returncode == 2
    assert "loss.beta: 0.1 in the run, 0.5 now" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.full
def test_the_best_checkpoint_is_chosen_and_trained_again_with_the_gate(tmp_path: Path) -> None:
    folder = tmp_path / "irpo"
    job = ("rounds=1", "data.prompts_per_round=64", "data.gate.limit=64", "data.test.limit=64", "train.batch_pairs=16")
    choice = ("train.eval_every=4", "train.select=best", "train.retrain=true", "promotion.rule=always")
    assert finish(start(folder, *job, *choice), folder) == 0, log_of(folder)
    facts = {r.data["step"]: r.data["facts"] for r in records(folder) if r.kind == "commit"}
    accuracies = json.loads((folder / "rounds/01/choice/accuracies.json").read_text())
    chosen = facts["rounds/01/choice"]["steps"]
    assert accuracies[f"{chosen:06d}"] == max(accuracies.values()) and len(accuracies) > 1
    assert facts["rounds/01/retrain"]["steps"] == chosen <= facts["rounds/01/train"]["steps"]
    pairs = [facts[f"rounds/01/{step}"]["pairs"] for step in ("pairs", "held_out/pairs")]
    assert min(pairs) > 0 and facts["rounds/01/retrain"]["pairs"] == sum(pairs)
    assert facts["rounds/01/evaluation"]["probe"]["mean_difference"] < 0.01
    assert not (folder / "rounds/01/candidates").exists()
    told = [facts[f"rounds/01/selection/{name}"]["executed"].get("weights", "") for name in sorted(accuracies)]
    assert told[0] == "" and told[1].startswith("anew, the same as in place, slope ")
    assert len(told) > 2 and all(how.startswith("in place, slope ") for how in told[2:]), told
    all_gone()


@pytest.mark.full
def test_roles_with_devices_of_their_own_and_candidates_loaded_in_place(tmp_path: Path) -> None:
    """Engines serve the reference while the ranks train; each candidate is loaded into them afterwards."""
    folder = tmp_path / "irpo"
    job = ("rounds=3", "data.prompts_per_round=64", "data.gate.limit=64", "data.test.limit=64", "promotion.rule=always")
    apart = ("cluster.placement=split", "cluster.cpus_per_engine=1", "train.ranks=1", "cluster.cpus_per_rank=1")
    assert finish(start(folder, *job, *apart), folder) == 0, log_of(folder)
    facts = {r.data["step"]: r.data["facts"] for r in records(folder) if r.kind == "commit"}
    told = [facts[f"rounds/0{number}/evaluation"]["executed"]["weights"] for number in (1, 2, 3)]
    assert told[0].startswith("anew, the same as in place, slope "), told
    assert all(how.startswith("in place, slope ") for how in told[1:]), told
    assert all(facts[f"rounds/0{n}/evaluation"]["probe"]["mean_difference"] < 0.001 for n in (1, 2, 3))
    text = log_of(folder)
    assert text.count("vLLM loads base") == 1 and text.count("weights   are loaded in place from now on") == 1, text
    all_gone()
