"""The grader actor: killed, stopped and dying, under a real Ray."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray

from orchestrator.config import Grade
from orchestrator.records.rows import SAMPLES, Shard
from tests.support.local_ray import local_ray
from workers.files import write_table
from workers.grading.group import GraderGroup, GradingFailed
from workers.grading.pool import GraderActor

pytestmark = pytest.mark.real  # its limits are seconds, which starting Ray's processes may take on a full machine

INTERVAL = 0.2  # seconds between two looks at the actor
SETTINGS = Grade(processes=1, graders=["exact"], timeout=0.5)


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    with local_ray():
        yield


class DyingActor(GraderActor):
    def grade_shard(self, shard: Shard, golds: dict[str, str]) -> dict[str, Any]:
        os._exit(1)


def shards_of(folder: Path, count: int) -> list[Shard]:
    """Shards of two samples each, one right and one wrong."""
    found = []
    for index in range(count):
        rows = [
            {"prompt_id": "p", "sample_index": i, "text": f"Final answer: {7 + i}", "token_ids": [1]}
            | {"finish_reason": "stop", "num_tokens": 1}
            for i in range(2)
        ]
        source = folder / f"samples-{index}.parquet"
        write_table(pa.Table.from_pylist(rows, SAMPLES), source)
        found.append(Shard(index, str(source), 0, 2, str(folder / f"verdicts-{index}.parquet")))
    return found


@pytest.mark.parametrize(
    ("how", "stall_seconds", "said"),  # not less: the actor that comes next may take seconds to start
    [
        pytest.param(signal.SIGKILL, 60, "its process", id="killed"),
        pytest.param(signal.SIGSTOP, 10, "no verdict for 12 s", id="stopped", marks=pytest.mark.full),
    ],
)
def test_a_grader_that_is_lost_is_replaced_and_no_verdict_with_it(
    tmp_path: Path, how: signal.Signals, stall_seconds: float, said: str
) -> None:
    shards = shards_of(tmp_path, 4)
    with GraderGroup(SETTINGS, stall_seconds=stall_seconds, interval=INTERVAL) as group:
        group.submit(shards[0], {"p": "7"})
        done = list(group.drain())
        process = psutil.Process(ray.get(group._actor.__ray_call__.remote(lambda _: os.getpid())))
        process.send_signal(how)
        for shard in shards[1:]:
            group.submit(shard, {"p": "7"})
        done += group.finished()
        done += group.drain()
        psutil.wait_procs([process], timeout=30)
        assert not process.is_running()
    assert sorted(shard.index for shard, _ in done) == [0, 1, 2, 3]
    assert all(facts["correct"] == facts["wrong"] == 1 for _, facts in done)
    assert all(pq.read_metadata(shard.output).num_rows == 2 for shard in shards)
    [lost] = [reason for _, facts in done for reason in facts.get("graders_lost", [])]
    assert said in lost


def test_a_grader_that_always_dies_ends_the_run(tmp_path: Path) -> None:
    [shard] = shards_of(tmp_path, 1)
    with GraderGroup(SETTINGS, interval=INTERVAL, actor=DyingActor) as group:
        group.submit(shard, {"p": "7"})
        with pytest.raises(GradingFailed, match="lost 3 times in a row"):
            list(group.drain())


def test_a_shard_that_cannot_be_graded_ends_the_run_with_the_grader_s_words(tmp_path: Path) -> None:
    [shard] = shards_of(tmp_path, 1)
    with GraderGroup(SETTINGS, interval=INTERVAL) as group:
        group.submit(shard, {})
        with pytest.raises(GradingFailed, match=r"samples-0.*no gold answer was given for prompt 'p'"):
            list(group.drain())
