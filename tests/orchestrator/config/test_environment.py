"""Variables of the workers' environment: what a job may give by value, and what by name alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.config import Cluster
from orchestrator.config.load import load_job
from orchestrator.driver.secrets import ALLOWED, secrets_of
from orchestrator.driver.wiring import RealWorkers
from orchestrator.errors import BadInput
from tests.support.stand_ins import make_project
from workers.generation.vllm import VLLM


def test_values_are_texts_as_an_environment_has_them(tmp_path: Path) -> None:
    override = "cluster.env={NCCL_IB_TIMEOUT: 22, NCCL_DEBUG: INFO, HF_HOME: /data/hf, TOKENIZERS_PARALLELISM: 'false'}"
    env = load_job(make_project(tmp_path), [override]).job.cluster.env
    assert env == {
        "NCCL_IB_TIMEOUT": "22", "NCCL_DEBUG": "INFO", "HF_HOME": "/data/hf", "TOKENIZERS_PARALLELISM": "false"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("{HF_TOKEN: abc}", "name the variable in `cluster.secrets`"),
        ("{AWS_SECRET_ACCESS_KEY: abc}", "name the variable in `cluster.secrets`"),
        ("{AWS_ACCESS_KEY_ID: abc}", "name the variable in `cluster.secrets`"),
        ("{DB_PASSWORD: abc}", "name the variable in `cluster.secrets`"),
        ("{GOOGLE_APPLICATION_CREDENTIALS: /x}", "name the variable in `cluster.secrets`"),
        ("{HTTPS_PROXY: 'http://me:hunter2@proxy'}", "name the variable in `cluster.secrets`"),
        ("{OMP_NUM_THREADS: 4}", "cluster.cpus_per_engine"),
        ("{CUDA_VISIBLE_DEVICES: '0'}", "Ray gives each worker its devices"),
        ("{RAY_ADDRESS: x}", "where Ray is started"),
        ("{RATCHET_RENDEZVOUS: x}", "Ratchet's own"),
        ("{VLLM_ENABLE_V1_MULTIPROCESSING: 1}", "lives in the process"),
        ("{MASTER_ADDR: x}", "cluster.interface"),
        ("{VLLM_USE_DEEP_GEMM: yes}", "put it in quotes"),
        ("{NCCL_DEBUG: null}", "put it in quotes"),
        ("{'A=B': x}", "no name of an environment variable"),
    ],
)
def test_what_cannot_be_set_is_refused_with_its_cure(tmp_path: Path, given: str, said: str) -> None:
    with pytest.raises(BadInput) as refused:
        load_job(make_project(tmp_path), [f"cluster.env={given}"])
    assert said in str(refused.value) and "cluster.env" in str(refused.value)
    assert "hunter2" not in str(refused.value) and "abc" not in str(refused.value)


@pytest.mark.parametrize("name", sorted(VLLM.environment))
def test_what_an_engine_is_given_is_either_the_users_to_change_or_refused(name: str) -> None:
    refused = {"VLLM_ENABLE_V1_MULTIPROCESSING", "VLLM_CPU_OMP_THREADS_BIND"}
    try:
        Cluster(env={name: "7"})
    except ValueError:
        assert name in refused
    else:
        assert name not in refused


def test_secrets_come_by_name_from_a_list_of_the_drivers() -> None:
    environment = {ALLOWED: "HF_TOKEN, WANDB_API_KEY", "HF_TOKEN": "hunter2", "OTHER": "hunter3"}
    assert dict(secrets_of(["HF_TOKEN"], environment)) == {"HF_TOKEN": "hunter2"}
    assert "hunter2" not in repr(secrets_of(["HF_TOKEN"], environment)) + str(secrets_of(["HF_TOKEN"], environment))
    with pytest.raises(BadInput, match=r"OTHER is not among .*RATCHET_SECRETS=HF_TOKEN,OTHER,WANDB_API_KEY"):
        secrets_of(["OTHER"], environment)
    with pytest.raises(BadInput, match=r"WANDB_API_KEY is not set"):
        secrets_of(["WANDB_API_KEY"], environment)
    assert secrets_of([], {}) == {}


def test_a_secret_that_is_not_to_be_had_is_told_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(ALLOWED, raising=False)
    job = load_job(make_project(tmp_path), ["cluster.secrets=[HF_TOKEN]"]).job
    with pytest.raises(BadInput, match=r"^cluster.secrets: HF_TOKEN"):
        RealWorkers(job, tmp_path / "logs")
