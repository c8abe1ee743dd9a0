"""What is said of engines and ranks before a run starts, and what a run of an earlier version keeps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from orchestrator.config.load import load_job
from orchestrator.driver.fit_told import fit_lines
from orchestrator.driver.fitting import Gpus
from orchestrator.driver.same_job import as_begun
from orchestrator.errors import BadInput
from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.run import Run
from orchestrator.models.named import NamedModel
from tests.recorded_runs.record import extract, unpack
from tests.support.stand_ins import StandIns, make_project, run_job

GIB = 2**30
LARGE: dict[str, Any] = {
    **{"hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8},
    **{"intermediate_size": 14336, "vocab_size": 32000, "max_position_embeddings": 32768},
}


def lines(tmp_path: Path, gpus: Gpus, *overrides: str) -> list[str]:
    model = tmp_path / "large"
    model.mkdir(exist_ok=True)
    (model / "config.json").write_text(json.dumps(LARGE))
    file = load_job(make_project(tmp_path), overrides)
    return list(fit_lines(file, Run(tmp_path / "none"), NamedModel(model), lambda: gpus))


def test_what_engines_and_ranks_come_to_here_is_told_with_the_reason(tmp_path: Path) -> None:
    first, *why = lines(tmp_path, Gpus(8, 80 * GIB))
    said = "generate.engines 8, generate.tensor_parallel 1, train.ranks 8, train.zero 2"
    size = "train.tokens_per_microbatch 4096, train.activation_checkpointing false on this machine, with 8 GPU"
    assert first == f"generate.dtype own, {said}, {size}" and len(why) == 6
    assert "train.zero is 2: a rank takes about" in why[3] and "train.activation_checkpointing is false: a" in why[5]
    assert lines(tmp_path, Gpus(8, 80 * GIB), "cluster.accelerators=none")[0].endswith("with no GPU")
    sizes = ["train.tokens_per_microbatch=64", "train.activation_checkpointing=true"]
    [here] = lines(tmp_path, Gpus(0), "train.ranks=2", "train.zero=1", *sizes)
    assert here == "generate.dtype own, generate.engines 1, generate.tensor_parallel 1 on this machine, with no GPU"
    everything = ["train.ranks=2", "train.zero=1", "generate.engines=1", "generate.tensor_parallel=1", *sizes]
    assert lines(tmp_path, Gpus(8), *everything) == ["generate.dtype own on this machine, with 8 GPU"]
    everything.append("generate.dtype=bfloat16")
    assert lines(tmp_path, Gpus(8), *everything) == []


def test_of_another_cluster_only_what_is_left_to_it_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    [line] = lines(tmp_path, Gpus(8, 80 * GIB), "train.zero=3", "generate.engines=4")
    assert line.startswith(
        "generate.dtype, generate.tensor_parallel, train.ranks, train.tokens_per_microbatch, "
        "train.activation_checkpointing are left to the cluster at 10.0.0.1:6379"
    )


def test_what_is_spared_for_want_of_the_hosts_memory_is_told(tmp_path: Path) -> None:
    here, *why = lines(tmp_path, Gpus(0, host=512 * GIB))
    assert (
        here.endswith("microbatch 4096, train.activation_checkpointing false on this machine, with no GPU") and not why
    )
    here, *why = lines(tmp_path, Gpus(8, 80 * GIB, 250 * GIB), "cluster.accelerators=none")
    assert here.endswith("microbatch 2048, train.activation_checkpointing false on this machine, with no GPU")
    assert (
        why[0].startswith("train.tokens_per_microbatch is 2048: a rank takes about ") and "GiB of the memory" in why[0]
    )
    with pytest.raises(BadInput, match=r"^train\.tokens_per_microbatch: .* of the 100\.0 GiB that are free"):
        lines(tmp_path, Gpus(0, host=100 * GIB))


def test_what_does_not_fit_here_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"train\.zero: the training does not fit"):
        lines(tmp_path, Gpus(1, 40 * GIB))


@pytest.mark.parametrize("version", ["0.1.0", "recipe-2"])
def test_a_run_of_a_version_that_left_nothing_to_the_machine_goes_on_as_it_began(tmp_path: Path, version: str) -> None:
    kind = {"0.1.0": "sample", "recipe-2": "executing"}[version]
    job, _ = unpack(extract(version, tmp_path / "recorded") / kind, "train", tmp_path / "project")
    run = Run(job.parent / "run")
    recorded, left = Ledger(run.root / "ledger").state.configs[-1]["job"], load_job(job).job
    begun = {"ranks": 1, "zero": 1, "tokens_per_microbatch": 4096, "activation_checkpointing": False}
    left = left.model_copy(update={"train": left.train.model_copy(update=dict.fromkeys(begun))})
    kept = as_begun(run, left)
    for key, usual in begun.items():
        was = recorded["train"][key]
        assert getattr(kept.train, key) == (was if was == usual else None)
    assert as_begun(Run(tmp_path / "new"), left) == left


def test_a_run_that_left_them_to_the_machine_does_so_still(tmp_path: Path) -> None:
    job = make_project(tmp_path, rounds=1)
    run_job(job, StandIns())
    assert as_begun(Run(tmp_path / "run"), load_job(job).job).train.ranks is None
