"""What all rounds share: the job, the run, the workers; and the steps that belong to no single round."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Protocol

from pydantic import BaseModel

from orchestrator.config import Generate, Grade, Job, Judge
from orchestrator.config.engines import FIRST_KIND
from orchestrator.config.marks import executing_in
from orchestrator.config.sampling import OWN
from orchestrator.errors import BadInput, Damaged
from orchestrator.inputs.problem_set import digest_of_problems
from orchestrator.ledger import taken
from orchestrator.ledger.ledger import Commit
from orchestrator.ledger.recipes import Executed, Fields, Later, Setting, Unseen, UsedFiles, Version
from orchestrator.ledger.run import Facts, Run
from orchestrator.ledger.uses import files_of
from orchestrator.ledger.uses import model as committed_model
from orchestrator.models.named import digest_of, model_used
from orchestrator.records.abstentions import graders_version
from orchestrator.records.harness import Asked, TasksPlan
from orchestrator.records.progress import Watch
from orchestrator.records.reasoning_steps import StepItem, StepJudgement
from orchestrator.records.rewards import RewardPlan, RewardWorkers
from orchestrator.records.rows import (
    GRADERS_VERSION,
    JUDGE_PROMPT,
    PreferencePlan,
    Problem,
    SamplingPlan,
    ScoringPlan,
    TokenizingPlan,
    TrainingPlan,
)
from orchestrator.records.seeds import derived_seed
from orchestrator.reports.meters import Meters
from orchestrator.rounds import evaluation, sampling
from orchestrator.rounds.readiness import ready
from orchestrator.rounds.watched import Answers

Say = Callable[[str], None]


class TooLong(BadInput):
    """No prompt fits the model's context."""


class Trainers(Protocol):
    """A group of training ranks (workers.training.group.TrainerGroup)."""

    def score(self, plan: ScoringPlan, out_file: str, against: str | None = None) -> Facts:
        """Score each completion of the pairs under `plan.model`, the reference or a trained policy, and write schema
        REFERENCE to `out_file`; `against` is such a file of another model. Returns counts, how the model ranks the
        pairs, and seconds."""

    def train(
        self, plan: TrainingPlan, reference_file: str | None, on_step: Callable[[Facts], None] | None = None
    ) -> Facts:
        """Train, and write the plan's metrics, probe and checkpoint; returns the facts of the step. `on_step` is told
        of each update as it ends: its number (`step`, again where ranks were lost after it), how many there will be
        (`updates`), and its metrics."""


class Workers(Protocol):
    """Whoever does the work (orchestrator.driver.wiring.RealWorkers). Devices are shared: asking for engines may end
    the trainers, and back."""

    @property
    def engine(self) -> str:
        """The kind of the engines, by name. Another kind draws other samples: what one has made no other takes over."""

    @property
    def dtype(self) -> str:
        """In what number format engines serve: the value of `generate.dtype`, or what it has come to in this run."""

    def tokenize(self, problems: Sequence[Problem], plan: TokenizingPlan, output: str) -> Facts:
        """Write prompts (schema PROMPTS) to `output`; returns how many were kept and dropped.

        Raises:
            UnusableModel: its tokenizer or chat template cannot take them.
        """

    def tokenize_preferences(self, source: str, rows: list[int] | None, plan: PreferencePlan, output: str) -> Facts:
        """Write `rows` (None: all) of preference data as pairs to `output`; returns how many, and how many were left
        out, by reason.

        Raises:
            UnusableModel: its tokenizer or chat template cannot take them.
        """

    def token_ends(self, model: str, source: str, output: str) -> Facts:
        """Copy samples to `output`, with their ids decoded and where each token ends in that text (schema DECODED).

        Raises:
            UnusableModel: the model has no tokenizer that decodes token by token.
        """

    def judge_steps(self, items: Sequence[StepItem]) -> tuple[list[StepJudgement], Facts]:
        """A judge's word on the reasoning steps of each answer, in order, and what asking it has cost."""

    def engines(self, model: str, probe: Path | None = None) -> sampling.Engines:
        """Engines that serve the model of this folder; they are started unless they are there. Its `probe`, a file of
        schema PROBE, is what lets those that serve another one change to it."""

    def graders(self, settings: Grade) -> sampling.Graders:
        """Grader processes with these settings; they stay until the run ends."""

    def rewarders(self, plan: RewardPlan, how: RewardWorkers) -> sampling.Rewarders:
        """Processes that hold the plan's reward model; on accelerators they take turns with engines and ranks. They
        score until others of the workers are asked for."""

    def trainers(self) -> Trainers:
        """The training ranks; they are started unless they are there."""

    def settle(self, kept: Mapping[str, Any] | None, record: Callable[[Mapping[str, Any]], None], model: str) -> None:
        """Use what settings that are left to the machine have come to before, and have `record` told of what they come
        to for the model in this folder."""

    def report_to(self, say: Say, meters: Meters, logs: Path, watch: Watch) -> None:
        """Have `say` and `meters` told what the workers wait for, if anything, and `watch` when they are started; show
        the meters where there is a way to. What the workers print goes into the folder `logs` of the run, which they
        make."""

    def harness(self) -> Harness:
        """Whoever knows the tasks of the job's `evaluate.harness`, which it has."""

    def execution(self, of: Literal["train", "generate"]) -> Facts:
        """On what device trainers or engines work, and what settings come to that are left to the machine, by key."""


class Harness(Protocol):
    """lm-evaluation-harness with a job's tasks (orchestrator.driver.harness.HarnessTasks)."""

    def identity(self) -> Facts:
        """What its figures follow from besides model and settings: its version, and what is in the job's own tasks."""

    def check(self) -> None:
        """
        Raises:
            BadInput: a task is not there, or would execute what a model has written.
        """

    def evaluate(self, plan: TasksPlan, work: Path, output: Path, answer: Callable[[Asked], list[Path]]) -> None:
        """Write what the tasks say of a model into `output` (records.harness). What they want to know of it `answer`
        finds out, which returns files (schema SAMPLES or SCORES). `work` is for work in progress.

        Raises:
            RatchetError: it failed, in its own words.
        """


@dataclass(frozen=True)
class Model:
    """A model that can be the reference: where it is, what it is, and which gate problems it solves."""

    path: str
    """Absolute folder."""
    name: str
    """Folder relative to the run; the path itself for a base model elsewhere."""
    files: UsedFiles
    """Its files, which are checked wherever it is an input."""
    probe: Path | None = None
    """The trainer's own log-probabilities of some completions (schema PROBE), where it was trained in this run."""
    gate: Mapping[str, bool] = field(default_factory=dict)
    evaluation: str = ""
    """The step that `gate` is from."""
    graders_version: int = 0
    """The version of the graders that `gate` is by."""

    @property
    def gate_accuracy(self) -> float:
        return sum(self.gate.values()) / max(1, len(self.gate))


@dataclass(frozen=True)
class Context:
    """What all rounds share."""

    job: Job
    run: Run
    workers: Workers
    problems: Mapping[str, Sequence[Problem]]
    base_model: str
    """Absolute folder; its tokenizer serves the whole run."""
    say: Say

    def seed(self, *purpose: str | int) -> int:
        return derived_seed(self.job.seed, *purpose)

    @functools.cached_property
    def base_files(self) -> UsedFiles:
        """The base model as an input: what is in it, and its files.

        Raises:
            Damaged: it is not the model that the run was started with.
        """
        path, root = Path(self.base_model), self.run.root
        if (kept := os.path.relpath(path, root)) in self.run.ledger.state.commits:
            return self._kept(kept)
        used = model_used(self.base_model)
        recorded = self.run.ledger.state.configs[-1] if self.run.ledger.state.configs else {}
        if recorded.get("model_digest", used.value) != used.value:
            raise Damaged(f"{path}: the model has changed since the run was started. Restore it from a copy.")
        return used

    def _kept(self, name: str) -> UsedFiles:
        """A model that the run has kept."""
        artifact = next(a for a in self.run.ledger.state.commits[name].artifacts if a.path == name)
        digest = digest_of({file: said["sha256"] for file, said in sorted(artifact.files.items())})
        return committed_model(digest, artifact)

    def tell(self, folder: str, phase: str, text: str) -> None:
        """Say what a step has come to, and whether this run has done it."""
        step = f"{folder}/{phase}"
        self.run.watch.tell(step, f"{text}{taken.taken_over_text(self.run.ledger.state, step)}")

    def engines(self, model: Model, executed: Facts) -> sampling.Engines:
        """Engines that serve a model; how these work is put into `executed`."""
        engines = self.workers.engines(model.path, model.probe)
        executed.update(self.workers.execution("generate"))
        return engines

    def grade_of(self, round_number: int) -> Grade:
        """How a round's samples are graded."""
        again = self.job.regrade
        return again.grade if again and round_number >= again.round else self.job.grade

    def tokenize(self, name: str, problems: Mapping[str, Sequence[Problem]], **changes: Any) -> Commit:
        """A folder with one Parquet file of prompts a key of `problems`; `changes` are to the plan for it.

        Raises:
            TooLong: none of the prompts of a key leaves room for a completion.
        """
        plan = replace(tokenizing_plan(self.job, self.base_model), **changes)
        inputs = {
            "problems": {key: digest_of_problems(rows) for key, rows in problems.items()},
            "plan": Fields(plan, {"model": self.base_files}),
        }

        def work(folder: Path) -> Facts:
            folder.mkdir()
            facts: Facts = {"prompts": 0, "dropped": 0}
            for key, rows in problems.items():
                counts = self.workers.tokenize(rows, plan, str(folder / f"{key}.parquet"))
                if not counts["prompts"]:
                    raise TooLong(
                        f"data.{key}: every prompt is too long: with generate.max_tokens more tokens it must fit the "
                        "model's context (generate.max_model_len)"
                    )
                facts[key] = counts["prompts"]
                facts["prompts"] += counts["prompts"]
                facts["dropped"] += counts["dropped"]
            return facts

        commit = self.run.step(name, inputs, work)
        if commit.facts["dropped"]:
            self.say(f"{name}: too long for the context and left out: {commit.facts['dropped']} of its prompts")
        return commit

    def evaluate_base(self) -> Model:
        """The base model on gate and test: what every later figure is compared with. Nothing is done without these."""
        path, root = Path(self.base_model), self.run.root
        name = path.relative_to(root) if path.is_relative_to(root) else path
        base = Model(str(path), str(name), self.base_files)
        return self.evaluate(base, "baseline/evaluation") if self.problems.keys() & {"gate", "test"} else base

    def fixed_reference(self) -> Model | None:
        """The model that the job's `reference` names, which the run has kept; None where it names none."""
        return None if self.job.fixed_reference is None else self.kept_model("baseline/reference")

    def kept_model(self, name: str) -> Model:
        """A model that the run has kept, by the step that did."""
        return Model(str(self.run.path(name)), name, self._kept(name))

    def evaluate(self, model: Model, name: str, splits: Sequence[str] | None = None) -> Model:
        """Answer the problems of the splits (None: all that are held out) greedily; returns the model with its gate
        results.

        Before that the engine must agree with the trainer about the log-probabilities of the model's
        probe: an engine that loaded something else would answer, too.

        Raises:
            TooLong: no prompt of a split fits the model's context.
            ProbeFailed: engine and trainer disagree about the model.
        """
        held_out = {split: rows for split, rows in self.problems.items() if split != "train"}
        splits = [split for split in held_out if splits is None or split in splits]
        opening = self.job.source.evaluation_opens_with
        prompts = self.tokenize("baseline/prompts", held_out, opening=opening) if held_out else None
        generate = self.job.generate
        plan = greedy_plan(self.job)
        inputs = {
            "model": model.files,
            "prompts": files_of(prompts) if prompts else [],
            "splits": list(splits),
            "plan": plan,
            **engine(self.workers, generate),
            **grading(self.job.grade, self.job.judge),
            "executed": executed(generate=generate, **graded_by(self.job.grade, self.job.judge)),
        }

        def work(*output: Path) -> Facts:
            facts: Facts = {"executed": {}}
            engines, wait = ready(lambda: self.engines(model, facts["executed"]))
            facts |= wait.once()
            agreement = None
            if model.probe:
                most = evaluation.tolerance(self.job, generate.dtype or self.workers.dtype, Path(model.path))
                agreement = evaluation.check_probe(engines, model.probe, most)
            files: dict[str, Path] = {split: self.run.path(f"baseline/prompts/{split}.parquet") for split in splits}
            facts["probe"] = agreement
            answers = Answers(self.run.watch, name)
            for folder in output:
                graders = self.workers.graders(self.job.grade)
                facts |= evaluation.evaluate(engines, graders, files, plan, generate.shard_prompts, folder, answers)
            return facts

        also = [self.run.used_file(model.probe)] if model.probe else []
        commit = self.run.step(name, inputs, work, [name] if splits else [], also)
        folder, _, phase = name.rpartition("/")
        self.tell(folder, phase, evaluation.summary(commit.facts))
        with self.run.using(files_of(commit)):
            gate = evaluation.solved(self.run.path(f"{name}/gate.parquet")) if "gate" in splits else {}
        return replace(model, gate=gate, evaluation=name, graders_version=graders_version(commit.facts))


def engine(workers: Workers, generate: Generate) -> dict[str, Any]:
    """What samples, as inputs of a step: the kind of engine, its arguments that decide, and the numbers it serves in,
    which before there was that setting were the model's own."""
    return {
        "engine_kind": Later(workers.engine, FIRST_KIND),
        "engine": Setting(generate, "engine"),
        "dtype": Later(generate.dtype or workers.dtype, OWN),
    }


def executed(**sections: BaseModel | None) -> Executed:
    """How the work of some sections of the job is executed, as an input of a step: it counts for nothing, and is
    recorded."""
    known = {key: executing_in(section) for key, section in sections.items() if section is not None}
    return Executed({f"{key}.{name}": value for key, said in known.items() for name, value in said.items()})


def graded_by(grade: Grade, judge: Judge | None) -> dict[str, BaseModel | None]:
    """The sections of the job that say how verdicts come about."""
    return {"grade": grade, "judge": judge if "judge" in grade.graders else None}


def evaluation_tokens(job: Job) -> int:
    """Longest answer of an evaluation, in tokens."""
    return job.evaluate.max_tokens or job.generate.max_tokens


def greedy_plan(job: Job) -> SamplingPlan:
    """How a model answers in an evaluation: once, and always the likeliest token."""
    return SamplingPlan(
        samples=1,
        temperature=0.0,
        top_p=1.0,
        top_k=0,
        max_tokens=evaluation_tokens(job),
        stop=tuple(job.generate.stop),
        seed=0,
    )


def tokenizing_plan(job: Job, model: str) -> TokenizingPlan:
    """How a job's problems become prompts for a model."""
    return TokenizingPlan(
        model=model,
        chat=job.data.chat,
        system=job.data.system,
        max_model_len=job.generate.max_model_len,
        max_tokens=max(job.generate.max_tokens, evaluation_tokens(job)),
        examples=tuple((example.prompt, example.completion) for example in job.data.examples),
        example_separator=job.data.example_separator,
        date=job.data.date,
    )


def preference_plan(job: Job, model: str) -> PreferencePlan:
    """How a job's preference data become pairs for a model."""
    return PreferencePlan(
        model=model, append_eos=job.pairs.append_eos, max_tokens=job.train.max_tokens, date=job.data.date
    )


def grading(grade: Grade, judge: Judge | None) -> dict[str, Any]:
    """What can change a verdict, as inputs of a step."""
    by: dict[str, Any] = {"grade": grade, "graders_version": Version("graders_version", GRADERS_VERSION)}
    if "judge" in grade.graders:
        by["judge"] = Unseen({"settings": judge, "prompt": Version("judge_prompt", JUDGE_PROMPT)})
    return by
