"""Ranks that run out of memory: once more with half the micro-batch, and then a word on what to set. With ranks that
really ask for more than they may have, in a group on a real Ray."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray

from orchestrator.config import Train
from orchestrator.records.rows import ScoringPlan, TrainingPlan, pairs_schema
from tests.support.local_ray import local_ray
from tests.support.placements import Anywhere, ForRanks
from tests.support.stand_in_ranks import Rank
from workers.supervision.kernel import Kills
from workers.training.group import TrainerGroup
from workers.training.lost import Halving, OutOfMemory, TrainingFailed

pytestmark = pytest.mark.real


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    with local_ray():
        yield


@pytest.fixture
def pairs(tmp_path: Path) -> str:
    """One pair of 10 + 20 + 30 tokens."""
    ids = ([1] * 10, [2] * 20, [3] * 30)
    row = ["p-0", "p", "x", "y", "z", 0, 1, *ids]
    pq.write_table(pa.table([[value] for value in row], schema=pairs_schema(False)), tmp_path / "pairs.parquet")
    return str(tmp_path / "pairs.parquet")


def plan(folder: Path, pairs: str, memory: str) -> TrainingPlan:
    places = {name: str(folder / name) for name in ("state_dir", "checkpoint_dir", "failure_file")}
    files = {name: str(folder / name / name) for name in ("metrics_file", "probe_file")}
    return TrainingPlan(
        init=memory, reference="", pairs=(pairs,), loss=None, learning_rate=0.0, seed=0, **places, **files
    )


@pytest.mark.parametrize("memory", [pytest.param("device 50", marks=pytest.mark.full), "machine 50"])
def test_a_training_ends_well_with_half_the_micro_batch(tmp_path: Path, pairs: str, memory: str) -> None:
    told: list[str] = []
    kept: list[int] = []
    settings = Train(tokens_per_microbatch=100)
    halving = Halving(settings, told.append, keep=kept.append)
    with TrainerGroup(settings, ForRanks(), halving=halving, rank=Rank) as group:
        facts = group.train(plan(tmp_path, pairs, memory), None)
    assert facts.pop("starting") > 0 and facts == {"tokens": 50, "restarts": 1}
    key = "train.tokens_per_microbatch"
    assert halving.executed == {key: 50, "halved": [key]}, "which the ledger says of the step"
    [line] = told
    assert "out of memory" in line and "once more with half of train.tokens_per_microbatch, 50" in line
    assert "the largest pair has 60 tokens" in line, "which no micro-batch of 50 divides"
    with TrainerGroup(settings, ForRanks(), halving=halving, rank=Rank) as group:
        assert group.score(ScoringPlan(memory, memory, (pairs,)), str(tmp_path / "scored.parquet"))["restarts"] == 0
    assert kept == [50]
    again = Halving(settings, told.append, begun=kept[-1])
    assert again.tokens == 50 and again.executed == halving.executed and "begins with half" in told[-1]
    with pytest.raises(TrainingFailed, match=f"{key}: 50, half of what the job says"):
        again.halve(OutOfMemory("short"), [pairs])


def test_a_reference_pass_is_halved_too_and_with_it_all_ranks(tmp_path: Path, pairs: str) -> None:
    settings = Train(tokens_per_microbatch=128, ranks=2)
    with TrainerGroup(settings, ForRanks(), rank=Rank) as group:
        facts = group.score(ScoringPlan("device 64", "", (pairs,)), str(tmp_path / "scored.parquet"))
    assert facts["restarts"] == 1
    assert pq.read_table(tmp_path / "scored.parquet").column("logprob").to_pylist() == [-64.0, -64.0]


def test_half_is_tried_once_and_then_it_is_said_what_to_set(tmp_path: Path, pairs: str) -> None:
    settings, told = Train(tokens_per_microbatch=400), []
    with TrainerGroup(settings, ForRanks(), halving=Halving(settings, told.append), rank=Rank) as group:
        with pytest.raises(TrainingFailed, match=r"train\.tokens_per_microbatch: 200, half of .* Set train"):
            group.train(plan(tmp_path, pairs, "device 100"), None)
        assert group.pids == [] and len(told) == 1 and "largest pair" not in told[0]


def test_a_process_that_somebody_killed_is_no_want_of_memory(tmp_path: Path, pairs: str) -> None:
    settings, told = Train(tokens_per_microbatch=100), []
    with (
        TrainerGroup(settings, ForRanks(), halving=Halving(settings, told.append), rank=Rank) as group,
        pytest.raises(TrainingFailed, match="crashed or was killed: 3 times with no saved state"),
    ):
        group.train(plan(tmp_path, pairs, "killed 50"), None)
    assert told == []


def test_a_process_that_the_kernel_of_another_node_killed_for_memory_is_a_want_of_memory(
    tmp_path: Path, pairs: str
) -> None:
    """`here=""`: no node is the driver's own, so that a task there asks. The count is a stand-in for the kernel's; it
    takes longer than the ranks to start, and still has to come before the death."""
    settings, told, file = Train(tokens_per_microbatch=100), list[str](), tmp_path / "kills"
    file.write_text("xx")
    kernel = partial(Kills, partial(killed_so_far, str(file), seconds=4), here="")
    ranks = Anywhere(1, num_cpus=1, runtime_env={"env_vars": {"KERNEL_KILLS": str(file)}})
    with TrainerGroup(settings, ranks, halving=Halving(settings, told.append), rank=Rank, kills=kernel) as group:
        facts = group.train(plan(tmp_path, pairs, "kernel 50"), None)
        assert facts.pop("starting") > 0 and facts == {"tokens": 50, "restarts": 1}
    [line] = told
    assert "rank 0 died: its process was killed while the machine was out of memory (lower train" in line
    assert file.read_text() == "xxx"


def test_killings_are_counted_by_node_and_once(tmp_path: Path) -> None:
    file = tmp_path / "kills"
    file.write_text("")
    [node] = ray.nodes()
    here, nowhere = (died_at(address) for address in (node["NodeManagerAddress"], "203.0.113.9"))
    kills = Kills(partial(killed_so_far, str(file)), here="")
    assert kills.since(here) == 0
    file.write_text("x")
    assert kills.since(here) == 0, "of one death there is one answer"
    assert kills.since(nowhere) == 0, "that node is not there"
    again = died_at(node["NodeManagerAddress"])
    assert (kills.since(again), kills.since(again), kills.since(died_at(node["NodeManagerAddress"]))) == (1, 1, 0)
    file.write_text("xxx")
    assert kills.since(RuntimeError("CUDA out of memory")) == 0, "which has a word of its own"
    own = Kills(partial(killed_so_far, str(file)), here=node["NodeID"])
    file.write_text("xxxxx")
    assert own.since(died_at(node["NodeManagerAddress"])) == 2 and own.since(died_at("")) == 0


def killed_so_far(file: str, seconds: float = 0) -> int:
    time.sleep(seconds)
    return len(Path(file).read_text())


def died_at(address: str) -> ray.exceptions.RayActorError:
    """As Ray says it, but for words that do not matter here; the real ones are held by the test of a whole group."""
    place = f"\tip: {address}\n" if address else ""
    text = (
        "The actor died.\n\tpid: 7\n" + place + "Worker exit detail: Worker unexpectedly exits with a connection error"
    )
    return ray.exceptions.RayActorError(error_msg=text)


def test_a_micro_batch_of_one_token_is_not_halved(pairs: str) -> None:
    with pytest.raises(TrainingFailed, match="tokens_per_microbatch: 1, and it is not tried with less; but"):
        Halving(Train(tokens_per_microbatch=1)).halve(OutOfMemory("short"), [pairs])


def test_pairs_that_are_dropped_are_not_the_largest(pairs: str) -> None:
    told: list[str] = []
    Halving(Train(tokens_per_microbatch=100, max_tokens=39), told.append).halve(OutOfMemory("short"), [pairs])
    assert "largest pair" not in told[0]
