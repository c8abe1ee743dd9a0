"""What one round does, step by step. Each method is one committed step: its inputs, its work, its facts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from orchestrator.config import Data, Grade, Job, Pairs, at_round
from orchestrator.config.forms import FORMS
from orchestrator.errors import RatchetError
from orchestrator.inputs.problem_set import selection
from orchestrator.inputs.problems import require_enough
from orchestrator.ledger.ledger import Commit
from orchestrator.ledger.recipes import Fields, UsedFiles
from orchestrator.ledger.run import Facts
from orchestrator.ledger.sharded import ShardedStep
from orchestrator.ledger.taken import taken
from orchestrator.ledger.uses import files_of
from orchestrator.records.abstentions import abstained
from orchestrator.records.rows import GRADERS_VERSION, Problem, SamplingPlan
from orchestrator.records.seeds import derived_seed
from orchestrator.reports.gate_words import gate_said
from orchestrator.rounds import gate, lengths, measured, pair_files, regrading, sampling, space, temperature
from orchestrator.rounds.context import Context, Model, engine, executed, graded_by, grading
from orchestrator.rounds.curriculum import drawn_for, usual_draw
from orchestrator.rounds.pair_words import no_pairs, summary
from orchestrator.rounds.pairing import PairingPlan
from orchestrator.rounds.spare import spare_checkpoints
from orchestrator.rounds.training import Training
from orchestrator.text.counts import many


class GateStopped(Exception):
    """The gate refused a candidate; the best reference stands."""


class NoPairs(RatchetError):
    """A round's samples make no pair, so there is nothing to train on."""


@dataclass(frozen=True)
class GradedSamples:
    """A round's samples and their verdicts, shard by shard."""

    prompts: Path
    """The file of prompts that was sampled."""
    shards: list[pair_files.Scored]
    files: list[UsedFiles]
    indices: Sequence[int] = ()
    """That of each shard."""
    drawn: ShardedStep | None = None
    """The step of the samples."""


@dataclass(frozen=True)
class Round:
    """One click of the ratchet."""

    context: Context
    number: int
    part: str = ""
    """A part of the round that samples for itself, in a folder of its own below the round's; "" is the round."""
    split: Literal["train", "gate"] = "train"
    """Problems that it samples; the gate's only for `held_out_pairs`."""

    @property
    def folder(self) -> str:
        return f"rounds/{self.number:02d}" + (f"/{self.part}" if self.part else "")

    def require_space(self, disk: space.Disk) -> None:
        """Raise DiskFull where this round would not fit on the disk; asked before it, not in the middle. `disk` is what
        the source of its pairs says."""
        context = self.context
        if context.run.committed(f"{self.folder}/{disk.begins}") is None:
            base, problems = Path(context.base_model), space.sizes(context.problems)
            if (kept := context.run.committed("baseline/preferences")) is not None:
                problems["stages"] = (kept.facts["pairs"], kept.facts["characters"])
            need = space.round_need(context.job, self.number, base, problems, disk)
            space.require_space(context.run.root, need, f"round {self.number}")

    def problems(self) -> Sequence[Problem]:
        """The problems that the round's prompts are made of."""
        problems = self.context.problems[self.split]
        if self.split == "train":
            drawn = drawn_for(self.context.job, self.context.run, self.number, len(problems))
            if drawn is not None:
                return selection(problems, drawn)
            seed = self.context.seed("prompts")
            problems = prompts_of_round(problems, self.context.job.data, self.number, seed)
        return problems

    def prompts(self) -> Commit:
        """The round's problems as prompts: one file, by the name of the split.

        Raises:
            TooLong: none of them leaves room for a completion.
        """
        return self.context.tokenize(f"{self.folder}/prompts", {self.split: self.problems()})

    def samples_and_verdicts(
        self,
        prompts: Commit,
        sampled_from: Model,
        plan: SamplingPlan | None = None,
        grade: Grade | None = None,
        cut_as: Commit | None = None,
    ) -> GradedSamples:
        """Sample and grade, both committed shard by shard, the grading hidden behind the sampling. `plan` and `grade`
        are the job's unless given. Where these are only some prompts of `cut_as`, shards are cut as of that."""
        context, run = self.context, self.context.run
        usual = context.grade_of(self.number)
        plan, grade = plan or self.sampling_plan(), grade or usual
        inputs = {
            "model": sampled_from.files,
            "prompts": files_of(prompts),
            "plan": plan,
            **engine(context.workers, context.job.generate),
            "shard_prompts": context.job.generate.shard_prompts,
            "executed": executed(generate=context.job.generate),
            **({"cut_as": files_of(cut_as)} if cut_as else {}),
        }
        samples = run.sharded(f"{self.folder}/samples", inputs)
        graded_from = {"samples": inputs, **grading(grade, context.job.judge)}
        graded_from["executed"] = executed(**graded_by(grade, context.job.judge))
        verdicts = run.sharded(f"{self.folder}/verdicts", graded_from, samples, GRADERS_VERSION, files_of(prompts))
        for version, number in verdicts.outdated.items():
            shards_were = "1 shard was" if number == 1 else f"{number} shards were"
            self.say(
                "verdicts",
                f"{shards_were} graded by version {version} of the graders, and are graded again by "
                f"version {GRADERS_VERSION}: a step mixes no versions",
            )
        source, shards = self._slices(prompts, cut_as)
        if run.committed(verdicts.name) is None:
            total = plan.samples * sum(shard.stop - shard.start for shard in shards)
            samples.expect(total, "samples", ["samples"], ["tokens"])
            verdicts.expect(total, "samples", ["correct", "wrong", "ungradable"])
            with samples.guarding(), verdicts.guarding():
                sampling.sample_and_grade_shards(
                    lambda: context.engines(sampled_from, samples.executed),
                    lambda: context.workers.graders(grade),
                    lengths.told(self, shards),
                    plan,
                    samples,
                    verdicts,
                )
        sampled = samples.finish(sampling.sampling_facts(samples.facts(), samples.own_facts())).facts
        graded = verdicts.finish(sampling.grading_facts(verdicts.facts(), verdicts.own_facts())).facts
        anew = samples.fresh and not taken(run.ledger.state, samples.name)
        speed = f" at {sampled['tokens_per_second']:.0f} tokens/s" if anew else ""
        self.say("samples", f"{sampled['samples']}{speed}{sampling.mishaps_text(sampled)}")
        why = abstained(graded)
        counts = f"{graded['correct']} correct, {graded['wrong']} wrong, {graded['ungradable']} ungradable"
        counts += f" ({why})" if why else ""
        if grade is usual:  # else somebody looks for other things than right answers
            self.say("verdicts", counts + sampling.mishaps_text(graded))
        indices = [shard.index for shard in shards]
        scored = [pair_files.Scored(samples.path(i), verdicts.path(i)) for i in indices]
        return GradedSamples(source, scored, samples.files_of_shards() + verdicts.files_of_shards(), indices, samples)

    def _slices(self, prompts: Commit, cut_as: Commit | None) -> tuple[Path, list[sampling.Slice]]:
        """The file of prompts, and where it is cut."""
        run, size = self.context.run, self.context.job.generate.shard_prompts
        source = run.path(f"{self.folder}/prompts/{self.split}.parquet")
        with run.using([*files_of(prompts), *(files_of(cut_as) if cut_as else [])]):
            if cut_as is None:
                return source, sampling.shards_of(source, size)
            whole = run.path(f"{cut_as.step}/{self.split}.parquet")
            return source, sampling.shards_as_of(source, whole, size)

    def pairs(self, graded: GradedSamples, hinted: GradedSamples | None = None) -> Commit:
        """Preference pairs, or samples to be imitated, from this round's own samples (arXiv 2404.19733, section 2).

        Raises:
            NoPairs: these training samples make none.
        """
        plan = self.pairing_plan()
        inputs = {"graded": graded.files, "hinted": hinted.files if hinted else []}

        def work(folder: Path) -> Facts:
            folder.mkdir()
            more = hinted.shards if hinted else []
            return pair_files.write_pairs(graded.prompts, graded.shards, plan, folder / "00000.parquet", more)

        commit = self.make_pairs(inputs, plan, work)
        if not commit.facts["pairs"] and self.split == "train":
            raise NoPairs(f"round {self.number} gives {no_pairs(commit.facts, plan)}")
        return commit

    def make_pairs(self, inputs: Mapping[str, Any], plan: PairingPlan, work: Callable[[Path], Facts]) -> Commit:
        """Commit the round's pairs, which `work` writes to 00000.parquet in a new folder, from these inputs, its
        prompts and the plan."""
        prompts = files_of(self.context.run.ledger.state.commits[f"{self.folder}/prompts"])
        everything = Fields(plan, {"prompts": prompts, **inputs})
        commit = self.context.run.step(f"{self.folder}/pairs", everything, work)
        self.say("pairs", summary(commit.facts, plan))
        return commit

    def held_out_pairs(self, sampled_from: Model) -> Commit | None:
        """Pairs of the gate problems, for a job that trains on these too once they have chosen (`train.retrain`)."""
        if not self.context.job.train.retrain:
            return None
        gate_side = replace(self, part="held_out", split="gate")
        pairs = gate_side.pairs(gate_side.samples_and_verdicts(gate_side.prompts(), sampled_from))
        return pairs if pairs.facts["pairs"] else None

    def replay(self) -> Commit | None:
        """Pairs of earlier rounds that are trained on again, if the job wants any."""
        settings, run = self.context.job.pairs, self.context.run
        share = settings.replay
        if not share or self.number == 1:
            return None
        seed = self.context.seed("replay", self.number)
        earlier = rounds_replayed(settings, self.number)
        steps = [f"rounds/{number:02d}/pairs" for number in earlier]
        commits = [run.ledger.state.commits[step] for step in steps]
        inputs = {"pairs": [files_of(commit) for commit in commits], "share": share, "seed": seed}

        def work(folder: Path) -> Facts:
            folder.mkdir()
            files = [run.path(f"{step}/00000.parquet") for step in steps]
            return pair_files.write_replay(files, share, seed, folder / "00000.parquet", earlier[0])

        commit = run.step(f"{self.folder}/replay", inputs, work)
        self.say("replay", f"{many(commit.facts['pairs'], 'pair')} of {many(commit.facts['rounds'], 'earlier round')}")
        return commit

    def train(
        self, pairs: Commit, replay: Commit | None, held_out: Commit | None, init: Model, ref: Model, scored: bool
    ) -> Model:
        """The candidate: `init`, trained on the pairs relative to the reference `ref`; see training.py. Where it is to
        be `scored`, the pairs are ranked by it as well.

        Raises:
            RatchetError: the training failed; the message is the worker's.
        """
        training = Training(self.context, self.number, self.folder, init, ref)
        candidate = training.candidate(pairs, replay, held_out)
        if scored:
            training.score_policy(candidate, pairs, [commit for commit in (pairs, replay, held_out) if commit])
        return candidate

    def evaluate(self, candidate: Model) -> Model:
        """The candidate with its results on the gate problems.

        Raises:
            ProbeFailed: engine and trainer disagree about it.
        """
        candidate = self.context.evaluate(candidate, f"{self.folder}/evaluation")
        measured.measure(self.context, candidate, self.folder)
        return candidate

    def comparable(self, best: Model, candidate: Model) -> tuple[Model, Model]:
        """Both with gate results by one version of the graders."""
        best, candidate = regrading.comparable(self.context, (best, candidate), f"{self.folder}/regraded")
        return best, candidate

    def promote(self, candidate: Model, against: Model) -> None:
        """Ask the gate, once; its answer stands.

        Raises:
            GateStopped: the candidate is not promoted.
        """
        run, rule = self.context.run, self.context.job.promotion
        decision = next((p for p in run.ledger.state.promotions if p["round"] == self.number), None)
        if decision is None:
            decided = gate.decide(rule.rule, rule.alpha, against.gate, candidate.gate)
            decision = {"round": self.number, "rule": rule.rule, "alpha": rule.alpha}
            decision |= promotion_facts(decided, against, candidate)
            if candidate.name not in run.ledger.state.discarded:  # a fork decides anew on what was removed
                run.require(candidate.files)  # what is promoted is what was evaluated
            run.append("promotion", decision)
        if decision["round"] == run.ledger.state.promotions[-1]["round"]:  # on a resume, earlier ones are passed over
            self._point_to_reference()
        evaluated = run.ledger.state.commits.get(f"{self.folder}/evaluation")
        said = gate_said(decision, evaluated.facts if evaluated else None)
        self.say("gate", said)
        if not decision["promoted"]:
            raise GateStopped(
                f"round {self.number}: {said}. To go on with other settings: `ratchet fork {run.root} NEWRUN "
                "KEY=VALUE`."
            )
        for path in spare_checkpoints(run.ledger.state, self.context.job.keep.checkpoints):
            run.discard(path)

    def _point_to_reference(self) -> None:
        """Write CURRENT. Where another driver has taken over and come further, its word is what stays there."""
        run, written = self.context.run, None
        newest = run.ledger.state.promotions[-1]["reference"]
        while written != newest:
            run.write("CURRENT", newest.encode() + b"\n")
            written, newest = newest, run.ledger.as_it_is().state.promotions[-1]["reference"]

    def say(self, phase: str, text: str) -> None:
        self.context.tell(self.folder, phase, text)

    def sampling_plan(self) -> SamplingPlan:
        """How this round samples. Parts of it, such as search/01, sample training problems with seeds of their own."""
        generate, number = self.context.job.generate, self.number
        purpose = ("samples", number, self.part) if self.split == "train" and self.part else ("samples", number)
        return SamplingPlan(
            samples=at_round(generate.samples, number),
            temperature=temperature.of_round(self.context.job, self.context.run.ledger.state, number),
            top_p=generate.top_p,
            top_k=generate.top_k,
            max_tokens=generate.max_tokens,
            stop=tuple(generate.stop),
            seed=self.context.seed(*purpose),
            seeding=generate.seeding,
            temperature_mix=tuple(generate.temperature_mix or ()),
        )

    def pairing_plan(self) -> PairingPlan:
        return pairing_plan(self.context.job, self.number)


def prompts_of_round(problems: Sequence[Problem], data: Data, round_number: int, seed: int) -> Sequence[Problem]:
    """The training problems of a round (from 1) that no round before it decides.

    Raises:
        BadInput: `prompts: new`, and there are too few problems for so many rounds.
    """
    require_enough(problems, data, round_number)
    order = usual_draw(len(problems), data, round_number, seed)
    return problems if len(order) == len(problems) else selection(problems, order)


def pairing_plan(job: Job, number: int) -> PairingPlan:
    """How a round's pairs are made."""
    settings = job.pairs
    return PairingPlan(
        per_prompt=at_round(settings.per_prompt, number),
        rule=settings.rule,
        margin=settings.margin,
        gold_as_chosen=settings.gold_as_chosen,
        rejected=settings.rejected,
        distinct=settings.distinct,
        max_pairs=settings.max_pairs,
        seed=derived_seed(job.seed, "pairs", number),
        scores=FORMS[job.loss.form].reads_scores,
    )


def rounds_replayed(settings: Pairs, number: int) -> range:
    """The earlier rounds whose pairs round `number` trains on again, where the job wants that."""
    return range(max(1, number - (settings.replay_rounds or number)), number)


def promotion_facts(decided: gate.Decision, against: Model, candidate: Model) -> dict[str, Any]:
    """What a promotion record says of the gate's decision, beside round, rule and alpha."""
    reference, best = candidate if decided.promoted else against, better(against, candidate)
    return {"reference": reference.name, "best": best.name, "graders_version": candidate.graders_version} | asdict(
        decided
    )


def better(before: Model, candidate: Model) -> Model:
    """The better one on the gate problems; of equals the earlier."""
    return max(before, candidate, key=lambda model: model.gate_accuracy)
