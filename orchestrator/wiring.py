"""The composition root: the one file that knows both the loop and the workers.

Devices are shared and the phases take turns on them, so asking for trainers ends the engines and the
other way round. A pool that serves the wanted model already is kept: the engines that evaluated a
candidate go on to sample the next round from it.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from orchestrator.cluster import Cluster
from orchestrator.config import Job
from orchestrator.records import Problem, TokenizingPlan
from orchestrator.run import Facts


class RealWorkers:
    """Ray, vLLM and DeepSpeed. Nothing is started before it is needed: a finished run needs none of it."""

    def __init__(self, job: Job, logs: Path) -> None:
        self._job = job
        self._cluster = Cluster(job.cluster, logs)
        self._connected: Cluster | None = None
        self._everything = contextlib.ExitStack()
        self._devices = contextlib.ExitStack()
        self._graders: Any = None
        self._pool: Any = None
        self._group: Any = None

    def __enter__(self) -> RealWorkers:
        return self

    def __exit__(self, *error: Any) -> None:
        try:
            self._devices.__exit__(*error)
        finally:
            self._everything.__exit__(*error)

    @property
    def cluster(self) -> Cluster:
        if self._connected is None:
            self._connected = self._everything.enter_context(self._cluster)
        return self._connected

    def tokenize(self, problems: list[Problem], plan: TokenizingPlan, output: str) -> Facts:
        from workers.tokenizing import tokenize

        facts: Facts = self.cluster.call(tokenize, problems, plan, output)
        return facts

    def engines(self, model: str) -> Any:
        if self._pool is None or self._pool.model != model:
            self._release()
            settings, cluster = self._job.generate, self.cluster
            from workers.generator_pool import GeneratorPool

            gpus = settings.tensor_parallel if cluster.accelerated else 0
            cpus = cluster.cpus_for(settings.engines, self._job.cluster.cpus_per_engine, gpus)
            placement = self._devices.enter_context(cluster.reserve("generate.engines", settings.engines, cpus, gpus))
            self._pool = self._devices.enter_context(GeneratorPool(model, settings, self._job.seed, placement))
            self._pool.wait_ready()
        return self._pool

    def graders(self) -> Any:
        if self._graders is None:
            self.cluster  # noqa: B018  # connected before Ray is imported
            from workers.grader_group import GraderGroup

            self._graders = self._everything.enter_context(GraderGroup(self._job.grade))
        return self._graders

    def trainers(self) -> Any:
        if self._group is None:
            self._release()
            settings, cluster = self._job.train, self.cluster
            from workers.trainer_group import TrainerGroup

            gpus = 1 if cluster.accelerated else 0
            cpus = cluster.cpus_for(settings.ranks, self._job.cluster.cpus_per_rank, gpus)
            placement = self._devices.enter_context(cluster.reserve("train.ranks", settings.ranks, cpus, gpus))
            self._group = self._devices.enter_context(TrainerGroup(settings, placement))
        return self._group

    def _release(self) -> None:
        """End whoever holds the devices; a process that is gone has freed its memory for certain."""
        self._devices.close()
        self._pool = self._group = None
