"""Many engines as one: start them, watch them, replace one that dies or hangs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import ray

from orchestrator.config import Generate
from orchestrator.records.limits import start_limit
from orchestrator.records.rows import SamplingPlan, Shard
from workers.generation.dispatch import MOST_CALLS, Event, Sampling, raise_unless_lost
from workers.generation.engine import EngineKind
from workers.generation.host import host_of
from workers.generation.memory import WAITS, MemoryWait
from workers.generation.scoring import Scoring
from workers.generation.slot import GenerationFailed, Slot
from workers.logs import logged
from workers.secret_environment import knowing
from workers.supervision.calls import RAY, Calls
from workers.supervision.failures import memory_taken, node_lost
from workers.supervision.kernel import Kills
from workers.supervision.patience import WATCH_SECONDS
from workers.supervision.places import Placement
from workers.supervision.rested import after_rest, answering, of_devices


class GeneratorPool:
    """Engines that serve one model, and another one after that; with none at first their processes load libraries and
    rest. A context manager: leaving it ends them, which gives the devices back for certain, those of an engine that
    hangs too.

    `kind` says how to make an engine (workers.generation.vllm.VLLM does), and `interval` the seconds between two looks.
    `secrets` are in the environment of the engines, and `kills` begins to watch the kernels of the nodes. A start that
    finds too little memory is made again after each of the `waits`, in seconds, which `say` is told of. What an engine
    prints goes into a file in the folder `logs`. `ready` is told of each engine that `wait_ready` finds to be there.
    """

    def __init__(
        self,
        model: str | None,
        settings: Generate,
        seed: int,
        placement: Placement,
        kind: EngineKind,
        interval: float = WATCH_SECONDS,
        secrets: Mapping[str, str] | None = None,
        say: Callable[[str], None] = lambda line: None,
        waits: Sequence[float] = WAITS,
        logs: str | None = None,
        calls: Calls = RAY,
        kills: Callable[[], Kills] = Kills,
        ready: Callable[[], None] = lambda: None,
    ) -> None:
        self.model = model
        self._logs = logs
        self._settings = settings
        self.start_limit = start_limit(settings, model) if model else 0.0
        """Seconds that an engine may take to load the model."""
        self._seed = seed
        self._placement = placement
        self._kind = kind
        self._interval = interval
        self._secrets = secrets or {}
        self._say = say
        self._memory = MemoryWait(say, waits, calls.clock)
        self._calls, self._look_for_kills, self._ready = calls, kills, ready
        self.resting = model is None
        """Whether the engines do not hold the devices."""
        self.may_sleep = False
        """Whether engines that rest may sleep, where they can: they take weights in place then."""
        self.ended = ""
        """Whose processes were ended after the last rest, and why; empty where all stayed."""
        self.num_starts = 0
        """How many processes were started."""
        self._looked = 0.0
        self._slots: list[Slot] = []

    def __enter__(self) -> GeneratorPool:
        self._kills, calls = self._look_for_kills(), self._calls
        for index in range(self._placement.count):
            start = partial(self._start, index)
            limits = (self.start_limit, self._interval)
            self._slots.append(Slot(index, start, self.model, self._settings, *limits, self._kills, calls))
        return self

    def __exit__(self, *_: object) -> None:
        for slot in self._slots:
            slot.kill()
        self._slots = []

    def rest(self) -> None:
        """Give the devices back until `serve`, or `load_weights` where all are `asleep`; nothing may be asked of the
        engines meanwhile. Their processes stay, but for those that do not give their memory back: these are ended,
        which is told."""
        self._rest(self.may_sleep)

    def _rest(self, may_sleep: bool) -> None:
        self.resting, ended = True, []
        for slot in self._slots:
            if not slot.ready:  # it has lost its place, and may find one while it rests
                slot.kill()
        slots = [slot for slot in self._slots if slot.ready]
        kept = after_rest(self._calls, [slot.actor.rest.remote(may_sleep) for slot in slots])
        for slot, one in zip(slots, kept, strict=True):
            slot.asleep = not isinstance(one, str) and one.asleep
            if isinstance(one, str):
                slot.kill()
                ended.append(f"engine {slot.index} {one}: its process is ended")
                self._say(f"memory    {ended[-1]}")
        self.ended = "; ".join(ended)
        if devices := of_devices(kept):
            self._say(f"memory    engines keep {devices} while they rest")

    def serve(self, model: str) -> None:
        """Have the engines serve another model, or the same again after a rest; `wait_ready` waits until they do."""
        if not self.resting:
            self._rest(False)  # which looks whether the old weights are gone
        self.model, self.resting = model, False
        self.start_limit = start_limit(self._settings, model)
        self._kills = self._look_for_kills()
        answers = answering(self._calls, [slot.actor.progress.remote() for slot in self._slots])
        for slot, there in zip(self._slots, answers, strict=True):
            slot.serve(model, self.start_limit, self._kills, slot.new if there is None else there)

    @property
    def asleep(self) -> bool:
        """Whether every engine rests and can take weights in place."""
        return self.resting and all(slot.asleep for slot in self._slots)

    @property
    def complete(self) -> bool:
        """Whether every engine serves, as far as is known."""
        return all(slot.ready for slot in self._slots)

    def load_weights(self, model: str) -> str:
        """Have the engines take the weights of another model in place, which wakes those that sleep. Returns why one
        could not: then each serves what it will until `serve`. Empty where all have taken them."""
        if self.resting:
            self._kills = self._look_for_kills()  # what others lost meanwhile does not count
            self._kills.wait()
        for slot, answer in zip(self._slots, self._answers("load_weights", model), strict=True):
            if isinstance(answer, Exception):
                return f"engine {slot.index}: {slot.why(answer)}"
        self.rename(model)
        return ""

    def held(self) -> list[dict[str, str]]:
        """What each engine holds, as `engine.Engine.held` says; nothing of one that does not say it."""
        return [{} if isinstance(answer, Exception) else answer for answer in self._answers("held")]

    def _answers(self, method: str, *arguments: str) -> list[Any]:
        """What each engine answers; of one that does not, the error."""
        asked = [getattr(slot.actor, method).remote(*arguments) for slot in self._slots]
        answered, _ = self._calls.wait(asked, self.start_limit, len(asked))
        return [self._answer(call) if call in answered else TimeoutError("it does not answer") for call in asked]

    def _answer(self, call: Any) -> Any:
        try:
            return self._calls.get(call)
        except ray.exceptions.RayError as error:
            return error

    def rename(self, model: str) -> None:
        """What the engines serve is what is in this folder, which an engine that replaces one of them shall load."""
        self.model, self.resting, self.start_limit = model, False, start_limit(self._settings, model)
        for slot in self._slots:
            slot.rename(model, self.start_limit, self._kills)

    def wait_ready(self) -> None:
        """Return when every engine has loaded the model, but for those that have no place since a node was lost.

        Raises:
            GenerationFailed: with the engine's own words, or after `generate.start_timeout` seconds.
            NoRoom: none has a place, or one found too little memory at every start.
        """
        self._kills.wait()
        limit = self.start_limit
        deadline = self._calls.clock() + limit
        while starting := {slot.started: slot for slot in self._slots if not slot.ready}:
            left = max(0.0, deadline - self._calls.clock())
            ready, _ = self._calls.wait(list(starting), timeout=min(self._interval, left))
            if not ready:
                homeless = self._homeless()
                if len(homeless) == len(starting) and len(starting) < len(self._slots):
                    return  # those that are there begin
                if homeless:
                    deadline = self._calls.clock() + limit
                if self._calls.clock() >= deadline:
                    raise GenerationFailed(
                        f"{self._kind.name} did not start to serve {self.model} within {limit:g} s. If the model takes "
                        "longer to load, raise generate.start_timeout; otherwise see what it said: `ratchet logs RUN`."
                    )
                continue
            slot = starting[ready[0]]
            try:
                self._calls.get(ready[0])
            except ray.exceptions.RayError as error:
                if node_lost(error):
                    slot.restart()
                    continue
                if memory_taken(error):
                    self._memory.again(slot, error)
                    deadline = self._calls.clock() + limit
                    continue
                if slot.was_killed(error):
                    slot.replace(error, progressed=False)
                    continue
                raise GenerationFailed(f"{self._kind.name} cannot serve {self.model}: {slot.why(error)}") from error
            slot.loaded()
            self._ready()
            self._memory.started(slot)

    def _homeless(self) -> list[Slot]:
        """Engines whose place is on no living node; where no other is left, there is room for them again first.

        Raises:
            NoRoom: there is not.
        """
        if all(slot.ready for slot in self._slots):
            return []
        placed = self._placement.placed()
        homeless = [slot for slot in self._slots if not slot.ready and not placed[slot.index]]
        if len(homeless) == len(self._slots):
            self._placement.wait()
            for slot in homeless:  # the places may be other ones now
                slot.restart()
        for slot in homeless:
            slot.wait_for_place()
        return homeless

    def _housed(self) -> list[Slot]:
        homeless = self._homeless()
        return [slot for slot in self._slots if slot not in homeless]

    def generate(self, shards: list[Shard], plan: SamplingPlan) -> Iterator[tuple[Shard, dict[str, Any]]]:
        """Yield each shard with its facts as it is finished, in the order of finishing.

        An engine that dies or hangs is replaced, and only its unfinished prompts are dispatched again. One that was
        in the engine at three deaths, the last time alone, is left out (`quarantined` in the facts). `engines_lost`
        tells why engines were replaced since the last shard; both keys are there only when there is something to say.

        Raises:
            GenerationFailed: an engine cannot be started again, or is lost without finishing any prompt.
            NoRoom: as above.
        """
        yield from Sampling(self._slots, plan, self._memory, self._settings.max_num_seqs).run(shards, self._events)

    def score(self, shards: list[Shard]) -> Iterator[tuple[Shard, dict[str, Any]]]:
        """What the model says of given completions (schema REQUESTS), each asked of one engine; yields each shard with
        its facts as its file (schema SCORES) is written. `engines_lost` as above.

        Raises:
            GenerationFailed: an engine cannot be started again, or three are lost with one shard.
            NoRoom: as above.
        """
        yield from Scoring(self._slots, self._memory).run(shards, self._events)

    def logprobs(self, prompts: list[list[int]], completions: list[list[int]]) -> list[list[float | None]]:
        """Summed log-probabilities of completions, from each engine that has a place; None for what does not fit its
        context."""
        running: dict[Any, Slot] = {}
        results: dict[int, list[float | None]] = {}
        while any(slot.index not in results for slot in self._housed()):
            for slot in self._slots:
                if slot.ready and slot.load == 0 and slot.index not in results:
                    running[slot.taken().logprobs.remote(prompts, completions)] = slot
            for event in self._events(running):
                running = {r: s for r, s in running.items() if r != event.reference}
                if event.error is None:
                    event.slot.progressed()
                    results[event.slot.index] = event.result
                    continue
                if not event.slot.ready and memory_taken(event.error):
                    self._memory.again(event.slot, event.error)
                    continue
                raise_unless_lost("the probe", event)
                running = {r: s for r, s in running.items() if s is not event.slot}
                event.slot.replace(event.error, progressed=False)
        return [results[index] for index in sorted(results)]

    def _start(self, index: int) -> Any:
        self.num_starts += 1
        options = self._placement.actor_options(index)
        environment = dict(self._kind.environment) | options.pop("runtime_env")["env_vars"]  # with the user's own
        # Threads beyond the calls in flight answer `pid`, `progress` and the probe while shards run.
        options |= {"runtime_env": {"env_vars": environment}, "max_concurrency": MOST_CALLS + 2}
        # Engines seeded as a whole must not all draw the same samples.
        kind, seed, accelerated = self._kind, self._seed + index, self._placement.gpus > 0
        log = self._logs and f"{self._logs}/engine-{index}.log"
        before = [*([log] if log else []), *([self._secrets] if self._secrets else [])]
        arguments = (*before, kind.make, kind.prepare, self._settings, seed, accelerated)
        return self._calls.start(logged(knowing(host_of(kind.make), self._secrets), log), arguments, options)

    def _events(self, running: dict[Any, Slot]) -> Iterator[Event]:
        """What happens next, if anything within a few seconds. `running` maps calls under way to their engines."""
        starting = {slot.started: slot for slot in self._slots if not slot.ready}
        ready, _ = self._calls.wait([*running, *starting], timeout=self._interval)
        for reference in ready:
            slot = running.get(reference) or starting[reference]
            try:
                result = self._calls.get(reference)
            except ray.exceptions.RayError as error:
                yield Event(slot, reference, None, error)
                continue
            if reference in running:
                slot.done()
                yield Event(slot, reference, result)
            else:
                slot.loaded()
                self._memory.started(slot)
        if self._calls.clock() - self._looked >= self._interval:
            self._looked = self._calls.clock()
            self._homeless()
            for slot in self._slots:
                if (hangs := slot.stalled()) is not None:
                    yield Event(slot, None, None, hangs)
