"""The driver's side of training: a group of rank actors, started when needed and ended with the phase."""

from __future__ import annotations

import os
import socket
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from types import TracebackType
from typing import Any, TypeVar

import pyarrow as pa
import ray

from orchestrator.config import Train
from orchestrator.records import counts
from orchestrator.records.rows import REFERENCE, ScoringPlan, TrainingPlan
from workers.files import write_table
from workers.logs import at_work, logged
from workers.secret_environment import knowing
from workers.supervision.calls import RAY, Calls
from workers.supervision.failures import node_lost, short_of_memory, why
from workers.supervision.kernel import Kills
from workers.supervision.named_devices import name_devices
from workers.supervision.patience import WATCH_SECONDS, Patience, Pulse
from workers.supervision.places import Placement
from workers.supervision.rested import after_rest, answering, of_devices
from workers.supervision.resting import Kept
from workers.training import network
from workers.training.attempts import Attempts
from workers.training.device import require_device
from workers.training.lost import Halving, NodeLost, OutOfMemory, RanksLost, TrainingFailed

T = TypeVar("T")

MOST_LOSSES = 3
"""How often the ranks may be lost with no saved state in between."""
NODE_LOSS_SECONDS = 60.0
"""How long ranks that failed are asked whether they still live."""
_NODE_LOST = "training: a node was lost while the ranks started"
START_SECONDS = 1800.0
"""How long ranks may take to start: they load libraries, and nothing of that counts as progress."""


class _Rank:
    """A Ray actor around workers.training.rank.Trainer, which is imported in the actor's process only."""

    def __init__(self, settings: dict[str, Any], rank: int, ranks: int) -> None:
        self.devices = name_devices(os.environ)
        from workers.training.rank import Trainer

        self.trainer = Trainer(Train.model_validate(settings), rank, ranks)

    def rendezvous(self) -> str:
        """Where the ranks find each other: at this node's address and a free port; on a private Ray in a file, since
        torch listens there on all addresses of the host."""
        if folder := os.environ.get("RATCHET_RENDEZVOUS"):  # set by orchestrator.driver.cluster
            return f"file://{folder}/ranks-{uuid.uuid4().hex}"
        host = ray.util.get_node_ip_address()
        with socket.socket() as probe:
            probe.bind((host, 0))
            return f"tcp://{host}:{probe.getsockname()[1]}"

    @ray.method(concurrency_group="watch")
    def beats(self) -> int:
        return self.trainer.beats

    def prepare(self) -> None:
        self.trainer.prepare()

    def rest(self) -> Kept:
        return self.trainer.rest()

    def connect(self, rendezvous: str) -> int:
        self._require_device()
        network.bind(os.environ, ray.util.get_node_ip_address())
        self.trainer.connect(rendezvous)
        return os.getpid()

    def _require_device(self) -> None:
        import torch

        granted = ray.get_gpu_ids() or self.devices
        require_device(granted, os.environ, torch.cuda.is_available(), torch.__version__)

    def reference_logprobs(self, plan: ScoringPlan) -> list[tuple[str, float, int]]:
        with at_work(os.path.dirname(plan.output)):
            return self.trainer.reference_logprobs(plan)

    def preference_facts(
        self, plan: ScoringPlan, logprobs: dict[str, float], reference_file: str | None
    ) -> dict[str, float]:
        return self.trainer.preference_facts(plan, logprobs, reference_file)

    def train(self, plan: TrainingPlan, reference_file: str | None) -> Any:
        with at_work(os.path.dirname(plan.metrics_file)):
            yield from self.trainer.train(plan, reference_file)

    def follow(self, plan: TrainingPlan, reference_file: str | None) -> None:
        for _ in self.train(plan, reference_file):
            pass


class TrainerGroup:
    """`settings.num_ranks` training actors. A context manager; `close` ends the actors' processes.

    `secrets` are in the ranks' environment; `rank` is the class of the actors, `starting` is around their start,
    `kills` begins to watch the kernels of the nodes, and what ranks print goes into the folder `logs`. Where a rank
    dies, or none of them makes any progress for `settings.stall_timeout` seconds, all are started again: scoring from
    its beginning, training from its last saved state; where memory was short, once with half the micro-batch
    (`halving`). Where a node is lost, they wait for room first. Every method raises TrainingFailed when a rank fails by
    itself, or when the ranks were lost MOST_LOSSES times with no saved state in between, and NoRoom where the cluster
    has no room for them any more.
    """

    def __init__(
        self,
        settings: Train,
        placement: Placement,
        halving: Halving | None = None,
        rank: type = _Rank,
        kills: Callable[[], Kills] = Kills,
        secrets: Mapping[str, str] | None = None,
        logs: str | None = None,
        say: Callable[[str], None] = lambda line: None,
        calls: Calls = RAY,
        starting: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        self.settings, self._calls = settings, calls
        self._logs, self._say, self._around_start = logs, say, starting
        self._rested = self._prepared = self._connected = False
        self.ended = ""
        """Whose processes were ended after the last rest, and why; empty where they stayed."""
        self._halving = halving or Halving(settings)
        self._rank, self._look_for_kills = rank, kills
        self.placement = placement
        self._secrets = secrets or {}
        self.pids: list[int] = []
        """Process ids of the running ranks, in order."""
        self._actors: list[Any] = []
        self._pulses: list[Pulse] = []
        self._kills: Kills | None = None  # since the ranks were started
        self._began = 0  # first update that this attempt at a training has done
        self._start_seconds = 0.0  # seconds that the ranks have taken to be there, for the work under way

    def __enter__(self) -> TrainerGroup:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def prepare(self) -> None:
        """Begin to start the ranks' processes, which load their libraries and rest; nothing waits for them."""
        self._hire()
        self._prepared = True
        for actor in self._actors:
            actor.prepare.remote()

    def rest(self) -> None:
        """Give the devices back until more is asked of the ranks. Their processes stay, unless one does not give its
        memory back: then all are ended, which is told."""
        if self._prepared:  # they have only libraries
            return
        kept = after_rest(self._calls, [actor.rest.remote() for actor in self._actors])
        self._rested, self._prepared = True, bool(self._actors and self.placement.gpus)  # there they connect anew
        if devices := of_devices(kept):
            self._say(f"memory    ranks keep {devices} while they rest")
        ended = [f"training rank {rank} {words}" for rank, words in enumerate(kept) if isinstance(words, str)]
        self.ended = f"{ended[0]}: the processes of the ranks are ended" if ended else ""
        if ended:
            self.close()
            self._say(f"memory    {self.ended}")

    def close(self) -> None:
        """End the actors; their processes and memory are gone soon after."""
        actors, self._actors, self._pulses, self.pids = self._actors, [], [], []
        self._prepared = False
        for actor in actors:
            self._calls.kill(actor)

    def score(self, plan: ScoringPlan, out_file: str, against: str | None = None) -> dict[str, Any]:
        """Score each distinct completion of the pairs once under `plan.model`; write schema REFERENCE.

        The facts also tell how that model ranks the pairs (counts.preferences); `against` is the file of
        another model's log-probabilities that it is compared with.
        """
        started, plan = time.perf_counter(), replace(plan, output=out_file)
        (rows, ranking), restarts = self._persist(lambda: self._scored(plan, against), plan.pairs)
        keys, logprobs, lengths = zip(*rows, strict=True)
        write_table(pa.table([list(keys), list(logprobs), list(lengths)], schema=REFERENCE), out_file)
        seconds = time.perf_counter() - started
        return counts.scored(lengths) | {"restarts": restarts} | ranking | {"seconds": seconds} | self._started()

    def _scored(self, plan: ScoringPlan, against: str | None) -> tuple[list[tuple[str, float, int]], dict[str, float]]:
        shares = self._gather([actor.reference_logprobs.remote(plan) for actor in self._actors])
        rows = sorted(row for share in shares for row in share)
        logprobs = {key: logprob for key, logprob, _ in rows}
        [ranking] = self._gather([self._actors[0].preference_facts.remote(plan, logprobs, against)])
        return rows, ranking

    def train(
        self, plan: TrainingPlan, reference_file: str | None, on_step: Callable[[dict[str, Any]], None] | None = None
    ) -> dict[str, Any]:
        """Train, and write metrics, probe and checkpoint; `on_step` gets each update's metrics as it ends (again, where
        the ranks were lost after it), with the number of all `updates`. The facts tell how often they were started
        again (`restarts`)."""
        attempts = Attempts(plan)
        try:
            facts, restarts = self._persist(lambda: self._train(attempts.next(), reference_file, on_step), plan.pairs)
            attempts.publish()
        finally:
            attempts.remove()
        return dict(facts) | {"restarts": restarts} | self._started()

    def _started(self) -> dict[str, float]:
        """How long the ranks took to be there, as a fact."""
        return {"starting": round(self._start_seconds, 3)}

    def _train(
        self, plan: TrainingPlan, reference_file: str | None, on_step: Callable[[dict[str, Any]], None] | None
    ) -> dict[str, Any]:
        leader = self._actors[0].train.options(num_returns="streaming").remote(plan, reference_file)
        followers = [actor.follow.remote(plan, reference_file) for actor in self._actors[1:]]
        facts: dict[str, Any] = {}
        waiting: list[Any] = [leader, *followers]
        while waiting:
            ready = self._wait(waiting)
            if ready is not leader:
                self._get(ready, 1 + followers.index(ready))
                waiting.remove(ready)
                continue
            try:
                kind, row = self._get(next(leader), 0)
            except StopIteration:
                waiting.remove(leader)
                continue
            if kind == "facts":
                facts = row
                continue
            self._began = self._began or row["step"]
            if on_step is not None:
                on_step(row)
        return facts

    def _persist(self, work: Callable[[], T], pairs: Sequence[str] = ()) -> tuple[T, int]:
        """The result of collective work on files of pairs, and how often the ranks had to be started again for it."""
        restarts = losses = began = 0
        self._start_seconds = 0.0
        while True:
            self._began, asked = 0, self._calls.clock()
            try:
                self._start()
                self._start_seconds += self._calls.clock() - asked
                return work(), restarts
            except NodeLost:  # they had not begun, and wait for room first
                self.close()
            except OutOfMemory as short:
                self.close()
                restarts += 1
                self._halving.halve(short, pairs)
            except RanksLost as lost:
                self.close()
                restarts += 1
                # Only a later saved state is progress: it may be by chance that one attempt gets further than another.
                losses = 1 if self._began > began else losses + 1
                began = max(began, self._began)
                if losses == MOST_LOSSES:
                    raise TrainingFailed(f"{lost}: {losses} times with no saved state in between") from lost

    def each(self, function: Callable[[Any], Any]) -> list[Any]:
        """What `function(trainer)` returns on each rank, in order; it runs in the rank's process."""
        return self._persist(lambda: self._each(function))[0]

    def _each(self, function: Callable[[Any], Any]) -> list[Any]:
        return self._gather([actor.__ray_call__.remote(_on_trainer, function) for actor in self._actors])

    def _start(self) -> None:
        rested, self._rested = self._rested, False
        if rested or self._prepared:
            answers = answering(self._calls, [actor.beats.remote() for actor in self._actors])
            if not all(answer or (answer is None and not rested) for answer in answers):
                self.close()  # one has died while it rested, and nothing is lost by that
        if self._actors and rested:
            self._kills = self._look_for_kills()  # what others lost meanwhile does not count
            self._kills.wait()
        if self._actors and not self._prepared:
            return
        if not self._prepared:
            self.placement.wait()
            self._hire()
        self._prepared = self._connected = False
        with self._around_start():
            [place] = self._gather([self._actors[0].rendezvous.remote()], limit=START_SECONDS)
            self.pids = self._gather([a.connect.remote(place) for a in self._actors], limit=START_SECONDS)
        self._connected = True
        assert self._kills is not None  # `_hire` looks for them
        self._kills.wait()

    def _hire(self) -> None:
        executed = self.settings.model_copy(update={"tokens_per_microbatch": self._halving.tokens})
        settings, self._kills = executed.model_dump(mode="json"), self._look_for_kills()
        ranks = self.settings.num_ranks
        for rank in range(ranks):
            options = _with_environment(self.placement.actor_options(rank), self.placement.gpus > 0)
            log = self._logs and f"{self._logs}/rank-{rank}.log"
            kind = logged(knowing(self._rank, self._secrets), log)
            before = [*([log] if log else []), *([self._secrets] if self._secrets else [])]
            arguments = (*before, settings, rank, ranks)
            self._actors.append(self._calls.start(kind, arguments, options, watched=True))
        self._pulses = [Pulse(actor.beats.remote, self._calls) for actor in self._actors]

    def _gather(self, refs: Sequence[Any], limit: float | None = None) -> list[Any]:
        """Results of one call a rank, in order; the first failure of any rank ends all."""
        waiting, results = list(refs), {}
        while waiting:
            ready = self._wait(waiting, limit)
            waiting.remove(ready)
            results[ready] = self._get(ready, refs.index(ready))
        return [results[ref] for ref in refs]

    def _wait(self, refs: Sequence[Any], limit: float | None = None) -> Any:
        """The first of the calls that is answered.

        Raises RanksLost when no rank made any progress for `limit` seconds (default: `stall_timeout`).
        """
        starting, limit = limit is not None, limit or self.settings.stall_timeout
        patience = Patience(clock=self._calls.clock)
        while True:
            ready, _ = self._calls.wait(refs, timeout=WATCH_SECONDS)
            if ready:
                return ready[0]
            if starting and not all(self.placement.placed()):  # Ray waits for another node, as long as it takes
                self.close()
                raise NodeLost(_NODE_LOST)
            if patience.seconds([pulse.count() for pulse in self._pulses]) > limit:
                self.close()
                raise RanksLost(f"training: no rank made progress for {limit:.0f} s (train.stall_timeout)")

    def _get(self, ref: Any, rank: int) -> Any:
        try:
            return self._calls.get(ref)
        except ray.exceptions.RayTaskError as error:
            # Where a peer died, the others fail at talking to it, and often are heard first.
            dead = self._dead()
            self.close()
            if dead is not None:
                raise dead from error
            cause = error.cause if error.cause is not None else error
            words = f"training rank {rank}: {type(cause).__name__}: {why(error, 'trainer')}"
            raise (OutOfMemory if short_of_memory(error) else TrainingFailed)(words) from error
        except ray.exceptions.RayError as error:
            if not self._connected and node_lost(error):  # Ray had thought the node alive
                self.close()
                raise NodeLost(_NODE_LOST) from error
            dead = self._death(rank, error)
            self.close()
            raise dead from error

    def _dead(self) -> RanksLost | None:
        """Which rank's process is gone, and why; None where all are there. Living ranks answer at once, while it can
        take Ray a while to find out that a whole node is gone."""
        asked = [actor.beats.remote() for actor in self._actors]
        answered, _ = self._calls.wait(asked, NODE_LOSS_SECONDS, len(asked))
        for rank, ref in enumerate(asked):
            if ref in answered:
                try:
                    self._calls.get(ref)
                except ray.exceptions.RayError as error:
                    return self._death(rank, error)
        return None

    def _death(self, rank: int, error: Exception) -> RanksLost:
        kills = self._kills.since(error) if self._kills else 0
        kind = OutOfMemory if short_of_memory(error, kills) else RanksLost
        return kind(f"training rank {rank} died: {why(error, 'trainer', kills)}")


def _on_trainer(rank: _Rank, function: Callable[[Any], Any]) -> Any:
    return function(rank.trainer)


def _with_environment(options: dict[str, Any], accelerated: bool) -> dict[str, Any]:
    """Actor options with the variables a rank needs; what the placement sets wins."""
    environment = {"OMP_NUM_THREADS": str(max(1, int(options.get("num_cpus") or 1)))}
    if not accelerated:
        environment["DS_ACCELERATOR"] = "cpu"
    runtime = dict(options.get("runtime_env") or {})
    runtime["env_vars"] = environment | dict(runtime.get("env_vars") or {})
    return options | {"runtime_env": runtime, "max_restarts": 0}
