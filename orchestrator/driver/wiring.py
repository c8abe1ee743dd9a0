"""The composition root: the one file that knows both the loop and the workers.

Devices are shared and the phases take turns on them (turns.py), so asking for trainers has the engines rest or end,
and the other way round. A pool that serves the wanted model already goes on as it is: the engines that evaluated a
candidate sample the next round from it.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

from orchestrator.config import Grade, Job, Judge, Train
from orchestrator.driver.cluster import Cluster
from orchestrator.driver.fitted import Fitted
from orchestrator.driver.fitting import Gpus
from orchestrator.driver.harness import HarnessTasks, checked_tasks
from orchestrator.driver.load import loads_of, sampling
from orchestrator.driver.nodes import Node, room
from orchestrator.driver.own_process import OF_PROMPTS
from orchestrator.driver.rewarding import Make, Rewarding
from orchestrator.driver.secrets import secrets_of
from orchestrator.driver.serving import attention_kernel, serving_dtype, with_dtype
from orchestrator.driver.settled import CHECKPOINTING, MICROBATCH, Record, Settled
from orchestrator.driver.turns import ENGINES, RANKS, Role, Turns
from orchestrator.errors import BadInput, last_line
from orchestrator.ledger.run import Facts
from orchestrator.models.named import model_digest
from orchestrator.models.sizes import ModelSize, size_trained
from orchestrator.records.executed import ENDED, WEIGHTS
from orchestrator.records.problem_files import handed_over
from orchestrator.records.progress import ENGINES as ENGINES_START
from orchestrator.records.progress import RANKS as RANKS_START
from orchestrator.records.progress import START, UNWATCHED, Watch, starting
from orchestrator.records.reasoning_steps import StepItem, StepJudgement
from orchestrator.records.rewards import RewardPlan, RewardWorkers
from orchestrator.records.rows import PreferencePlan, Problem, TokenizingPlan
from orchestrator.reports.meters import Meters
from workers.generation.vllm import VLLM  # which does not import vLLM itself

ENGINE = VLLM
"""The kind of engine that runs use; orchestrator/config/engines.py says the same to the job file."""

_ASKING = 60.0  # seconds, for what a node's driver tells
_ENDING = 30.0  # seconds that processes have to end by themselves


class RealWorkers:
    """Ray, engines and DeepSpeed. Nothing is started before it is needed: a finished run needs none of it."""

    engine = ENGINE.name
    early = True
    """Whether workers may be started before their turn."""

    def __init__(self, job: Job, logs: Path) -> None:
        self._job = job
        self._run_dir = logs.parent
        self._cluster = Cluster(job.cluster, logs, ENGINE.loopback)
        self._secrets = secrets_of(job.cluster.secrets, os.environ)
        self._connected: Cluster | None = None
        self._meters = Meters(job.name)
        self._watch: Watch = UNWATCHED
        self._logs: str | None = None
        self._everything = contextlib.ExitStack()
        needs = {ENGINES: self._engines_need, RANKS: self._ranks_need}
        hire = {ENGINES: self._engine_pool, RANKS: self._new_group}
        self._split = job.cluster.placement == "split"
        how = (self.early, self._split, job.cluster.warm)
        self._turns = Turns(lambda: self.cluster, needs, hire, self._phase_over, *how)
        self._harness = checked_tasks(job)
        self._graders: list[Grade] = []
        self._grader_groups: list[Any] = []
        self._weights: Any = None
        self._halving: Any = None
        self._settled = Settled()
        self._model: Path | None = None
        self._size: ModelSize | None = None
        self._memory: dict[str, int | None] = {}  # by a node's id, as `_nodes_memory` has it
        self.fits: list[str] = []
        """What was resolved for accelerators, and why, for people."""

    def settle(self, kept: Mapping[str, Any] | None, record: Record, model: str) -> None:
        """Use what settings that are left to the machine have come to before, and have `record` told of what they come
        to for the model in this folder; see settled.py."""
        self._settled = Settled(kept, record)
        self.measure(model)

    def measure(self, model: str) -> None:
        """Have what is left to the machine fit the model in this folder."""
        self._model = Path(model)
        self._size = size_trained(self._model, self._job.lora)

    @property
    def dtype(self) -> str:
        """The value of `generate.dtype` that the run has; see serving.py."""
        return serving_dtype(self._job, self._model, lambda: self._device, self._settled, self._tell)

    def report_to(self, say: Callable[[str], None], meters: Meters, logs: Path, watch: Watch = UNWATCHED) -> None:
        """Have `say` and `meters` told what is waited for, `watch` what is started, and the workers print into the
        folder `logs`."""
        self._cluster.say, self._cluster.waited = say, meters.waited
        self._meters, self._logs, self._watch = meters, str(logs), watch

    def execution(self, of: Literal["train", "generate"]) -> dict[str, Any]:
        """On what device trainers or engines work, and what settings come to that are left to the machine, by key."""
        env = self._job.cluster.env
        given: dict[str, Any] = {"cluster.env": dict(env)} if env else {}
        if of == "train":
            train = self._fitted.train()
            given |= {"train.ranks": train.ranks, "train.zero": train.zero, "train.attention": self._attention()}
            given |= {MICROBATCH: train.tokens_per_microbatch, CHECKPOINTING: train.activation_checkpointing}
            given |= {"train.compile": train.compiled}
            halved = {**self._halving.executed} if self._halving else {}
            given |= halved | self._ended(RANKS)
            return {"device": self._device, "cluster.cpus_per_rank": self._ranks_need()[1], **given}
        generate = self._fitted.generate()
        given |= {"generate.engines": generate.engines, "generate.tensor_parallel": generate.tensor_parallel}
        given |= {"generate.dtype": generate.dtype}
        if self._weights and self._weights.told:
            given[WEIGHTS] = self._weights.told
        given |= self._ended(ENGINES)
        return {"device": self._device, "cluster.cpus_per_engine": self._engines_need()[1], **given}

    def _ended(self, role: Role) -> dict[str, str]:
        """Why processes of this role could not stay after its last turn, where they could not."""
        workers = self._turns.there(role)
        return {ENDED: workers.ended} if workers and workers.ended else {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: Any) -> None:
        try:
            self._turns.__exit__(*error)
        finally:
            self._everything.__exit__(*error)

    @property
    def cluster(self) -> Cluster:
        """The cluster; the first use connects to it."""
        if self._connected is None:
            address = self._job.cluster.address or "on this machine"
            with starting(self._watch, f"{START}/ray", detail=f"Ray, {address}"):
                self._connected = self._everything.enter_context(self._cluster)
            self._everything.callback(self._meters.show_by, None)
            self._meters.show_by(self._connected.metric)
            either = self._job.generate.engines is None or self._job.train.ranks is None
            if self._split and either and self._connected.accelerated:
                raise BadInput(
                    "cluster.placement: `split` needs generate.engines and train.ranks where there are accelerators: "
                    "how many each role has is not left to the machine. Set both, or leave it at `shared`."
                )
            from workers.supervision.load import load

            self._everything.enter_context(sampling(loads_of(self._connected, load), self._watch))
        return self._connected

    def tokenize(self, problems: Sequence[Problem], plan: TokenizingPlan, output: str) -> Facts:
        from workers.tokens.prompts import tokenize_file

        # Millions of them go through a file, in the folder that the nodes share.
        with handed_over(problems, Path(output)) as file:
            return self._of_tokens(tokenize_file, plan.model, str(file), plan, output)

    def token_ends(self, model: str, source: str, output: str) -> Facts:
        from workers.tokens.ends import token_ends

        return self._of_tokens(token_ends, model, model, source, output)

    def tokenize_preferences(self, source: str, rows: list[int] | None, plan: PreferencePlan, output: str) -> Facts:
        from workers.tokens.preferences import tokenize_preferences

        return self._of_tokens(tokenize_preferences, plan.model, source, rows, plan, output)

    def _of_tokens(self, function: Callable[..., Any], model: str, *arguments: Any) -> Facts:
        """What work with a model's tokenizer tells, in a process of the cluster."""
        cure = f". Look at {OF_PROMPTS}, and whether the machine is short of memory."
        facts: Facts = self.cluster.call(function, *arguments, over=f"model: {model}", cure=cure)
        return facts

    def judge_steps(self, items: Sequence[StepItem]) -> tuple[list[StepJudgement], Facts]:
        """The judge's word on each answer, and what asking it has cost. Its replies are kept in the run's folder."""
        from workers.judge.client import JudgeClient
        from workers.judge.reasoning_steps import judge_steps

        if self._job.judge is None:
            raise RuntimeError("a job without a judge asks for judgements")
        client = JudgeClient(self._job.judge, self._run_dir / "judge")
        with self._unused():
            judgements: list[StepJudgement] = judge_steps(client, items)
        return judgements, dict(client.facts())

    def harness(self) -> HarnessTasks:
        if self._harness is None:
            raise RuntimeError("a job without evaluate.harness asks for its tasks")
        return self._harness.printing_into(self._logs)

    def engines(self, model: str, probe: Path | None = None) -> Any:
        from workers.generation.in_place import InPlace, Served, read_probe

        # Not after hours of sampling: what training will ask for must be there too.
        self.cluster.check_room(RANKS, *self._ranks_need())
        new = Served(model, model_digest(model), read_probe(probe) if probe else {})
        self._weights = self._weights or InPlace(self.cluster.say)
        number, name = self._fitted.generate().num_engines, Path(model).name
        pool = self._turns.of(ENGINES)
        told = starting(self._watch, ENGINES_START, detail=f"{ENGINE.name} takes the weights of {name}")
        loads = pool.asleep or not (pool.resting or pool.model == model)
        with told if loads else contextlib.nullcontext():
            if self._weights.change(pool, new):
                return pool
        if not (self._turns.warm or pool.resting):
            self._turns.release()
            pool = self._turns.of(ENGINES)
        with starting(self._watch, ENGINES_START, number, "engines", f"{ENGINE.name} loads {name}"):
            pool.serve(model)
            pool.wait_ready()
        self._weights.made(pool, new)
        pool.may_sleep = self._weights.may_sleep
        return pool

    def _engine_pool(self, placement: Any) -> Any:
        from workers.generation.pool import GeneratorPool

        arguments = (None, self._fitted.generate(), self._job.seed, placement, ENGINE)
        ready = functools.partial(self._watch.grow, ENGINES_START)
        return GeneratorPool(*arguments, secrets=self._secrets, say=self.cluster.say, logs=self._logs, ready=ready)

    def graders(self, settings: Grade) -> Any:
        if settings not in self._graders:
            self.cluster  # noqa: B018  # connected before Ray is imported
            log = self._logs and f"{self._logs}/grader-{len(self._graders)}.log"
            self._graders.append(settings)
            self._grader_groups.append(self._everything.enter_context(self._grader_group(settings, log)))
        return self._grader_groups[self._graders.index(settings)]

    def _grader_group(self, settings: Grade, log: str | None) -> Any:
        from workers.grading.group import GraderGroup

        cache = str(self._run_dir / "judge")
        return GraderGroup(settings, judge=self._job.judge, cache=cache, log=log, waiting=self._unused)

    def rewarders(self, plan: RewardPlan, how: RewardWorkers) -> Any:
        pool = self._rewarding.pool(how)
        pool.serve(plan)
        return pool

    @functools.cached_property
    def _rewarding(self) -> Rewarding:
        cluster = self.cluster  # connected before Ray is imported; and it ends after what is entered after it
        from workers.reward.pool import RewardPool

        make: Make = lambda placement, how: RewardPool(placement, how.stall_timeout, logs=self._logs)  # noqa: E731
        return self._everything.enter_context(Rewarding(cluster, self._turns, make))

    def _unused(self) -> contextlib.AbstractContextManager[None]:
        """Around a wait for others, such as a judge, while which engines and ranks have nothing to do."""
        line = "waiting   devices given back: nothing has needed them for cluster.idle_release seconds"
        return self._turns.unused(self._job.cluster.idle_release, lambda: self.cluster.say(line))

    def trainers(self) -> Any:
        # Likewise before hours of training: engines evaluate what comes of it.
        self.cluster.check_room(ENGINES, *self._engines_need())
        return self._turns.of(RANKS)

    @contextlib.contextmanager
    def _new_group(self, placement: Any) -> Iterator[Any]:
        settings = self._fitted.train().model_copy(update={"attention": self._attention()})
        self._halving = self._halving or self._new_halving(settings)
        with self._ranks(settings, placement) as group:
            if self.early:
                group.prepare()
            yield group

    def _new_halving(self, settings: Train) -> Any:
        from workers.training.lost import Halving

        device, settled, left = self._device, self._settled, self._microbatch()[0] is None
        note = functools.partial(settled.note, MICROBATCH, device)
        begun = settled.known(MICROBATCH, device)
        return Halving(settings, lambda line: self.cluster.say(line), begun, note, estimated=left)

    def _ranks(self, settings: Train, placement: Any) -> Any:
        from workers.training.group import TrainerGroup

        halving, secrets, say = self._halving, self._secrets, self.cluster.say
        begun = functools.partial(starting, self._watch, RANKS_START, settings.num_ranks, "ranks", "those that train")
        return TrainerGroup(
            settings, placement, halving=halving, secrets=secrets, logs=self._logs, say=say, starting=begun
        )

    def _phase_over(self, mark: str) -> None:
        from workers.supervision.ending import phase_over

        for node, said in self.cluster.on_nodes(phase_over, mark, _ENDING, timeout=4 * _ENDING).items():
            for line in [f"cannot be looked at: {last_line(said)}"] if isinstance(said, Exception) else said:
                self.cluster.say(f"memory    node {node.name}: {line}")

    def _engines_need(self) -> tuple[int, int, int]:
        """How many engines, and each one's cores and accelerators."""
        settings = self._fitted.generate()
        gpus = ENGINE.devices(settings) if self.cluster.accelerated else 0
        return settings.num_engines, self._cpus("cpus_per_engine", settings.num_engines, gpus), gpus

    def _ranks_need(self) -> tuple[int, int, int]:
        """How many training ranks, and each one's cores and accelerators."""
        ranks, gpus = self._fitted.train().num_ranks, 1 if self.cluster.accelerated else 0
        return ranks, self._cpus("cpus_per_rank", ranks, gpus), gpus

    @property
    def _fitted(self) -> Fitted:
        """What is left to the machine, as the nodes are now."""
        job = with_dtype(self._job, self.dtype)
        return Fitted(job, self._size, self._gpus(), *engine_takes(job), self._settled, self._tell)

    def _tell(self, line: str) -> None:
        self.fits.append(line.split(None, 1)[1])
        self.cluster.say(line)

    def _gpus(self) -> list[Gpus]:
        """The GPUs of each node; a model that has no size asks for no memory."""
        gpus, nodes = self.cluster.accelerated, self.cluster.nodes()
        asked = self._size is not None and (gpus or None in self._microbatch())
        if asked and any((node.gpus or not gpus) and node.id not in self._memory for node in nodes):
            for node, told in self._nodes_memory().items():
                self._memory.setdefault(node.id, told if isinstance(told, int) else None)
        if gpus:
            return [Gpus(node.gpus, self._memory.get(node.id)) for node in nodes]
        return [Gpus(0, host=self._memory.get(node.id)) for node in nodes]

    def _microbatch(self) -> tuple[Any, Any]:
        return self._job.train.tokens_per_microbatch, self._job.train.activation_checkpointing

    def _nodes_memory(self) -> Mapping[Node, Any]:
        """Bytes of each node's smallest GPU; without any, of its own memory what is free before workers take of it."""
        from workers.supervision.devices import smallest_memory
        from workers.supervision.host_memory import free_memory

        if self.cluster.accelerated:
            return self.cluster.on_nodes(smallest_memory, timeout=_ASKING)
        if self.cluster.private:
            return dict.fromkeys(self.cluster.nodes(), free_memory())
        return self.cluster.on_nodes(free_memory, timeout=_ASKING)

    def _cpus(self, name: str, workers: int, gpus: int) -> int:
        """Cores of each of so many workers; threads that share a sum otherwise round it otherwise."""
        cluster, asked = self.cluster, getattr(self._job.cluster, name)
        if asked is not None:
            return int(asked)
        if self._split:
            workers = self._fitted.generate().num_engines + self._fitted.train().num_ranks
        share, nodes = functools.partial(cluster.cpus_for, workers, gpus), cluster.nodes()
        return self._settled.value(f"cluster.{name}", self._device, share, lambda n: room(nodes, n, gpus) >= workers)

    def _attention(self) -> str:
        return attention_kernel(self._job.train, self.cluster.accelerated, self._settled)

    @property
    def _device(self) -> str:
        return "cuda" if self.cluster.accelerated else "cpu"


def engine_takes(job: Job) -> tuple[float, int]:
    """The share of a GPU's memory that an engine takes, and over how many groups of GPUs its layers are spread."""
    share = job.generate.engine.get(ENGINE.memory_argument)
    usual = float(share) if isinstance(share, int | float) else ENGINE.memory_share
    return usual, ENGINE.devices(job.generate) // job.generate.spread


def local_graders(settings: Grade, judge: Judge | None = None) -> Any:
    """Graders in processes of this machine, without Ray; a context manager."""
    from workers.grading.pool import GraderPool

    return GraderPool(settings, judge)


def unread_golds(settings: Grade, golds: Iterable[str]) -> tuple[dict[str, str], int]:
    """Gold answers that no grader reads, with the reason; and how many were looked at within 20 s."""
    from workers.grading.gold_check import unread_golds as ask

    found: tuple[dict[str, str], int] = ask(settings, golds, seconds=20.0)
    return found


def opinions_on_golds(settings: Grade, golds: Iterable[str]) -> list[list[tuple[str, str, str]]]:
    """What each grader says of each gold answer as an answer to itself: its name, the verdict, the reason."""
    from workers.grading.gold_check import opinions_on_golds as ask

    said: list[list[tuple[str, str, str]]] = ask(settings, golds)
    return said
