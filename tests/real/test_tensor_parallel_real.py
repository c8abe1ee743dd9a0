"""One engine that is spread over two processes, in a bundle of a placement group as a run reserves it."""

from __future__ import annotations

import os
from pathlib import Path

import psutil
import pytest

from orchestrator import config
from orchestrator.config import Generate
from orchestrator.driver.cluster import Cluster
from orchestrator.errors import BadInput
from tests.support.real import in_own_process
from workers.generation.vllm import VLLM

pytestmark = pytest.mark.full

DEMO = Path(__file__).parents[2] / "jobs/demo"


def test_an_engine_of_two_ranks_gives_the_log_probabilities_of_one(tmp_path: Path) -> None:
    assert in_own_process(compared, tmp_path) == "as one"


def compared(folder: str) -> None:
    with Cluster(config.Cluster(), Path(folder) / "logs", VLLM.loopback) as cluster:
        with pytest.raises(BadInput, match=r"Lower generate.tensor_parallel to at most 1"):
            cluster.check_room("generate.engines", 1, 1, 2)
        one, two = (logprobs(cluster, ranks) for ranks in (1, 2))
    assert all(abs(a - b) < 0.01 for a, b in zip(one, two, strict=True)), (one, two)
    print("as one")


def logprobs(cluster: Cluster, ranks: int) -> list[float]:
    from workers.generation.pool import GeneratorPool  # which imports Ray

    settings = Generate(max_num_seqs=4, tensor_parallel=ranks)
    with (
        cluster.reserve("generate.engines", 1, 1, 0) as placement,
        GeneratorPool(str(DEMO / "base"), settings, 5, placement, VLLM) as pool,
    ):
        pool.wait_ready()
        titles = [p.name() for p in psutil.Process(os.getpid()).children(recursive=True)]
        [found] = pool.logprobs([[5, 6, 7], [8, 9]], [[10, 11], [12, 13, 14]])
    assert sum(title.startswith(VLLM.process_title) for title in titles) == (ranks if ranks > 1 else 0), titles
    return [value for value in found if value is not None]
