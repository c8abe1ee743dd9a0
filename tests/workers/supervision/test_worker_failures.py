"""What people are told about a lost worker, who is blamed for it, and how its time is counted."""

from __future__ import annotations

import pytest
import ray

from orchestrator.records.rows import Shard
from workers.generation.blame import Work
from workers.supervision.failures import node_lost, oom_kills, why
from workers.supervision.patience import Patience


class OutOfMemoryError(RuntimeError):
    """Named as torch's is."""


KILLED = (
    "The actor died unexpectedly before finishing this task.\n\tpid: 7\nThe actor is dead because its worker process "
    "has died. Worker exit type: SYSTEM_ERROR Worker exit detail: Worker unexpectedly exits with a connection error "
    "code 2. End of file. Some common causes include: (1) the process was killed by the OOM killer"
)


@pytest.mark.parametrize(
    "error",
    [
        OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("the engine stopped: OutOfMemoryError('CUDA out of memory.')"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        ValueError("No available memory for the cache blocks. Try increasing `gpu_memory_utilization`"),
        ray.exceptions.RayTaskError(
            "train", "Traceback\nOutOfMemoryError: CUDA out of memory", OutOfMemoryError("CUDA")
        ),
        ray.exceptions.RayActorError(
            error_msg="raised in its creation task\ntorch.OutOfMemoryError: CUDA out of memory"
        ),
    ],
    ids=lambda error: type(error).__name__,
)
def test_device_memory_is_told_apart_and_each_kind_of_worker_has_its_advice(error: Exception) -> None:
    assert "out of memory on the device: lower generate.max_num_seqs" in why(error, "engine")
    assert "lower train.tokens_per_microbatch" in why(error, "trainer", oom_kills=3)


@pytest.mark.parametrize(
    "error", [MemoryError(), OSError(12, "Cannot allocate memory"), RuntimeError("std::bad_alloc")]
)
def test_the_machine_s_memory_is_told_apart(error: Exception) -> None:
    assert "out of memory on the machine: lower grade.processes" in why(error, "grader")


def test_ray_s_own_killing_for_memory() -> None:
    error = ray.exceptions.OutOfMemoryError("Memory on the node was 15.2GB / 16GB, which exceeds the threshold")
    assert why(error, "engine").startswith("Ray ended it, since the machine was short of memory (lower")


def test_a_node_that_is_gone_or_out_of_reach_is_told_apart() -> None:
    gone = ray.exceptions.RayActorError(error_msg="The actor died because its node has died. Node Id: 0xf00")
    cut = ray.exceptions.ActorUnavailableError("RPC error: Socket closed rpc_code: 14", None)
    assert why(gone, "engine") == "the node that it was on is gone" and node_lost(gone)
    assert why(cut, "engine").startswith("it cannot be reached: its process, its node or the way to it") and node_lost(
        cut
    )
    assert not node_lost(ray.exceptions.RayActorError(error_msg=KILLED)) and not node_lost(RuntimeError("no kernel"))


def test_a_killed_process_was_out_of_memory_only_where_the_kernel_says_so() -> None:
    error = ray.exceptions.RayActorError(error_msg=KILLED)
    assert why(error, "trainer") == "its process ended without a word: it crashed or was killed"
    assert "while the machine was out of memory (lower train" in why(error, "trainer", oom_kills=1)
    assert oom_kills() >= 0


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ValueError("unknown architecture\n\n  Foo  \n"), "Foo"),
        (RuntimeError(), "RuntimeError()"),
        (ray.exceptions.RayTaskError("f", "Traceback", KeyError("p7")), "'p7'"),
    ],
)
def test_other_errors_keep_their_own_last_line(error: Exception, words: str) -> None:
    assert why(error, "engine", oom_kills=2) == words


def test_a_culprit_is_narrowed_down_to_one_prompt() -> None:
    prompts, finished = [f"p{i}" for i in range(6)], {"p0"}
    unit = Shard(0, "", 0, 6, "")
    work = Work(unit, unit)
    deaths = 0
    while len(finished) + len(work.quarantined) < len(prompts):
        inside = [p for p in (prompts if work.only is None else work.only) if p not in finished]
        if "p4" in inside:
            deaths += 1
            finished |= set(inside[:1]) - {"p4"} if deaths == 1 else set()
            work.engine_died(prompts, finished)
        else:
            finished |= set(inside)
        work.choose(prompts, finished)
        assert work.exclusive == (deaths > 0)
    assert work.quarantined == ["p4"]
    assert deaths == 3


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_patience_counts_only_the_time_it_has_seen() -> None:
    clock = Clock()
    patience = Patience(interval=5.0, clock=clock)
    assert patience.seconds(1) == 0
    clock.now = 5
    assert patience.seconds(1) == 5
    clock.now = 5000  # the watcher was stopped
    assert patience.seconds(1) == 15
    clock.now = 5005
    assert patience.seconds(2) == 0
    clock.now = 5010
    assert patience.seconds(2) == 5
    patience.rest()
    assert patience.seconds(2) == 0
