"""Processes that hold a reward model as one: each gets a shard after the other, and one that dies or hangs is replaced.
A shard is done again only where it was not finished."""

from __future__ import annotations

import itertools
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import ray

from orchestrator.errors import BadInput, RatchetError
from orchestrator.records.limits import reading_seconds
from orchestrator.records.rewards import RewardPlan, RewardTask
from workers.logs import logged
from workers.reward.worker import Rewarder
from workers.supervision.calls import RAY, Calls
from workers.supervision.failures import node_lost, why
from workers.supervision.kernel import Kills
from workers.supervision.patience import WATCH_SECONDS, Patience, Pulse
from workers.supervision.places import Placement

MOST_DEATHS = 3
"""Workers lost in a row, without a scored shard, before the run gives up."""


class RewardFailed(RatchetError):
    """A worker failed on a shard in a way that another would too, or was lost again and again."""


class RewarderHangs(Exception):
    """A worker has a shard and makes no progress."""


class _RewarderActor(Rewarder):
    @ray.method(concurrency_group="watch")
    def progress(self) -> int:
        """A count that moves while answers are scored."""
        return self.rows


class _Slot:
    """One worker's place: the actor that is there now, and the shard that it has."""

    def __init__(self, index: int, start: Callable[[], Any], interval: float, calls: Calls) -> None:
        self.index, self._start, self._interval, self._calls = index, start, interval, calls
        self.begin()

    def begin(self) -> None:
        self.actor = actor = self._start()
        self.task: RewardTask | None = None
        self.pulse = Pulse(lambda: actor.progress.remote(), self._calls)
        self.patience = Patience(self._interval, self._calls.clock)

    def restart(self) -> RewardTask | None:
        """End the actor and start another; returns the shard that it had."""
        left = self.task
        self._calls.kill(self.actor)
        self.begin()
        return left


class RewardPool:
    """Workers that score by the plan that they are told to `serve`. A context manager: leaving it ends them.

    `limit` is the seconds that one may go without a scored answer, besides the time that loading the model takes. What
    they print goes into the folder `logs`, and `interval` is the seconds between two looks.
    """

    def __init__(
        self,
        placement: Placement,
        limit: float = 300.0,
        interval: float = WATCH_SECONDS,
        logs: str | None = None,
        calls: Calls = RAY,
        kills: Callable[[], Kills] = Kills,
        actor: type[Rewarder] = _RewarderActor,
    ) -> None:
        self._placement, self._limit, self._interval, self._logs = placement, limit, interval, logs
        self._calls, self._look_for_kills, self._actor = calls, kills, actor
        self._plan: RewardPlan | None = None
        self._attempts = itertools.count(1)
        self._slots: list[_Slot] = []
        self._deaths = 0  # in a row, without a scored shard
        self._lost: list[str] = []  # why, since the last scored shard
        self._looked = 0.0

    def __enter__(self) -> RewardPool:
        self._kills = self._look_for_kills()
        for index in range(self._placement.count):
            self._slots.append(_Slot(index, partial(self._start, index), self._interval, self._calls))
        self._kills.wait()
        return self

    def __exit__(self, *_: object) -> None:
        for slot in self._slots:
            self._calls.kill(slot.actor)
        self._slots = []

    def serve(self, plan: RewardPlan) -> None:
        """Score by this plan from now on."""
        self._plan = plan

    def rest(self) -> None:
        """Give back the memory that the model takes on CPU, until there is another shard."""
        for slot in self._slots:
            if slot.task is None:
                slot.actor.rest.remote()

    def score(self, tasks: Sequence[RewardTask]) -> Iterator[tuple[RewardTask, dict[str, Any]]]:
        """As `orchestrator.rounds.sampling.Rewarders.score`. After it the workers rest.

        Raises:
            UnusableModel: the plan's model is no such reward model.
            RewardFailed: a shard cannot be scored, or workers are lost without scoring any.
            NoRoom: nodes were lost, and there is no room for a worker.
        """
        plan = self._plan
        if plan is None:
            raise RuntimeError("no reward model is served")
        for slot in self._slots:
            if slot.task is not None:  # of a call that was given up
                slot.restart()
        limit = self._limit + reading_seconds(plan.model)
        waiting, running = deque(tasks), dict[Any, _Slot]()
        while waiting or running:
            for slot in self._slots:
                if waiting and slot.task is None:
                    running[self._give(slot, plan, waiting.popleft())] = slot
            ready, _ = self._calls.wait(list(running), self._interval)
            for reference in ready:
                slot = running.pop(reference)
                try:
                    facts = self._calls.get(reference)
                except ray.exceptions.RayTaskError as error:
                    raise self._failure(slot, error) from error
                except ray.exceptions.RayError as error:
                    self._replace(slot, error, waiting)
                    continue
                yield self._taken(slot, facts)
            for slot in self._hanging(running, limit):
                running = {reference: other for reference, other in running.items() if other is not slot}
                self._replace(slot, RewarderHangs(f"no answer scored for {limit:g} s (reward.stall_timeout)"), waiting)
        self.rest()

    def _give(self, slot: _Slot, plan: RewardPlan, task: RewardTask) -> Any:
        slot.task = replace(task, attempt=next(self._attempts))
        slot.patience.rest()
        return slot.actor.score.remote(plan, slot.task)

    def _taken(self, slot: _Slot, facts: dict[str, Any]) -> tuple[RewardTask, dict[str, Any]]:
        task, slot.task = slot.task, None
        assert task is not None
        os.replace(task.written, task.output)
        self._deaths = 0
        lost, self._lost = self._lost, []
        return replace(task, attempt=0), facts | ({"rewarders_lost": lost} if lost else {})

    def _hanging(self, running: dict[Any, _Slot], limit: float) -> list[_Slot]:
        """Workers that have used up their time. One whose node is lost waits for a place, and is not to blame."""
        if self._calls.clock() - self._looked < self._interval:
            return []
        self._looked = self._calls.clock()
        placed = self._placement.placed()
        if not any(placed):
            self._placement.wait()
        for slot in self._slots:
            if not placed[slot.index]:
                slot.patience.rest()
        return [slot for slot in running.values() if slot.patience.seconds(slot.pulse.count()) > limit]

    def _replace(self, slot: _Slot, error: Exception, waiting: deque[RewardTask]) -> None:
        """Start another worker, and have its shard come next."""
        self._deaths += not node_lost(error)
        self._lost.append(reason := f"rewarder {slot.index}: {self._why(error)}")
        if self._deaths >= MOST_DEATHS:
            raise RewardFailed(
                f"a worker with the reward model was lost {MOST_DEATHS} times in a row without scoring a shard; the "
                f"last time, {reason}"
            ) from error
        if (left := slot.restart()) is not None:
            waiting.appendleft(replace(left, attempt=0))

    def _failure(self, slot: _Slot, error: Exception) -> Exception:
        if isinstance(cause := getattr(error, "cause", None), BadInput):
            return cause
        samples = slot.task.samples if slot.task else "a shard"
        return RewardFailed(f"scoring {samples} failed: {self._why(error)}")

    def _why(self, error: Exception) -> str:
        return why(error, "rewarder", self._kills.since(error))

    def _start(self, index: int) -> Any:
        log = self._logs and f"{self._logs}/rewarder-{index}.log"
        options = self._placement.actor_options(index) | {"max_restarts": 0, "max_task_retries": 0}
        arguments = (*([log] if log else []), "cuda" if self._placement.gpus else "cpu")
        return self._calls.start(logged(self._actor, log), arguments, options, watched=True)
