"""A run goes on executed otherwise: what is committed stays, what is not is done, and the ledger says how."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from orchestrator.commands.fork.command import fork
from orchestrator.commands.verify.command import verify
from orchestrator.config.load import load_job
from orchestrator.driver.serving import serving_dtype
from orchestrator.driver.settled import Settled, kept_of
from orchestrator.errors import BadInput, Interrupted
from orchestrator.ledger.kinds import check_data
from orchestrator.ledger.ledger import Ledger, State
from tests.recorded_runs.record import extract, go_on, unpack
from tests.support.preference_stand_ins import PreferenceStandIns, make_stages, right, wrong
from tests.support.stand_ins import StandIns, make_project, run_job

OTHERWISE = [
    *("train.ranks=4", "train.zero=3", "train.attention=flex", "train.tokens_per_microbatch=99"),
    *("train.compile=true", "train.overlap=true"),
    *("generate.tensor_parallel=4", "generate.engines=3", "generate.max_num_seqs=9"),
    "generate.engine.block_size=16",
]


def state_of(run: Path) -> State:
    return Ledger(run / "ledger").state


def stop_in(name: str) -> Callable[[str], None]:
    def on_call(work: str) -> None:
        if work == name:
            raise Interrupted("SIGTERM")

    return on_call


def test_a_run_goes_on_with_everything_executed_otherwise(tmp_path: Path) -> None:
    job = make_project(tmp_path)
    run_job(job, StandIns(), "rounds=1")
    workers = StandIns()
    run_job(job, workers, *OTHERWISE)
    assert workers.calls["train"] == 1 and workers.calls["generate"] == 2 + 2 * 4, "the second round's alone"
    commits = state_of(tmp_path / "run").commits
    for number, ranks in ((1, 1), (2, 4)):
        executed = commits[f"rounds/0{number}/train"].facts["executed"]
        assert (executed["train.ranks"], executed["train.zero"], executed["device"]) == (ranks, min(ranks, 3), "cpu")
        assert executed["train.attention"] == "sdpa", "what it came to, as the workers say"
        assert executed["reference"] == f"rounds/0{number}/reference"
        samples = commits[f"rounds/0{number}/samples"].facts["executed"]
        assert samples["generate.tensor_parallel"] == ranks and samples["device"] == "cpu"
        assert commits[f"rounds/0{number}/evaluation"].facts["executed"]["generate.tensor_parallel"] == ranks
    assert verify(tmp_path / "run").findings == []
    report = (tmp_path / "run/report.md").read_text()
    assert "| train.ranks | 1 from rounds/01/reference, 4 from rounds/02/reference |" in report
    assert "save" not in report, "what has not changed is not told"
    workers = StandIns()
    run_job(job, workers)
    assert not workers.calls, "and back again"


@pytest.mark.parametrize(("how", "told"), [("anew: the slope | is 0", True), ("in place, slope 1.000", False)])
def test_the_report_tells_of_weights_that_could_not_be_loaded_in_place(tmp_path: Path, how: str, told: bool) -> None:
    class Changed(StandIns):
        def execution(self, of: str) -> dict[str, Any]:
            return super().execution(of) | ({"weights": how} if of == "generate" else {})

    run_job(make_project(tmp_path), Changed(), "rounds=1")
    report = (tmp_path / "run/report.md").read_text()
    line = "- rounds/01/evaluation: engines were made anew, since weights could not be loaded in place: the slope "
    assert (line in report, "## Executed otherwise" in report) == (told, told)
    assert verify(tmp_path / "run").findings == []


def test_the_report_tells_of_processes_that_gave_no_memory_back(tmp_path: Path) -> None:
    class Replaced(StandIns):
        def execution(self, of: str) -> dict[str, Any]:
            words = "training rank 0 gives back the memory of its device but for 9.4 GiB: the processes are ended"
            return super().execution(of) | ({"ended": words} if of == "train" else {})

    run_job(make_project(tmp_path), Replaced(), "rounds=1")
    report = (tmp_path / "run/report.md").read_text()
    line = "- rounds/01/train: new processes, since training rank 0 gives back the memory of its device but for 9.4 GiB"
    assert line in report and "## Executed otherwise" in report and "| ended |" not in report
    assert verify(tmp_path / "run").findings == []


@pytest.mark.parametrize(
    ("version", "kind", "stop"),
    [("recipe-2", "executing", "train"), ("recipe-2", "executing", "samples"), ("0.1.0", "sample", "train")],
)
def test_a_run_of_an_earlier_recipe_goes_on_executed_otherwise(
    tmp_path: Path, version: str, kind: str, stop: str
) -> None:
    """Its fingerprints count ranks and the like: as they were then, not as they are now."""
    job, done = unpack(extract(version, tmp_path / "recorded") / kind, stop, tmp_path / "project")
    workers = StandIns()
    run_job(job, workers, *OTHERWISE)
    assert workers.calls["train"] == 1 == done["train"]
    assert workers.calls["generate"] + done["generate"] == 4 + 2 * (2 + 4), (
        "shards of answers to gate and test, and of two rounds"
    )
    assert verify(job.parent / "run").findings == []
    child = StandIns()
    fork(job.parent / "run", tmp_path / "child", ["train.ranks=8", "loss.beta=[0.1, 0.2]"])
    go_on(tmp_path / "child/job.yaml", child)
    assert child.calls["train"] == 1, "round 1's is taken over, of another number of ranks"


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("train.zero=0", "train.zero: None in the run, 0 now"),
        ("generate.engine.quantization=fp8", r"generate\.engine\.quantization: None in the run, 'fp8' now"),
        ("train.precision=fp32", "train.precision: 'bf16' in the run"),
    ],
)
def test_what_decides_binds_the_run(tmp_path: Path, override: str, told: str) -> None:
    job = make_project(tmp_path, rounds=1)
    run_job(job, StandIns())
    with pytest.raises(BadInput, match=told):
        run_job(job, StandIns(), override, "train.ranks=2")


def test_zero_0_is_left_for_1_by_a_fork_alone(tmp_path: Path) -> None:
    """With ZeRO 0 a model computes in autocast over float32 weights."""
    job = make_project(tmp_path, rounds=1, train={"zero": 0})
    run_job(job, StandIns())
    with pytest.raises(BadInput, match=r"train\.zero: 0 in the run, 2 now"):
        run_job(job, StandIns(), "train.zero=2")
    workers = StandIns()
    fork(tmp_path / "run", tmp_path / "child", ["train.zero=2"])
    run_job(tmp_path / "child/job.yaml", workers)
    assert (workers.calls["reference"], workers.calls["train"]) == (1, 1)


# The reference pass


class OnFlex(StandIns):
    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.kernel = "flex"


def test_a_reference_pass_of_another_kernel_is_made_once_more(tmp_path: Path) -> None:
    job, run = make_project(tmp_path, rounds=1), tmp_path / "run"
    with pytest.raises(Interrupted):
        run_job(job, StandIns(on_call=stop_in("train")))
    with pytest.raises(Interrupted):
        run_job(job, OnFlex(on_call=stop_in("train")))
    commits = state_of(run).commits
    assert commits["rounds/01/reference"].facts["executed"]["train.attention"] == "sdpa"
    assert commits["rounds/01/reference_again/01"].facts["executed"]["train.attention"] == "flex"
    workers = OnFlex()
    run_job(job, workers)
    assert not workers.calls["reference"], "it is there"
    assert state_of(run).commits["rounds/01/train"].facts["executed"]["reference"] == "rounds/01/reference_again/01"
    assert verify(run).findings == []
    run_job(job, (again := StandIns()))
    assert not again.calls, "what is trained asks for no reference any more"


def test_a_reference_pass_of_layers_that_were_not_compiled_is_made_once_more(tmp_path: Path) -> None:
    job, run = make_project(tmp_path, rounds=1), tmp_path / "run"
    with pytest.raises(Interrupted):
        run_job(job, StandIns(on_call=stop_in("train")))
    run_job(job, (workers := StandIns()), "train.compile=true")
    assert workers.calls["reference"] == 1
    executed = {name: commit.facts.get("executed", {}) for name, commit in state_of(run).commits.items()}
    assert executed["rounds/01/reference"]["train.compile"] is False
    assert executed["rounds/01/reference_again/01"]["train.compile"] is True
    assert executed["rounds/01/train"]["reference"] == "rounds/01/reference_again/01"
    run_job(job, (again := StandIns()))
    assert not again.calls, "and back again: what is trained stays"


def test_a_reference_pass_of_the_same_kernel_serves(tmp_path: Path) -> None:
    job = make_project(tmp_path, rounds=1)
    with pytest.raises(Interrupted):
        run_job(job, StandIns(on_call=stop_in("train")))
    workers = StandIns()
    run_job(job, workers, "train.ranks=2", "train.tokens_per_microbatch=64")
    assert not workers.calls["reference"]
    assert "rounds/01/reference_again/01" not in state_of(tmp_path / "run").commits


def test_a_policy_is_compared_with_a_reference_by_its_own_kernel(tmp_path: Path) -> None:
    class Flex(PreferenceStandIns):
        def __init__(self, **options: Any) -> None:
            super().__init__(**options)
            self.kernel = "flex"

    job = make_stages(tmp_path, {"hard": wrong("h", 3), "mixed": right("m", 2) + wrong("n", 1)})
    with pytest.raises(Interrupted):
        run_job(job, PreferenceStandIns(on_call=stop_in("policy")), "rounds=1")
    run_job(job, Flex(), "rounds=1")
    commits = state_of(tmp_path / "run").commits
    assert commits["rounds/01/train"].facts["executed"]["reference"] == "rounds/01/reference"
    assert commits["rounds/01/policy"].facts["executed"]["reference"] == "rounds/01/reference_again/01"
    assert verify(tmp_path / "run").findings == []


@pytest.mark.parametrize(
    ("override", "kernel", "passes"),
    [("train.ranks=2", "sdpa", 0), ("train.attention=sdpa", "sdpa", 1), ("train.ranks=2", "matmul", 1)],
)
def test_a_reference_pass_that_does_not_say_its_kernel(tmp_path: Path, override: str, kernel: str, passes: int) -> None:
    """An earlier version made it, with the setting that its run had: made again where that has changed, or where the
    machine takes a kernel now that the version did not have."""
    job, _ = unpack(extract("0.1.0", tmp_path / "recorded") / "sample", "train", tmp_path / "project")
    workers = StandIns()
    workers.kernel = kernel
    run_job(job, workers, override)
    assert workers.calls["reference"] == passes
    assert ("rounds/02/reference_again/01" in state_of(job.parent / "run").commits) == bool(passes)


# What is left to the machine


class Machine(StandIns):
    """Workers of a machine with so many cores, of which each rank gets its share."""

    def __init__(self, cores: int, device: str = "cpu", **options: Any) -> None:
        super().__init__(**options)
        self.cores, self.device, self.settled = cores, device, Settled()

    @property
    def dtype(self) -> str:  # type: ignore[override]
        assert self.job is not None
        return serving_dtype(self.job, self.model, lambda: self.device, self.settled, lambda _: None)

    def settle(self, kept: Mapping[str, Any] | None, record: Callable[[Mapping[str, Any]], None], model: str) -> None:
        self.settled, self.model = Settled(kept, record), Path(model)

    def execution(self, of: str) -> dict[str, Any]:
        key = "cluster.cpus_per_rank" if of == "train" else "cluster.cpus_per_engine"
        usual = "flex" if self.device == "cuda" else "sdpa"
        said = {"device": self.device}
        said[key] = self.settled.value(key, self.device, lambda: self.cores, lambda cores: cores <= self.cores)
        if of == "train":
            said["train.attention"] = self.settled.value("train.attention", self.device, lambda: usual, lambda _: True)
        return said


def cores_of(run: Path, number: int) -> int:
    return int(state_of(run).commits[f"rounds/{number:02d}/train"].facts["executed"]["cluster.cpus_per_rank"])


@pytest.mark.parametrize(
    ("machine", "overrides", "cores"),
    [
        (Machine(16), [], 8),
        (Machine(16), ["train.ranks=2"], 16),
        (Machine(4), [], 4),
        (Machine(16, "cuda"), [], 16),
    ],
)
def test_what_was_left_to_the_machine_is_kept_while_it_can_be(
    tmp_path: Path, machine: Machine, overrides: Sequence[str], cores: int
) -> None:
    job, run = make_project(tmp_path), tmp_path / "run"
    run_job(job, Machine(8), "rounds=1")
    assert state_of(run).configs[-1]["resolved"] == {
        "device": "cpu",
        "settings": {"cluster.cpus_per_rank": 8, "cluster.cpus_per_engine": 8, "train.attention": "sdpa"}
        | {"generate.dtype": "own"},
    }
    run_job(job, machine, *overrides)
    assert (cores_of(run, 1), cores_of(run, 2)) == (8, cores)
    assert len({config["run_id"] for config in state_of(run).configs}) == 1
    assert verify(run).findings == []


def test_a_fork_keeps_what_was_left_to_the_machine(tmp_path: Path) -> None:
    job = make_project(tmp_path)
    run_job(job, Machine(8), "rounds=1")
    fork(tmp_path / "run", tmp_path / "child", ["loss.beta=0.2"])
    run_job(tmp_path / "child/job.yaml", Machine(16))
    assert cores_of(tmp_path / "child", 1) == 8


def in_float32(folder: Path) -> Path:
    """A project whose base model is in float32, and whose candidates are."""
    job = make_project(folder, train={"export_dtype": "float32"})
    (folder / "seed/config.json").write_text('{"dtype": "float32"}')
    return job


@pytest.mark.parametrize(("first", "then", "dtype"), [("cuda", "cpu", "bfloat16"), ("cpu", "cuda", "own")])
def test_a_run_serves_as_it_began_on_another_device_too(tmp_path: Path, first: str, then: str, dtype: str) -> None:
    job, run = in_float32(tmp_path), tmp_path / "run"
    run_job(job, Machine(8, first), "rounds=1")
    moved = Machine(8, then)
    run_job(job, moved)
    assert moved.dtype == dtype and moved.calls["train"] == 1, "the first round's steps are what they were"
    assert state_of(run).configs[-1]["resolved"] == {
        "device": then,
        "settings": {"cluster.cpus_per_rank": 8, "cluster.cpus_per_engine": 8, "generate.dtype": dtype}
        | {"train.attention": "flex" if then == "cuda" else "sdpa"},
    }
    with pytest.raises(BadInput, match=r"generate\.dtype: None in the run, 'float16' now"):
        run_job(job, Machine(8, then), "generate.dtype=float16")
    for name, overrides, anew in (("same", [], 0), ("other", ["generate.dtype=float16"], 8 + 2 + 8)):
        child = Machine(8, then)
        fork(run, tmp_path / name, [*overrides, "rounds=1"])
        run_job(tmp_path / name / "job.yaml", child)
        assert child.calls["generate"] == anew, "it decides all that engines do"


@pytest.mark.parametrize(("version", "kind"), [("0.1.0", "sample"), ("recipe-2", "executing")])
def test_a_run_that_knew_no_such_setting_serves_each_model_as_it_is(tmp_path: Path, version: str, kind: str) -> None:
    job, done = unpack(extract(version, tmp_path / "recorded") / kind, "train", tmp_path / "project")
    workers = Machine(8, "cuda")
    run_job(job, workers, "train.export_dtype=null")
    assert workers.dtype == "own" and workers.calls["train"] == 1 == done["train"]
    assert workers.calls["generate"] + done["generate"] == 4 + 2 * (2 + 4), "nothing is sampled again"
    fork(job.parent / "run", tmp_path / "child", ["loss.beta=[0.1, 0.2]"])
    child = Machine(8, "cuda")
    run_job(tmp_path / "child/job.yaml", child)
    assert child.dtype == "own" and child.calls["train"] == 1


def test_what_is_set_is_no_longer_left_to_the_machine(tmp_path: Path) -> None:
    file = make_project(tmp_path)
    resolved = {"device": "cpu", "settings": {"train.attention": "sdpa", "cluster.cpus_per_rank": 8}}
    config = {"job": load_job(file).job.model_dump(mode="json"), "resolved": resolved}
    for overrides, held in (
        ([], {"train.attention", "cluster.cpus_per_rank"}),
        (["train.attention=flex"], {"cluster.cpus_per_rank"}),
        (["cluster.cpus_per_rank=3"], {"train.attention"}),
        (["train.ranks=2"], {"train.attention"}),
    ):
        found = kept_of(config, load_job(file, overrides).job)
        assert found is not None and found["settings"].keys() == held
    assert kept_of({"job": config["job"]}, load_job(file).job) is None, "nothing is recorded"
    half = {"job": config["job"], "resolved": {"device": "cuda", "settings": {"train.tokens_per_microbatch": 50}}}
    seen = ("tokens_per_microbatch=99", "activation_checkpointing=true", "offload_optimizer=true", "zero=3", "ranks=2")
    for overrides, kept in ([["train.save_minutes=1"], 1], *([[f"train.{key}"], 0] for key in seen)):
        found = kept_of(half, load_job(file, overrides).job)
        assert found is not None and len(found["settings"]) == kept, "whoever has seen to the memory is asked no more"


@pytest.mark.parametrize(
    "wrong", [{"device": "tpu", "settings": {}}, 5, {"device": "cpu", "settings": {"cluster.cpus_per_rank": "8"}}]
)
def test_a_record_of_what_a_machine_made_is_typed(tmp_path: Path, wrong: Any) -> None:
    run_job(make_project(tmp_path, rounds=1), Machine(8))
    config = state_of(tmp_path / "run").configs[-1]
    check_data("config", config)
    with pytest.raises(ValueError, match="resolved"):
        check_data("config", config | {"resolved": wrong})
