"""What one round does, step by step. Each method is one committed step: its inputs, its work, its facts."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from orchestrator import durable, evaluation, gate, pair_files, streaming
from orchestrator.config import Job, at_round
from orchestrator.data import prompts_of_round
from orchestrator.errors import BadInput, RatchetError
from orchestrator.ledger import Commit
from orchestrator.records import LossWeights, Problem, SamplingPlan, TokenizingPlan, TrainingPlan
from orchestrator.run import Facts, Run
from orchestrator.seed_model import model_digest

Say = Callable[[str], None]


class Trainers(Protocol):
    """A group of training ranks (workers.trainer_group.TrainerGroup)."""

    def reference(self, plan: TrainingPlan, out_file: str) -> Facts: ...
    def train(self, plan: TrainingPlan, reference_file: str) -> Facts: ...


class Workers(Protocol):
    """Whoever does the work. Devices are shared: asking for engines may end the trainers, and back."""

    def tokenize(self, problems: list[Problem], plan: TokenizingPlan, output: str) -> Facts: ...
    def engines(self, model: str) -> streaming.Engines: ...
    def graders(self) -> streaming.Graders: ...
    def trainers(self) -> Trainers: ...


class GateStopped(Exception):
    """The gate refused a candidate; the best reference stands."""


class NoPairs(RatchetError):
    """A round's samples make no pair, so there is nothing to train on."""


@dataclass(frozen=True)
class Model:
    """A model that can be the reference: where it is, what it is, and which gate problems it solves."""

    path: str
    """Absolute folder, or a Hub id."""
    name: str
    """Folder relative to the run; the path itself for the seed model."""
    digest: str
    gate: Mapping[str, bool]

    @property
    def gate_accuracy(self) -> float:
        return sum(self.gate.values()) / len(self.gate)


@dataclass(frozen=True)
class Context:
    """What all rounds share."""

    job: Job
    run: Run
    workers: Workers
    problems: Mapping[str, list[Problem]]
    seed_model: str
    """Folder or Hub id; its tokenizer serves the whole run."""
    say: Say

    def seed(self, *purpose: str | int) -> int:
        """A seed (31 bits) for one purpose: a stable hash of the run's seed and the purpose."""
        text = "\x1f".join(map(str, (self.job.seed, *purpose)))
        return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest(), "big") >> 1

    @property
    def evaluation_tokens(self) -> int:
        return self.job.evaluate.max_tokens or self.job.generate.max_tokens

    @property
    def grading(self) -> dict[str, Any]:
        """What can change a verdict."""
        return self.job.grade.model_dump(mode="json", exclude={"processes"})


@dataclass(frozen=True)
class Graded:
    """A round's samples and their verdicts: one file of each a shard, in step."""

    samples: list[Path]
    verdicts: list[Path]
    hashes: list[str]


def tokenize(context: Context, name: str, problems: Mapping[str, list[Problem]]) -> Commit:
    """A folder with one Parquet file of prompts a key of `problems`."""
    job, model = context.job, context.seed_model
    longest_answer = max(job.generate.max_tokens, context.evaluation_tokens)
    examples = tuple((example.prompt, example.completion) for example in job.data.examples)
    plan = TokenizingPlan(
        model,
        job.data.chat,
        job.data.system,
        job.generate.max_model_len,
        longest_answer,
        examples,
        job.data.example_separator,
    )
    inputs = {
        "problems": {key: durable.fingerprint([asdict(p) for p in rows]) for key, rows in problems.items()},
        "plan": asdict(replace(plan, model=model_digest(model))),
    }

    def work(folder: Path) -> Facts:
        facts: Facts = {"prompts": 0, "dropped": 0}
        for key, rows in problems.items():
            counts = context.workers.tokenize(rows, plan, str(folder / f"{key}.parquet"))
            if not counts["prompts"]:
                raise BadInput(
                    f"data.{key}: every prompt is too long: with generate.max_tokens more tokens it must fit the "
                    "model's context (generate.max_model_len)"
                )
            facts[key] = counts["prompts"]
            facts["prompts"] += counts["prompts"]
            facts["dropped"] += counts["dropped"]
        return facts

    commit = context.run.step(name, inputs, work)
    if commit.facts["dropped"]:
        context.say(f"{name}: {commit.facts['dropped']} prompts are too long for the context and were left out")
    return commit


def evaluate_seed(context: Context) -> Model:
    """The seed model on gate and test: what every later figure is compared with."""
    path = context.seed_model
    return evaluate(context, Model(path, path, model_digest(path), {}), "baseline", None)


def evaluate(context: Context, model: Model, folder: str, probe: Path | None) -> Model:
    """Answer gate and test greedily; returns the model with its gate results.

    Before that the engine must agree with the trainer about the log-probabilities of `probe`'s
    completions: an engine that loaded something else would answer, too.
    """
    held_out = {split: context.problems[split] for split in ("gate", "test")}
    prompts = tokenize(context, "baseline/prompts", held_out)
    plan = SamplingPlan(1, 0.0, 1.0, 0, context.evaluation_tokens, tuple(context.job.generate.stop), 0)
    name = f"{folder}/evaluation"
    inputs = {
        "model": model.digest,
        "prompts": hashes(prompts),
        "plan": asdict(plan),
        "engine": context.job.generate.engine,
        "grade": context.grading,
    }

    def work(output: Path) -> Facts:
        engines = context.workers.engines(model.path)
        agreement = evaluation.check_probe(engines, probe, context.job.evaluate.probe_tolerance) if probe else None
        files = {split: context.run.path(f"baseline/prompts/{split}.parquet") for split in held_out}
        shard_prompts = context.job.generate.shard_prompts
        facts = evaluation.evaluate(engines, context.workers.graders(), files, plan, shard_prompts, output)
        return facts | {"probe": agreement}

    commit = context.run.step(name, inputs, work)
    context.say(f"{folder:<10} evaluation  {evaluation.summary(commit.facts)}")
    return replace(model, gate=evaluation.solved(context.run.path(f"{name}/gate.parquet")))


@dataclass(frozen=True)
class Round:
    """One click of the ratchet."""

    context: Context
    number: int

    @property
    def folder(self) -> str:
        return f"rounds/{self.number:02d}"

    def prompts(self) -> Commit:
        context = self.context
        problems, data = context.problems["train"], context.job.data
        chosen = prompts_of_round(problems, data, self.number, context.seed("prompts"))
        return tokenize(context, f"{self.folder}/prompts", {"train": chosen})

    def samples_and_verdicts(self, prompts: Commit, sampled_from: Model) -> Graded:
        """Sample and grade, both committed shard by shard, the grading hidden behind the sampling."""
        context, run = self.context, self.context.run
        plan = self._sampling_plan()
        inputs = {
            "model": sampled_from.digest,
            "prompts": hashes(prompts),
            "plan": asdict(plan),
            "engine": context.job.generate.engine,
            "shard_prompts": context.job.generate.shard_prompts,
        }
        samples = run.sharded(f"{self.folder}/samples", inputs)
        verdicts = run.sharded(f"{self.folder}/verdicts", {"samples": inputs, "grade": context.grading})
        source = run.path(f"{self.folder}/prompts/train.parquet")
        shards = streaming.shards_of(source, context.job.generate.shard_prompts)
        if run.committed(verdicts.name) is None:
            streaming.sample_and_grade_shards(
                lambda: context.workers.engines(sampled_from.path),
                context.workers.graders,
                shards,
                plan,
                samples,
                verdicts,
            )
        sampled = samples.finish(streaming.sampling_facts(samples.facts())).facts
        graded = verdicts.finish(streaming.grading_facts(verdicts.facts())).facts
        self.say("samples", f"{sampled['samples']} at {sampled['tokens_per_second']:.0f} tokens/s")
        self.say(
            "verdicts",
            f"{graded['correct']} correct, {graded['wrong']} wrong, {graded['ungradable']} ungradable",
        )
        return Graded(
            [samples.path(i) for i in range(len(shards))],
            [verdicts.path(i) for i in range(len(shards))],
            [*samples.hashes(), *verdicts.hashes()],
        )

    def pairs(self, graded: Graded) -> Commit:
        """Preference pairs from this round's own samples (arXiv 2404.19733, section 2)."""
        settings = self.context.job.pairs
        per_prompt = at_round(settings.per_prompt, self.number)
        seed = self.context.seed("pairs", self.number)
        inputs = {
            "graded": graded.hashes,
            "per_prompt": per_prompt,
            "gold_as_chosen": settings.gold_as_chosen,
            "max_pairs": settings.max_pairs,
            "seed": seed,
        }

        def work(folder: Path) -> Facts:
            folder.mkdir()
            prompts = self.context.run.path(f"{self.folder}/prompts/train.parquet")
            plan = pair_files.PairingPlan(per_prompt, settings.gold_as_chosen, settings.max_pairs, seed)
            return pair_files.write_pairs(prompts, graded.samples, graded.verdicts, plan, folder / "00000.parquet")

        commit = self.context.run.step(f"{self.folder}/pairs", inputs, work)
        facts = commit.facts
        self.say("pairs", f"{facts['pairs']} from {facts['prompts_mixed']} prompts with right and wrong samples")
        if not facts["pairs"]:
            raise NoPairs(
                f"round {self.number} gives no pairs: {facts['prompts_all_correct']} of its prompts have only correct "
                f"samples, {facts['prompts_all_wrong']} only wrong ones, {facts['prompts_mixed']} both. Use other "
                "prompts, a higher temperature, more samples, or gold solutions as winners (pairs.gold_as_chosen)."
            )
        return commit

    def replay(self) -> Commit | None:
        """Pairs of earlier rounds that are trained on again, if the job wants any."""
        share, run = self.context.job.pairs.replay, self.context.run
        if not share or self.number == 1:
            return None
        seed = self.context.seed("replay", self.number)
        steps = [f"rounds/{number:02d}/pairs" for number in range(1, self.number)]
        commits = [run.ledger.state.commits[step] for step in steps]
        inputs = {"pairs": [hashes(commit) for commit in commits], "share": share, "seed": seed}

        def work(folder: Path) -> Facts:
            folder.mkdir()
            files = [run.path(f"{step}/00000.parquet") for step in steps]
            return pair_files.write_replay(files, share, seed, folder / "00000.parquet")

        commit = run.step(f"{self.folder}/replay", inputs, work)
        self.say("replay", f"{commit.facts['pairs']} pairs of {commit.facts['rounds']} earlier rounds")
        return commit

    def train(self, pairs: Commit, replay: Commit | None, init: Model, reference: Model) -> Model:
        """Train `init` on the pairs and those replayed; before that the reference's log-probabilities are computed."""
        run, trainers = self.context.run, self.context.workers.trainers
        settings = self.context.job.train
        weights = self._loss_weights()
        inputs = {
            "init": init.digest,
            "reference": reference.digest,
            "pairs": hashes(pairs) + (hashes(replay) if replay else []),
            "loss": asdict(weights),
            "train": settings.model_dump(mode="json"),
            "round": self.number,
            "seed": self.context.seed("train", self.number),
        }
        # Only what the log-probabilities depend on.
        referencing = {
            "reference": inputs["reference"],
            "pairs": inputs["pairs"],
            "precision": settings.precision,
        }

        files = [run.path(f"{self.folder}/{step}/00000.parquet") for step in ("pairs", "replay")]

        def plan(output: Path, checkpoint: Path) -> TrainingPlan:
            output.mkdir()
            return TrainingPlan(
                init=init.path,
                reference=reference.path,
                pairs=tuple(map(str, files if replay else files[:1])),
                loss=weights,
                learning_rate=at_round(settings.learning_rate, self.number),
                seed=self.context.seed("train", self.number),
                state_dir=str(run.path(f"failures/round-{self.number:02d}")),
                metrics_file=str(output / "metrics.parquet"),
                probe_file=str(output / "probe.parquet"),
                checkpoint_dir=str(checkpoint),
            )

        def compute_reference(output: Path) -> Facts:
            return trainers().reference(plan(output, output), str(output / "00000.parquet"))

        def train(output: Path, checkpoint: Path) -> Facts:
            cached = str(run.path(f"{self.folder}/reference/00000.parquet"))
            return trainers().train(plan(output, checkpoint), cached)

        run.step(f"{self.folder}/reference", referencing, compute_reference)
        checkpoint = f"{self.folder}/checkpoint"
        commit = run.step(f"{self.folder}/train", inputs, train, outputs=[f"{self.folder}/train", checkpoint])
        facts = commit.facts
        self.say("train", f"{facts['steps']} steps, {facts['tokens']} tokens at {facts['tokens_per_second']:.0f}/s")
        return Model(str(run.path(checkpoint)), checkpoint, durable.fingerprint(hashes(commit)), {})

    def evaluate(self, candidate: Model) -> Model:
        probe = self.context.run.path(f"{self.folder}/train/probe.parquet")
        return evaluate(self.context, candidate, self.folder, probe)

    def promote(self, candidate: Model, against: Model) -> None:
        """Ask the gate, once; its answer stands.

        Raises:
            GateStopped: the candidate is not promoted.
        """
        run, rule = self.context.run, self.context.job.promotion
        decision = next((p for p in run.ledger.state.promotions if p["round"] == self.number), None)
        if decision is None:
            decided = gate.decide(rule.rule, rule.alpha, against.gate, candidate.gate)
            reference = candidate.name if decided.promoted else against.name
            decision = {"round": self.number, "rule": rule.rule, "alpha": rule.alpha, "reference": reference}
            decision |= asdict(decided)
            run.append("promotion", decision)
        if decision["round"] == run.ledger.state.promotions[-1]["round"]:  # on a resume, earlier ones are passed over
            durable.replace(run.path("CURRENT"), decision["reference"].encode() + b"\n")
        drop = decision["smallest_detectable_drop"]
        seen = f" The test could see a drop of {100 * drop:.1f} points." if drop is not None else ""
        self.say("gate", decision["reason"] + seen)
        if not decision["promoted"]:
            raise GateStopped(f"round {self.number}: {decision['reason']} The reference stays {decision['reference']}.")

    def say(self, phase: str, text: str) -> None:
        self.context.say(f"{self.folder:<10} {phase:<11} {text}")

    def _sampling_plan(self) -> SamplingPlan:
        generate, number = self.context.job.generate, self.number
        return SamplingPlan(
            samples=at_round(generate.samples, number),
            temperature=at_round(generate.temperature, number),
            top_p=generate.top_p,
            top_k=generate.top_k,
            max_tokens=generate.max_tokens,
            stop=tuple(generate.stop),
            seed=self.context.seed("samples", number),
            seeding=generate.seeding,
        )

    def _loss_weights(self) -> LossWeights:
        loss, number = self.context.job.loss, self.number
        return LossWeights(
            beta=at_round(loss.beta, number),
            dpo=at_round(loss.dpo, number),
            nll=at_round(loss.nll, number),
            nll_scope=loss.nll_scope,
            nll_normalisation=loss.nll_normalisation,
        )


def hashes(commit: Commit) -> list[str]:
    """The sha256 of every file of a commit, in order: what a later step depends on."""
    return [f"{name}:{file['sha256']}" for a in commit.artifacts for name, file in sorted(a.files.items())]
