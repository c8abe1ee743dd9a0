"""What one round does, step by step. Each method is one committed step: its inputs, its work, its facts."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

from orchestrator import durable, gate, pair_files, space, streaming
from orchestrator.cleaning import spare_checkpoints
from orchestrator.config import at_round
from orchestrator.context import Context, Model, hashes
from orchestrator.data import prompts_of_round
from orchestrator.errors import RatchetError
from orchestrator.ledger import Commit, Ledger
from orchestrator.records import SamplingPlan
from orchestrator.run import Facts
from orchestrator.training import Training


class GateStopped(Exception):
    """The gate refused a candidate; the best reference stands."""


class NoPairs(RatchetError):
    """A round's samples make no pair, so there is nothing to train on."""


@dataclass(frozen=True)
class Graded:
    """A round's samples and their verdicts: one file of each a shard, in step."""

    samples: list[Path]
    verdicts: list[Path]
    hashes: list[str]


@dataclass(frozen=True)
class Round:
    """One click of the ratchet."""

    context: Context
    number: int
    split: Literal["train", "gate"] = "train"
    """Problems that it samples; the gate's only for `held_out_pairs`."""

    @property
    def folder(self) -> str:
        return f"rounds/{self.number:02d}" + ("" if self.split == "train" else "/held_out")

    def require_space(self) -> None:
        """Raise DiskFull where this round would not fit on the disk; asked before it, not in the middle."""
        context = self.context
        if context.run.committed(f"{self.folder}/prompts") is None:
            seed, problems = Path(context.seed_model), space.sizes(context.problems)
            need = space.round_need(context.job, self.number, seed, problems)
            space.require_space(context.run.root, need, f"round {self.number}")

    def prompts(self) -> Commit:
        context = self.context
        problems = context.problems[self.split]
        if self.split == "train":
            problems = prompts_of_round(problems, context.job.data, self.number, context.seed("prompts"))
        return context.tokenize(f"{self.folder}/prompts", {self.split: problems})

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
        verdicts = run.sharded(f"{self.folder}/verdicts", {"samples": inputs, "grade": context.grading}, samples)
        source = run.path(f"{self.folder}/prompts/{self.split}.parquet")
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
        speed = f"{sampled['samples']} at {sampled['tokens_per_second']:.0f} tokens/s"
        self.say("samples", speed + streaming.told(sampled))
        counts = f"{graded['correct']} correct, {graded['wrong']} wrong, {graded['ungradable']} ungradable"
        self.say("verdicts", counts + streaming.told(graded))
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
            "prompts": hashes(self.context.run.ledger.state.commits[f"{self.folder}/prompts"]),
            "graded": graded.hashes,
            "per_prompt": per_prompt,
            "gold_as_chosen": settings.gold_as_chosen,
            "max_pairs": settings.max_pairs,
            "seed": seed,
        }

        def work(folder: Path) -> Facts:
            folder.mkdir()
            prompts = self.context.run.path(f"{self.folder}/prompts/{self.split}.parquet")
            plan = pair_files.PairingPlan(per_prompt, settings.gold_as_chosen, settings.max_pairs, seed)
            return pair_files.write_pairs(prompts, graded.samples, graded.verdicts, plan, folder / "00000.parquet")

        commit = self.context.run.step(f"{self.folder}/pairs", inputs, work)
        facts = commit.facts
        self.say("pairs", f"{facts['pairs']} from {facts['prompts_mixed']} prompts with right and wrong samples")
        if not facts["pairs"] and self.split == "train":
            raise NoPairs(
                f"round {self.number} gives no pairs: {facts['prompts_all_correct']} of its prompts have only correct "
                f"samples, {facts['prompts_all_wrong']} only wrong ones, {facts['prompts_mixed']} both. Use other "
                "prompts, a higher temperature, more samples, or gold solutions as winners (pairs.gold_as_chosen)."
            )
        return commit

    def held_out_pairs(self, sampled_from: Model) -> Commit | None:
        """Pairs of the gate problems, for a job that trains on these too once they have chosen (`train.retrain`)."""
        if not self.context.job.train.retrain:
            return None
        gate_side = replace(self, split="gate")
        pairs = gate_side.pairs(gate_side.samples_and_verdicts(gate_side.prompts(), sampled_from))
        return pairs if pairs.facts["pairs"] else None

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

    def train(self, pairs: Commit, replay: Commit | None, held_out: Commit | None, init: Model, ref: Model) -> Model:
        """The candidate: `init`, trained on the pairs relative to the reference `ref`; see training.py."""
        training = Training(self.context, self.number, self.folder, init, ref)
        return training.candidate(pairs, replay, held_out)

    def evaluate(self, candidate: Model) -> Model:
        return self.context.evaluate(candidate, f"{self.folder}/evaluation")

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
            self._point_to_reference()
        drop = decision["smallest_detectable_drop"]
        seen = f" The test could see a drop of {100 * drop:.1f} points." if drop is not None else ""
        self.say("gate", decision["reason"] + seen)
        if not decision["promoted"]:
            raise GateStopped(
                f"round {self.number}: {decision['reason']} The reference stays {decision['reference']}. To go on with "
                f"other settings: `ratchet fork {run.root} NEWRUN KEY=VALUE`."
            )
        for path in spare_checkpoints(run.ledger.state, self.context.job.keep.checkpoints):
            run.discard(path)

    def _point_to_reference(self) -> None:
        """Write CURRENT. Where another driver has taken over and come further, its word is what stays there."""
        run, written = self.context.run, None
        newest = run.ledger.state.promotions[-1]["reference"]
        while written != newest:
            durable.replace(run.path("CURRENT"), newest.encode() + b"\n")
            written, newest = newest, Ledger(run.ledger.folder).state.promotions[-1]["reference"]

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
