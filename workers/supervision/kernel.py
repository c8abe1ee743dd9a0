"""Whether the kernel has killed processes for want of memory on the node where a worker was lost. Of a process that is
killed Ray only tells that it ended, and where; each node's kernel counts what it has killed."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from workers.supervision.failures import oom_kills, wordless

_ANSWER_SECONDS = 30.0  # a node that is short of memory is slow
_ADDRESS = re.compile(r"^\s*ip: (\S+)$", re.MULTILINE)  # as the text of Ray's ActorDiedError has it


@ray.remote
def _counted(count: Callable[[], int]) -> int:
    return count()


class Kills:
    """What the kernels of all nodes have killed, from now on: on other nodes from `wait` on. `count` is run on a node,
    and counts up; `here` is the id of the node that needs no task to be asked (the driver's own)."""

    def __init__(self, count: Callable[[], int] = oom_kills, here: str | None = None) -> None:
        self._count = count
        self._here = ray.get_runtime_context().get_node_id() if here is None else here
        # Not waited for yet: the workers start meanwhile.
        self._before = {node["NodeID"]: self._ask(node["NodeID"]) for node in ray.nodes() if node["Alive"]}
        self._last: tuple[BaseException | None, int] = (None, 0)

    def wait(self) -> None:
        """Return when every node has told what it had killed so far, or had its time to. To be called before work is
        given out: a count that comes after a death would have that death in it."""
        if asked := [count for count in self._before.values() if isinstance(count, ray.ObjectRef)]:
            ray.wait(asked, num_returns=len(asked), timeout=_ANSWER_SECONDS)

    def since(self, error: BaseException) -> int:
        """How many were killed since the start, or since the last other error, on the node that Ray's `error` is
        about: on the driver's own where it names none, and 0 where the node does not tell. An error that has a word of
        its own was no killing."""
        if not wordless(error):
            return 0
        if self._last[0] is not error:
            self._last = (error, sum(map(self._more, self._nodes_of(error))))
        return self._last[1]

    def _nodes_of(self, error: BaseException) -> list[str]:
        named = _ADDRESS.search(str(error))
        if named is None:
            return [self._here]
        return [node["NodeID"] for node in ray.nodes() if node["Alive"] and node["NodeManagerAddress"] == named[1]]

    def _more(self, node: str) -> int:
        before, now = self._answer(self._before.get(node)), self._answer(asked := self._ask(node))
        self._before[node] = asked
        return now - before if now is not None and before is not None else 0

    def _ask(self, node: str) -> Any:
        if node == self._here:
            return self._count()
        there = NodeAffinitySchedulingStrategy(node, soft=False)
        return _counted.options(num_cpus=0, max_retries=0, scheduling_strategy=there).remote(self._count)

    @staticmethod
    def _answer(asked: Any) -> int | None:
        if asked is None or isinstance(asked, int):
            return asked
        try:
            return int(ray.get(asked, timeout=_ANSWER_SECONDS))
        except ray.exceptions.RayError:  # the node is gone, or has no room for another process
            return None
