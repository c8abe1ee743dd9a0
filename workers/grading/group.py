"""Grading in a Ray actor of its own: shards in, verdict files out, beside the engines."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import ray

from orchestrator.config import Grade, Judge
from orchestrator.errors import RatchetError
from orchestrator.records.rows import Shard
from workers.grading.pool import GraderActor
from workers.logs import logged
from workers.supervision.calls import RAY, Calls
from workers.supervision.failures import why
from workers.supervision.kernel import Kills
from workers.supervision.patience import WATCH_SECONDS, Patience, Pulse

MOST_DEATHS = 3
"""Grader actors lost in a row, without one graded shard, before the run gives up."""
STALL_SECONDS = 300.0
"""How long the actor may go without a verdict, besides the time that a single answer is given."""


class GradingFailed(RatchetError):
    """The grader actor failed on a shard, or was lost again and again; a single answer never does that."""


class _NiceGraderActor(GraderActor):
    """Graders give way to the engines they share cores with."""

    def __init__(self, settings: Grade, judge: Judge | None = None, cache: str | None = None) -> None:
        os.nice(10)
        super().__init__(settings, judge, cache)

    @ray.method(concurrency_group="watch")
    def progress(self) -> int:
        return super().progress()


class GraderGroup:
    """Driver's side of the grader actor. A context manager: leaving it ends the actor and its processes.

    An actor that dies, or that has shards and gives no verdict for `stall_seconds` and the time of an answer, is
    replaced and gets its unfinished shards again. `graders_lost` in a shard's facts tells why that was necessary, if
    it was. `judge`, and the folder `cache` for its answers, are for the grader of that name; what the actor prints
    goes into the file `log`; `waiting` is around each wait for the last of the shards. Every method raises
    GradingFailed when a shard cannot be graded.
    """

    def __init__(
        self,
        settings: Grade,
        stall_seconds: float = STALL_SECONDS,
        interval: float = WATCH_SECONDS,
        actor: type[GraderActor] = _NiceGraderActor,
        judge: Judge | None = None,
        cache: str | None = None,
        log: str | None = None,
        calls: Calls = RAY,
        kills: Callable[[], Kills] = Kills,
        waiting: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        self._calls, self._look_for_kills, self._waiting = calls, kills, waiting
        self._settings, self._judge, self._cache = settings, judge, cache
        self._log = log
        # An answer is looked for and judged, each a second time where an earlier one may be to blame for a death.
        self._limit = stall_seconds + 4 * settings.timeout
        if judge is not None and "judge" in settings.graders:  # so may each of some questions be asked again
            self._limit += (judge.retries + 1) * (judge.timeout + 60)
        self._interval = interval
        self._class = actor
        self._running: dict[Any, tuple[Shard, dict[str, str]]] = {}
        self._attempts = itertools.count(1)
        self._deaths = 0  # in a row, without a graded shard
        self._lost: list[str] = []  # why, since the last graded shard

    def __enter__(self) -> GraderGroup:
        self._kills = self._look_for_kills()
        self._start()
        self._kills.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._calls.kill(self._actor)
        self._running.clear()

    def submit(self, shard: Shard, golds: dict[str, str]) -> None:
        if not self._running:
            self._patience.rest()
        sent = replace(shard, attempt=next(self._attempts))
        self._running[self._actor.grade_shard.remote(sent, golds)] = (sent, golds)

    def finished(self) -> list[tuple[Shard, dict[str, Any]]]:
        """Shards that are graded by now, with their facts."""
        return self._take(0)

    def drain(self) -> Iterator[tuple[Shard, dict[str, Any]]]:
        """All shards that were submitted, as they are graded."""
        with self._waiting() if self._running else nullcontext():
            while self._running:
                yield from self._take(self._interval)
                if self._running and self._patience.seconds(self._pulse.count()) > self._limit:
                    self._replace(TimeoutError(f"no verdict for {self._limit:g} s"))

    def _start(self) -> None:
        # A shard can be graded twice without harm; that it is, is for this class to see to.
        options = {"num_cpus": 0, "max_restarts": 0, "max_task_retries": 0}
        before = [self._log] if self._log else []
        arguments = (*before, self._settings, self._judge, self._cache)
        self._actor = started = self._calls.start(logged(self._class, self._log), arguments, options, watched=True)
        self._pulse = Pulse(lambda: started.progress.remote(), self._calls)
        self._patience = Patience(self._interval, self._calls.clock)

    def _take(self, seconds: float) -> list[tuple[Shard, dict[str, Any]]]:
        """What is graded by now; where nothing is, what is graded first within so many seconds."""
        if not self._running:
            return []
        self._calls.wait(list(self._running), seconds)
        done, _ = self._calls.wait(list(self._running), 0, len(self._running))
        taken: list[tuple[Shard, dict[str, Any]]] = []
        for reference in done:
            shard, _ = self._running[reference]
            try:
                facts = self._calls.get(reference)
            except ray.exceptions.RayTaskError as error:
                raise GradingFailed(f"grading {shard.source} failed: {self._why(error)}") from error
            except ray.exceptions.RayError as error:
                self._replace(error)
                break  # the other references are the dead actor's
            del self._running[reference]
            os.replace(shard.written, shard.output)
            self._deaths = 0
            lost, self._lost = self._lost, []
            taken.append((replace(shard, attempt=0), facts | ({"graders_lost": lost} if lost else {})))
        return taken

    def _replace(self, error: Exception) -> None:
        """Start another actor and give it the shards that are not graded."""
        self._deaths += 1
        self._lost.append(reason := self._why(error))
        if self._deaths == MOST_DEATHS:
            raise GradingFailed(f"the grader was lost {MOST_DEATHS} times in a row; the last time, {reason}") from error
        self._calls.kill(self._actor)
        unfinished, self._running = list(self._running.values()), {}
        self._start()
        for shard, golds in unfinished:
            self.submit(shard, golds)

    def _why(self, error: Exception) -> str:
        return why(error, "grader", self._kills.since(error))
