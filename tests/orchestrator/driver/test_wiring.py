"""What the workers' root makes of settings that are left to the machine. The cluster is a stand-in."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pydantic import TypeAdapter

from orchestrator.config import Cluster as ClusterSettings
from orchestrator.config import Job, engines
from orchestrator.config.load import load_job
from orchestrator.driver import wiring
from orchestrator.driver.cluster import Cluster
from orchestrator.driver.examination import Examination
from orchestrator.driver.nodes import Node
from orchestrator.driver.settled import Settled
from orchestrator.driver.wiring import RealWorkers
from orchestrator.errors import BadInput
from orchestrator.ledger.kinds import ResolvedData
from orchestrator.ledger.step_facts import Facts
from orchestrator.records.rows import PROBE
from tests.support.placements import ForRanks
from tests.support.stand_ins import make_project
from workers.files import write_table
from workers.training.lost import OutOfMemory


def test_the_job_file_knows_the_arguments_of_the_engine_that_runs_use() -> None:
    assert RealWorkers.engine == wiring.ENGINE.name == engines.ENGINE.name
    assert wiring.ENGINE.memory_argument in engines.ENGINE.executing
    assert not engines.ENGINE.executing & {*wiring.ENGINE.context_arguments, *engines.ENGINE.keys}


class Machine(Cluster):
    """So many nodes of so many cores and accelerators each, without Ray."""

    def __init__(self, cpus: int, gpus: int, count: int = 1, memory: int | None = None) -> None:
        self.cpus, self.gpus, self.count, self.memory = cpus, gpus, count, memory
        self.settings = ClusterSettings()
        self.told: list[str] = []
        self.say = self.told.append
        self.asked: list[tuple[str, tuple[Any, ...]]] = []

    def __enter__(self) -> Machine:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    @property
    def accelerated(self) -> bool:
        return self.gpus > 0

    _began = False
    _folder = None

    @property
    def is_private(self) -> bool:
        return True

    def _scales(self) -> bool:
        return False

    def nodes(self) -> list[Node]:
        return [Node(str(number), f"node-{number}", self.cpus, self.gpus) for number in range(self.count)]

    def others_wait(self) -> bool:
        return False

    def on_nodes(self, function: Any, *arguments: Any, timeout: float) -> dict[Node, Any]:
        self.asked.append((function.__name__, arguments))
        return dict.fromkeys(self.nodes(), self.memory)


class On(RealWorkers):
    def __init__(
        self, job: Job, cpus: int, gpus: int = 0, kept: Mapping[str, Any] | None = None, nodes: int = 1
    ) -> None:
        super().__init__(job, Path("/nowhere/logs"))
        self._cluster = Machine(cpus, gpus, nodes)
        self.recorded: list[Mapping[str, Any]] = []
        self._settled = Settled(kept, self.recorded.append)


ON_CPU = {
    "train": {
        **{"device": "cpu", "train.attention": "matmul", "train.ranks": 1, "train.zero": 1},
        **{"train.tokens_per_microbatch": 4096, "train.activation_checkpointing": False, "train.compile": False},
    },
    "generate": {"device": "cpu", "generate.engines": 1, "generate.tensor_parallel": 1, "generate.dtype": "own"},
}


def test_what_is_left_to_the_machine_is_recorded_once_and_kept(tmp_path: Path) -> None:
    job = load_job(make_project(tmp_path)).job
    first = On(job, cpus=8)
    assert first.execution("train") == ON_CPU["train"] | {"cluster.cpus_per_rank": 8}
    assert first.execution("generate") == ON_CPU["generate"] | {"cluster.cpus_per_engine": 8}
    assert first.execution("train") and len(first.recorded) == 10
    assert not first._cluster.told, "on CPU all is as it always was"  # type: ignore[attr-defined]
    larger = On(job, cpus=16, kept=first.recorded[-1])
    assert larger.execution("train") == first.execution("train") and not larger.recorded
    smaller = On(job, cpus=2, kept=first.recorded[-1])
    assert smaller.execution("train")["cluster.cpus_per_rank"] == 2, "there is no room for 8"
    accelerated = On(job, cpus=16, gpus=2, kept=first.recorded[-1])
    said = ON_CPU["train"] | {"device": "cuda", "train.attention": "flex", "train.ranks": 2}
    assert accelerated.execution("train") == said | {"cluster.cpus_per_rank": 1}
    assert accelerated.recorded[-1]["device"] == "cuda"


def test_attention_is_as_it_was_resolved_and_in_float32_torchs_own(tmp_path: Path) -> None:
    job = load_job(make_project(tmp_path)).job
    earlier = On(job, cpus=8, kept={"device": "cpu", "settings": {"train.attention": "sdpa"}})
    assert earlier.execution("train")["train.attention"] == "sdpa", "a run of a version that had no other"
    exact = load_job(make_project(tmp_path / "exact"), ["train.precision=fp32"]).job
    assert On(exact, cpus=8).execution("train")["train.attention"] == "sdpa"


@pytest.mark.parametrize(
    ("override", "key"),
    [("train.attention=sdpa", "train.attention"), ("cluster.cpus_per_rank=3", "cluster.cpus_per_rank")],
)
def test_what_is_set_is_as_it_is_set(tmp_path: Path, override: str, key: str) -> None:
    workers = On(load_job(make_project(tmp_path), [override]).job, cpus=8, gpus=1)
    assert str(workers.execution("train")[key]) == override.partition("=")[2]
    assert all(key not in said["settings"] for said in workers.recorded)


@pytest.mark.parametrize("kernel", ["flex", "varlen"])
def test_a_kernel_for_gpus_is_refused_where_there_are_none(tmp_path: Path, kernel: str) -> None:
    job = load_job(make_project(tmp_path), [f"train.attention={kernel}"]).job
    assert On(job, cpus=8, gpus=1).execution("train")["train.attention"] == kernel
    with pytest.raises(BadInput, match=rf"^train\.attention: {kernel} needs GPUs, and there are none: set it to auto"):
        On(job, cpus=8).execution("train")


@pytest.mark.parametrize(("override", "compiled"), [("train.zero=2", True), ("train.zero=3", False)])
def test_whether_layers_are_compiled_is_recorded(tmp_path: Path, override: str, compiled: bool) -> None:
    job = load_job(make_project(tmp_path), ["train.compile=true", override]).job
    assert On(job, cpus=8).execution("train")["train.compile"] is compiled


@pytest.mark.parametrize(("ranks", "nodes", "cpus", "cores"), [(1, 2, 1, 1), (2, 2, 1, 1), (1, 3, 4, 4), (6, 2, 8, 2)])
def test_cores_are_shared_out_by_node(tmp_path: Path, ranks: int, nodes: int, cpus: int, cores: int) -> None:
    workers = On(load_job(make_project(tmp_path), [f"train.ranks={ranks}"]).job, cpus, nodes=nodes)
    assert workers.execution("train")["cluster.cpus_per_rank"] == cores


def test_an_engine_holds_all_the_accelerators_that_it_is_spread_over(tmp_path: Path) -> None:
    overrides = ["generate.tensor_parallel=2", "generate.engine={pipeline_parallel_size: 2}", "generate.engines=2"]
    job = load_job(make_project(tmp_path), overrides).job
    assert On(job, cpus=64, gpus=8)._engines_need()[::2] == (2, 4)
    assert On(job, cpus=64)._engines_need()[::2] == (2, 0)


def test_engines_that_never_fit_are_refused_before_training(tmp_path: Path) -> None:
    job = load_job(make_project(tmp_path), ["generate.tensor_parallel=4", "generate.engines=1"]).job
    with pytest.raises(BadInput, match=r"^generate.engines: .*tensor_parallel to at most 2"):
        On(job, cpus=64, gpus=2, nodes=2).trainers()


def test_the_environment_of_workers_is_recorded_where_there_is_any(tmp_path: Path) -> None:
    job = load_job(make_project(tmp_path), ["cluster.env={NCCL_DEBUG: INFO}"]).job
    machine = On(job, cpus=4)
    for said in (machine.execution("train"), machine.execution("generate")):
        assert said["cluster.env"] == {"NCCL_DEBUG": "INFO"}
        assert TypeAdapter(Facts).validate_python({"executed": said})


def large_model(folder: Path) -> str:
    """A configuration of 7 billion parameters, and no weights."""
    config = {"hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8}
    config |= {"intermediate_size": 14336, "vocab_size": 32000, "max_position_embeddings": 32768, "dtype": "bfloat16"}
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    return str(folder)


def on_gpus(tmp_path: Path, gpus: int, kept: Mapping[str, Any] | None, *overrides: str, memory: int | None = 80) -> On:
    workers = On(load_job(make_project(tmp_path), overrides).job, 64)
    workers._cluster = Machine(64, gpus, memory=memory and memory * 2**30)
    workers.settle(kept, workers.recorded.append, str(tmp_path / "large"))
    return workers


def test_engines_and_ranks_fit_model_and_cluster_and_stay(tmp_path: Path) -> None:
    large_model(tmp_path / "large")
    first = on_gpus(tmp_path, 8, None)
    assert first.execution("train")["train.ranks"] == 8 and first.execution("train")["train.zero"] == 2
    assert first._engines_need()[::2] == (8, 1) and first._ranks_need()[::2] == (8, 1)
    cluster: Any = first._cluster
    assert cluster.asked == [("smallest_memory", ())], "once"
    told = [line.split(":")[0] for line in cluster.told]
    assert told == [
        *("settings  train.ranks is 8", "settings  train.zero is 2"),
        *("settings  train.tokens_per_microbatch is 4096", "settings  train.activation_checkpointing is false"),
        *("settings  generate.tensor_parallel is 1", "settings  generate.engines is 8"),
    ]
    assert "takes about" in cluster.told[1] and "with ZeRO 1" in cluster.told[1]
    kept = first.recorded[-1]
    TypeAdapter(ResolvedData).validate_python(kept)
    larger = on_gpus(tmp_path, 16, kept)
    assert larger._ranks_need()[0] == larger._engines_need()[0] == 8, "as it was recorded"
    assert not larger._cluster.told and not larger.recorded  # type: ignore[attr-defined]
    smaller = on_gpus(tmp_path, 4, kept)
    assert smaller._ranks_need()[0] == smaller._engines_need()[0] == 4, "there is no room for 8"
    poorer = on_gpus(tmp_path, 8, kept, memory=60)
    executed = poorer.execution("train")
    assert executed["train.zero"] == 2 and executed["train.tokens_per_microbatch"] == 2048, "4096 do not fit any more"
    poorest = on_gpus(tmp_path, 8, kept, memory=30).execution("train")
    assert poorest["train.zero"] == 3 and poorest["train.activation_checkpointing"], "where 2 does not fit any more"


def test_what_engines_serve_in_is_told_and_counted_where_a_run_begins(tmp_path: Path) -> None:
    """With 80 GB, 30 GB of weights in float32 and 15 GB in bfloat16 make a difference to engines of one GPU."""
    large_model(tmp_path / "large")
    config = tmp_path / "large/config.json"
    config.write_text(config.read_text().replace("bfloat16", "float32"))
    began = on_gpus(tmp_path, 8, None, memory=30)
    assert began.dtype == "bfloat16" and began._engines_need()[::2] == (8, 1)
    assert began._cluster.told[0].startswith("settings  generate.dtype is bfloat16: ")  # type: ignore[attr-defined]
    executed = began.execution("generate")
    assert executed["generate.dtype"] == "bfloat16" and TypeAdapter(Facts).validate_python({"executed": executed})
    asked = on_gpus(tmp_path, 8, None, "generate.dtype=own", memory=30)
    assert asked.dtype == "own" and asked._engines_need()[::2] == (4, 2)


def on_hosts(tmp_path: Path, free: int | None, kept: Mapping[str, Any] | None, *overrides: str) -> On:
    workers = On(load_job(make_project(tmp_path), overrides).job, 8)
    workers._cluster = Machine(8, 0, memory=free and free * 2**30)
    workers.settle(kept, workers.recorded.append, str(tmp_path / "large"))
    return workers


def test_on_processors_micro_batches_fit_the_memory_that_is_free_when_a_run_begins(tmp_path: Path) -> None:
    large_model(tmp_path / "large")
    key, other = "train.tokens_per_microbatch", "train.activation_checkpointing"
    first = on_hosts(tmp_path, 250, None)
    cluster: Any = first._cluster
    assert first._ranks_need()[0] == 1 and [first.execution("train")[k] for k in (key, other)] == [2048, False]
    assert cluster.asked == [("free_memory", ())], "once: workers take of it"
    assert [line.split(":")[0] for line in cluster.told] == [f"settings  {key} is 2048"]
    kept = TypeAdapter(ResolvedData).validate_python(first.recorded[-1]).model_dump()
    assert kept["settings"][key] == 2048 and kept["settings"][other] is False
    fuller = on_hosts(tmp_path, 20, kept).execution("train")
    assert fuller[key] == 2048, "a run goes on as it began, whatever else is on its machine now"
    with pytest.raises(BadInput, match=rf"^{key}: the training does not fit: .* of the 20.0 GiB that are free"):
        on_hosts(tmp_path, 20, None).engines("model")
    given = on_hosts(tmp_path, 20, None, f"{key}=64", f"{other}=false")
    assert given.execution("train")[key] == 64 and not given._cluster.asked  # type: ignore[attr-defined]
    assert on_hosts(tmp_path, None, None).execution("train")[key] == 4096, "nobody tells how much there is"


def test_half_of_an_estimate_is_kept_and_its_cure_told(tmp_path: Path) -> None:
    large_model(tmp_path / "large")
    first = on_hosts(tmp_path, 250, None)
    first._halving = first._new_halving(first._fitted.train())
    first._halving.halve(OutOfMemory("short"), [])
    assert "half of train.tokens_per_microbatch, 1024; what fits was estimated: set it" in first._cluster.told[-1]  # type: ignore[attr-defined]
    assert first.execution("train")["train.tokens_per_microbatch"] == 1024
    next_start = on_hosts(tmp_path, 250, first.recorded[-1])
    assert next_start.execution("train")["train.tokens_per_microbatch"] == 1024 and not next_start.recorded
    assert next_start._new_halving(next_start._fitted.train()).executed == {}, "it may be halved again"


@pytest.mark.parametrize(("device", "half"), [("cuda", 50), ("cpu", None)])
def test_half_a_micro_batch_is_kept_for_the_next_start_on_the_same_device(
    tmp_path: Path, device: str, half: int | None
) -> None:
    kept = {"device": "cuda", "settings": {"train.tokens_per_microbatch": 50}}
    job = load_job(make_project(tmp_path), ["train.tokens_per_microbatch=100"]).job
    workers = On(job, cpus=4, gpus=int(device == "cuda"), kept=kept)
    halving = workers._new_halving(job.train)
    assert halving.tokens == (half or 100) and len(workers._cluster.told) == bool(half)  # type: ignore[attr-defined]
    if half is None:
        halving.halve(OutOfMemory("short"), [])
        assert TypeAdapter(ResolvedData).validate_python(workers.recorded[-1]).settings == {
            "train.tokens_per_microbatch": 50
        }


def test_what_does_not_fit_is_refused_before_anything_is_reserved(tmp_path: Path) -> None:
    large_model(tmp_path / "large")
    with pytest.raises(BadInput, match=r"^train.zero: the training does not fit: on 1 GPU with ZeRO 3"):
        on_gpus(tmp_path, 1, None).engines("model")
    with pytest.raises(BadInput, match=r"^train.tokens_per_microbatch: the training does not fit"):
        on_gpus(tmp_path, 1, None, "train.ranks=1", "train.zero=3").engines("model")
    everything = (
        "train.ranks=1",
        "train.zero=3",
        "train.tokens_per_microbatch=64",
        "train.activation_checkpointing=on",
    )
    assert on_gpus(tmp_path, 1, None, *everything).execution("train")["train.zero"] == 3
    unknown = on_gpus(tmp_path, 4, None, memory=None).execution("train")
    assert (unknown["train.ranks"], unknown["train.zero"]) == (4, 1), "nobody tells how much memory there is"


class Held(Machine):
    """A machine that has room for everybody, and on which something of a phase is left."""

    def __init__(self) -> None:
        super().__init__(cpus=4, gpus=0)

    @contextlib.contextmanager
    def reserve(self, what: str, count: int, cpus: int, gpus: int, *_: Any) -> Iterator[Any]:
        placement: Any = ForRanks(1)
        placement.mark, placement.cpus, placement.gpus = "the-mark", 4, gpus
        yield placement
        self.asked.append(("given back", ()))

    def on_nodes(self, function: Any, *arguments: Any, timeout: float) -> dict[Node, Any]:
        self.asked.append((function.__name__, arguments))
        first, second = (Node(name, name, 4, 0) for name in ("first", "second"))
        return {first: ["process 7 (engine) of the phase before does not end"], second: TimeoutError("no answer")}


class Releasing(On, Examination):
    pass


def test_a_phase_is_over_when_every_node_says_so(tmp_path: Path) -> None:
    workers = Releasing(load_job(make_project(tmp_path)).job, cpus=4)
    workers._cluster = cluster = Held()
    workers.release()
    assert cluster.asked == [], "nobody held anything"
    workers.trainers()
    workers.release()
    [given_back, (name, (mark, patience))] = cluster.asked
    assert given_back == ("given back", ()) and (name, mark) == ("phase_over", "the-mark") and patience > 0
    assert cluster.told == [
        "memory    node first: process 7 (engine) of the phase before does not end",
        "memory    node second: cannot be looked at: no answer",
    ]
    workers.release()
    assert len(cluster.asked) == 2, "it is over once"


class Pool:
    """Engines that note what becomes of them."""

    resting = complete = True
    asleep = may_sleep = False
    ended = ""
    num_starts = 1

    def __init__(self, notes: list[str]) -> None:
        self.model, self.notes = "", notes

    def __enter__(self) -> Pool:
        self.notes.append("start")
        return self

    def __exit__(self, *_: object) -> None:
        self.notes.append("end")

    def rest(self) -> None:
        self.resting = True

    def serve(self, model: str) -> None:
        self.model, self.resting = model, False
        self.notes.append(f"serve {Path(model).name}")

    def wait_ready(self) -> None:
        self.notes.append("wait")

    def rename(self, model: str) -> None:
        self.model = model

    def logprobs(self, prompts: list[list[int]], completions: list[list[int]]) -> list[list[float | None]]:
        return [[-float((Path(self.model) / "model.safetensors").read_text())] * len(prompts)]

    def load_weights(self, model: str) -> str:
        self.model = model
        self.notes.append(f"load {Path(model).name}")
        return ""

    def held(self) -> list[dict[str, str]]:
        return [{"weight": (Path(self.model) / "model.safetensors").read_text()}]


class Group:
    """Ranks that note what becomes of them."""

    ended = ""

    def __init__(self, notes: list[str]) -> None:
        self.notes = notes

    def __enter__(self) -> Group:
        return self

    def __exit__(self, *_: object) -> None:
        self.notes.append("ranks end")

    def prepare(self) -> None:
        self.notes.append("ranks prepare")

    def rest(self) -> None:
        pass


class Serving(On):
    def __init__(self, job: Job, gpus: int) -> None:
        super().__init__(job, 4)
        self._cluster = Quiet(gpus)
        self.notes: list[str] = []

    def _engine_pool(self, placement: Any) -> Any:
        return Pool(self.notes)

    def _ranks(self, *_: Any) -> Any:
        return Group(self.notes)


class Quiet(Held):
    """A machine on which nothing is left."""

    def __init__(self, gpus: int) -> None:
        super().__init__()
        self.gpus = gpus

    def on_nodes(self, *_: Any, timeout: float) -> dict[Node, Any]:
        return {}


def made(folder: Path, weight: float) -> tuple[str, Path]:
    """A model of one weight, and its trainer's word on it."""
    folder.mkdir()
    (folder / "model.safetensors").write_text(str(weight))
    write_table(pa.table([[[1]], [[2]], [-weight], [None]], schema=PROBE), folder.with_suffix(".parquet"))
    return str(folder), folder.with_suffix(".parquet")


@pytest.mark.parametrize("gpus", [0, 1])
def test_another_model_is_served_by_the_same_processes_but_on_accelerators(tmp_path: Path, gpus: int) -> None:
    workers = Serving(load_job(make_project(tmp_path)).job, gpus)
    for name, weight in (("a", 1.0), ("a", 1.0), ("b", 2.0), ("as-b", 2.0)):
        model = tmp_path / name if (tmp_path / name).exists() else Path(made(tmp_path / name, weight)[0])
        assert workers.engines(str(model)).model == str(model)
    kept = ["start", "ranks prepare", "serve a", "wait", "serve b", "wait"]
    new = ["start", "serve a", "wait", "end", "start", "serve b", "wait"]
    assert workers.notes == (new if gpus else kept)
    assert "weights" not in workers.execution("generate")


@pytest.mark.parametrize("gpus", [0, 1])
def test_models_of_a_training_are_loaded_in_place(tmp_path: Path, gpus: int) -> None:
    workers = Serving(load_job(make_project(tmp_path)).job, gpus)
    for name, weight in (("a", 1.0), ("b", 2.0), ("c", 4.0)):
        workers.engines(*made(tmp_path / name, weight))
    again = ["end", "start"] if gpus else []
    assert [n for n in workers.notes if not n.startswith("ranks")] == [
        *("start", "serve a", "wait"),
        *("load b", *again, "serve b", "wait"),  # the first time, what engines hold after it is compared with new ones
        "load c",
    ]
    executed = workers.execution("generate")
    assert executed["weights"] == "in place, slope 1.000"
    assert TypeAdapter(Facts).validate_python({"executed": executed})
    workers.trainers()
    workers.engines(str(tmp_path / "c"))
    assert "weights" not in workers.execution("generate"), "after a rest they are read anew"


def test_on_accelerators_the_same_processes_serve_where_the_job_says_so(tmp_path: Path) -> None:
    workers = Serving(load_job(make_project(tmp_path), ["cluster.warm=true"]).job, gpus=1)
    for name, weight in (("a", 1.0), ("b", 2.0), ("c", 4.0)):
        pool = workers.engines(*made(tmp_path / name, weight))
    assert workers.notes == ["start", "ranks prepare", "serve a", "wait", "load b", "serve b", "wait", "load c"]
    assert pool.may_sleep
    pool.ended = "engine 0 gives back the memory of its device but for 9.0 GiB: its process is ended"
    assert workers.execution("generate")["ended"] == pool.ended and "ended" not in workers.execution("train")


@pytest.mark.parametrize("early", [True, False])
def test_who_has_to_wait_for_the_first_turn_loads_libraries_meanwhile(tmp_path: Path, early: bool) -> None:
    class Patient(Serving):
        pass

    Patient.early = early
    workers = Patient(load_job(make_project(tmp_path)).job, gpus=0)
    workers.engines(made(tmp_path / "a", 1.0)[0])
    assert workers.notes == (["start", "ranks prepare", "serve a", "wait"] if early else ["start", "serve a", "wait"])
