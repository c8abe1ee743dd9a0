"""Grading in a Ray actor of its own: shards in, verdict files out, beside the engines."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import ray

from orchestrator.config import Grade
from orchestrator.errors import RatchetError
from orchestrator.records import Shard
from workers.grader_pool import GraderActor


class GradingFailed(RatchetError):
    """The grader actor failed on a shard; a single answer never does that."""


class GraderGroup:
    """Driver's side of the grader actor. A context manager: leaving it ends the actor and its processes."""

    def __init__(self, settings: Grade) -> None:
        self._settings = settings
        self._running: dict[Any, Shard] = {}

    def __enter__(self) -> GraderGroup:
        # A shard can be graded twice without harm, so Ray may start the actor and its calls again.
        options = {"num_cpus": 0, "max_restarts": 3, "max_task_retries": 3}
        self._actor = ray.remote(_NiceGraderActor).options(**options).remote(self._settings)
        return self

    def __exit__(self, *_: object) -> None:
        ray.kill(self._actor)
        self._running.clear()

    def submit(self, shard: Shard, golds: dict[str, str]) -> None:
        self._running[self._actor.grade_shard.remote(shard, golds)] = shard

    def finished(self) -> list[tuple[Shard, dict[str, Any]]]:
        """Shards that are graded by now, with their facts."""
        if not self._running:
            return []
        done, _ = ray.wait(list(self._running), num_returns=len(self._running), timeout=0)
        return [self._take(reference) for reference in done]

    def drain(self) -> Iterator[tuple[Shard, dict[str, Any]]]:
        """All shards that were submitted, as they are graded."""
        while self._running:
            [reference], _ = ray.wait(list(self._running), num_returns=1)
            yield self._take(reference)

    def _take(self, reference: Any) -> tuple[Shard, dict[str, Any]]:
        shard = self._running.pop(reference)
        try:
            return shard, ray.get(reference)
        except ray.exceptions.RayError as error:
            lines = str(getattr(error, "cause", None) or error).strip().splitlines()
            raise GradingFailed(f"grading {shard.source} failed: {lines[-1] if lines else error!r}") from error


class _NiceGraderActor(GraderActor):
    """Graders give way to the engines they share cores with."""

    def __init__(self, settings: Grade) -> None:
        os.nice(10)
        super().__init__(settings)
