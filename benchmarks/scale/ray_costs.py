"""What calls of Ray take its caller: `python -m benchmarks.scale.ray_costs`. On a Ray of this machine's own, in
microseconds a call: of the calling thread's processor, and by the clock."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import ray

OPEN = 1000  # references that are not answered
TIMES = 500


class Worker:
    """An actor."""

    def answer(self) -> int:
        return 1

    def keep(self) -> None:
        time.sleep(3600)


def measure(what: str, work: Callable[[], Any], times: int) -> None:
    cpu, clock = time.thread_time(), time.perf_counter()
    for _ in range(times):
        work()
    cpu, clock = time.thread_time() - cpu, time.perf_counter() - clock
    print(f"{what:<32}{1e6 * cpu / times:>10.1f}{1e6 * clock / times:>10.1f}")


def main() -> None:
    """Measure on a private Ray."""
    ray.init(address="local", include_dashboard=False, log_to_driver=False, num_cpus=2)
    try:
        kind = ray.remote(Worker)
        quick, slow = kind.options(num_cpus=0).remote(), kind.options(num_cpus=0, max_concurrency=2 * OPEN).remote()
        ray.get([quick.answer.remote(), slow.answer.remote()])
        kept = [slow.keep.remote() for _ in range(OPEN)]
        print(f"{'microseconds':<32}{'processor':>10}{'clock':>10}")
        for count in (10, OPEN):
            measure(f"wait for {count} references", lambda count=count: ray.wait(kept[:count], timeout=0), 20)
        answers: list[Any] = []
        measure("submit a call", lambda: answers.append(quick.answer.remote()), TIMES)
        ray.wait(answers, num_returns=TIMES)
        measure("fetch an answer", lambda: ray.get(answers.pop()), TIMES)
        ray.kill(slow)
    finally:
        ray.shutdown()


if __name__ == "__main__":
    main()
