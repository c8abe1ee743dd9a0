"""Samples scored by reward models: `rewards`, a step a model, shard by shard; then `scores`, what comes of them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from math import isclose
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from orchestrator.config import Job, Reward, RewardModel
from orchestrator.config.reward import Scoring
from orchestrator.errors import Damaged, RatchetError
from orchestrator.ledger.recipes import Fields
from orchestrator.ledger.run import Facts
from orchestrator.ledger.sharded import ShardedStep
from orchestrator.ledger.uses import files_of
from orchestrator.records.parquet import read_table
from orchestrator.records.rewards import REWARD_CAUSES, RewardPlan, RewardTask, RewardWorkers
from orchestrator.records.rows import SELF_SCORES
from orchestrator.rounds import sampling
from orchestrator.rounds.context import Model, executed
from orchestrator.rounds.pair_files import Scored
from orchestrator.rounds.readiness import ready
from orchestrator.rounds.recount import Counting
from orchestrator.rounds.round import GradedSamples, NoPairs, Round
from orchestrator.rounds.scoring import Rewarded, Scale, ScoringRule, Tally, score
from orchestrator.text.counts import many

KEYS = ("prompt_id", "sample_index")
_LARGEST = 3.5e38
"""Of a reward: models compute in 32 bits at most. What is larger is somebody's edit, and its square is no number."""
_COUNTS = ("answers", "rewarded", *REWARD_CAUSES, "tokens")


class Shard(NamedTuple):
    """The files of some samples: they themselves, their verdicts, and the rewards of each model."""

    samples: Path
    verdicts: Path
    rewards: tuple[Path, ...]


def scored(round_: Round, graded: GradedSamples) -> GradedSamples:
    """The samples, with scores made of their rewards in place of verdicts.

    Raises:
        NoPairs: none has a score.
    """
    context = round_.context
    reward = context.job.reward
    if reward is None or graded.drawn is None:
        raise RuntimeError("a job without reward models asks for rewards")
    models = [context.kept_model(step) for step in reward.kept()]
    steps = [
        _rewarded(round_, graded, graded.drawn, phase, model, settings)
        for phase, model, settings in zip(reward.phases(), models, reward.models, strict=True)
    ]
    return _scores(round_, graded, reward, steps)


def plan_of(settings: RewardModel, model: str, job: Job) -> RewardPlan:
    """How a reward model in a folder is asked."""
    return RewardPlan(model, "outcome", settings.max_tokens, settings.form, dtype=settings.dtype, date=job.data.date)


def workers_of(settings: Scoring) -> RewardWorkers:
    """The processes that hold a reward model."""
    return RewardWorkers(settings.workers, settings.per_gpu, settings.cpus, settings.device, settings.stall_timeout)


def _rewarded(
    round_: Round, graded: GradedSamples, samples: ShardedStep, phase: str, model: Model, settings: RewardModel
) -> ShardedStep:
    """One model's rewards of all samples, committed shard by shard."""
    context, run = round_.context, round_.context.run
    reward = context.job.reward
    assert reward is not None
    plan = plan_of(settings, model.path, context.job)
    prompts = files_of(run.ledger.state.commits[f"{round_.folder}/prompts"])
    inputs = {
        "samples": samples.inputs,
        "model": model.files,
        "plan": Fields(plan, without=("model",)),
        "executed": executed(reward=reward),
    }
    rewards = run.sharded(f"{round_.folder}/{phase}", inputs, samples, files=[*prompts, model.files])
    if run.committed(rewards.name) is None:
        rewards.expect(sum(facts["samples"] for facts in samples.facts()), "samples", ["answers"], ["rewarded"])
        with rewards.guarding():
            tasks = list(_tasks(round_, graded, samples, rewards))
            if tasks:
                rewarders, wait = ready(lambda: context.workers.rewarders(plan, workers_of(reward)))
                wall = sampling.Lap()
                for task, facts in rewarders.score(tasks):
                    rewards.commit(task.index, facts | {"wall": wall.lap()} | wait.once())
    facts = rewards.finish(reward_facts(rewards.facts(), rewards.own_facts())).facts
    mean = "" if facts["mean_reward"] is None else f", {facts['mean_reward']:.3f} on average"
    left = ", ".join(f"{facts[cause]:,} {WORDS[cause]}" for cause in REWARD_CAUSES if facts.get(cause))
    told = f"{facts['rewarded']} samples rewarded by {settings.model}{mean}"
    round_.say(phase, told + (f"; {left}" if left else "") + sampling.mishaps_text(facts))
    return rewards


WORDS = {
    "too_long": "too long for the model",
    "special_token": "with a text that spells one of its special tokens",
    "not_finite": "for which it gave no number",
}
"""What there are so many of, by why they have no reward."""


def _tasks(round_: Round, graded: GradedSamples, samples: ShardedStep, rewards: ShardedStep) -> Iterator[RewardTask]:
    """The shards that have no rewards yet."""
    for part in sampling.shards_of(graded.prompts, round_.context.job.generate.shard_prompts):
        if not rewards.has(part.index):
            files = str(samples.path(part.index)), str(rewards.hidden(part.index))
            yield RewardTask(part.index, str(graded.prompts), part.start, part.stop, *files)


def reward_facts(shards: Sequence[Facts], own: Sequence[Facts] | None = None) -> Facts:
    """Facts of a whole step of rewards; `own` as for `sampling.sampling_facts`."""
    total: Facts = {key: sum(facts.get(key, 0) for facts in shards) for key in _COUNTS}
    timed = shards if own is None else own
    summed = sum(facts["mean_reward"] * facts["rewarded"] for facts in shards if facts["rewarded"])
    total["mean_reward"] = summed / total["rewarded"] if total["rewarded"] else None
    total["seconds"] = round(sum(facts.get("wall", 0.0) for facts in timed), 3)
    if any("starting" in facts for facts in timed):
        total["starting"] = round(sum(facts.get("starting", 0) for facts in timed), 3)
    forms = {"form": shards[0]["form"]} if shards and "form" in shards[0] else {}
    return total | forms | sampling.mishaps(shards, "rewarders_lost")


def _scores(round_: Round, graded: GradedSamples, reward: Reward, steps: Sequence[ShardedStep]) -> GradedSamples:
    """The step `scores`: one number a sample."""
    run, rule = round_.context.run, scoring_rule(reward)
    inputs = {
        "graded": graded.files,
        "rewards": [step.files_of_shards() for step in steps],
        "rule": rule,
    }
    shards = [
        Shard(shard.samples, shard.scores, tuple(step.path(index) for step in steps))
        for index, shard in zip(graded.indices, graded.shards, strict=True)
    ]

    def work(folder: Path) -> Facts:
        folder.mkdir()
        tables, facts = scores_of(shards, rule)
        for number, table in enumerate(tables):
            pq.write_table(table, folder / f"{number:05d}.parquet", compression="zstd")
        return facts

    commit = run.step(f"{round_.folder}/scores", inputs, work)
    round_.say("scores", "; ".join([f"{many(commit.facts['scored'], 'sample')} scored", *_agreements(commit.facts)]))
    if not commit.facts["scored"]:
        raise NoPairs(
            f"round {round_.number}: no sample has a score: {_unscored(commit.facts)}. Raise `generate.max_tokens` or "
            "`reward.models[].max_tokens`, or see whether the graders read the gold answers (`reward.verdict_weight`)."
        )
    files = (run.path(f"{round_.folder}/scores/{number:05d}.parquet") for number in range(len(shards)))
    with_scores = [Scored(shard.samples, file) for shard, file in zip(graded.shards, files, strict=True)]
    return GradedSamples(graded.prompts, with_scores, [*graded.files, *files_of(commit)])


def _agreements(facts: Facts) -> Iterator[str]:
    for number, said in enumerate(facts["rewards"], 1):
        if "agreement" in said:
            which = f" (model {number})" if len(facts["rewards"]) > 1 else ""
            yield f"right ones above wrong ones in {100 * said['agreement']:.1f} %{which}"


def _unscored(facts: Facts) -> str:
    given = ", ".join(str(said["rewarded"]) for said in facts["rewards"])
    return f"the models give {given} of the samples that ended a reward"


def scoring_rule(reward: Reward) -> ScoringRule:
    """How a job's rewards become scores."""
    return ScoringRule(tuple(model.weight for model in reward.models), reward.verdict_weight, reward.normalisation)


def scores_of(shards: Sequence[Shard], rule: ScoringRule) -> tuple[Iterator[pa.Table], Facts]:
    """The scores of the samples of each shard (schema SELF_SCORES), and what there is to tell of all: `scored`, how
    many have one; `rewards`, the figures of each model (scoring.figures), and `combined` those of their weighted sum,
    where there are several.

    The files are read twice, a shard at a time: how far rewards are spread is known after the first.
    """
    tally, weighed = Tally(len(rule.weights)), Tally(1)
    for shard in shards:
        tally.add(rewarded(shard))
    scales, alone = tally.scales(rule), replace(rule, verdict_weight=0.0)
    count = 0
    for samples in map(rewarded, shards):
        count += sum(score(sample, rule, scales) is not None for sample in samples)
        if len(rule.weights) > 1:
            weighed.add(sample._replace(rewards=(score(sample, alone, scales),)) for sample in samples)
    facts: Facts = {"scored": count, "rewards": tally.figures()}
    if len(rule.weights) > 1:
        [facts["combined"]] = weighed.figures()
    return (_table(rewarded(shard), rule, scales) for shard in shards), facts


def rewarded(shard: Shard) -> list[Rewarded]:
    """The samples of a shard with their rewards, in the order of their file.

    Raises:
        RatchetError: verdicts or rewards are not those of its samples.
        Damaged: a reward is no number that a model can give.
    """
    table = read_table(shard.samples, columns=[*KEYS, "finish_reason"])
    verdicts = _in_order(table, shard.verdicts, "verdict").to_pylist()
    rewards = [_in_order(table, file, "reward").to_pylist() for file in shard.rewards]
    for file, given in zip(shard.rewards, rewards, strict=True):
        if any(reward is not None and not abs(reward) <= _LARGEST for reward in given):  # NaN is neither
            raise Damaged(f"{file}: some of its rewards are no numbers that a model gives. Restore it from a copy.")
    right = [{"correct": True, "wrong": False}.get(verdict) for verdict in verdicts]
    keys = (table[name].to_pylist() for name in KEYS)
    ended = [reason == "stop" for reason in table["finish_reason"].to_pylist()]
    return [Rewarded(*row) for row in zip(*keys, zip(*rewards, strict=True), right, ended, strict=True)]


def _in_order(samples: pa.Table, file: Path, column: str) -> pa.ChunkedArray:
    table = read_table(file, columns=[*KEYS, column])
    if any(not table[key].equals(samples[key]) for key in KEYS):
        raise RatchetError(f"{file}: its rows are not those of its samples, in their order")
    return table[column]


def _table(samples: Sequence[Rewarded], rule: ScoringRule, scales: Sequence[Scale]) -> pa.Table:
    rows: list[dict[str, Any]] = []
    for sample in samples:
        given = score(sample, rule, scales)
        row = {"prompt_id": sample.prompt_id, "sample_index": sample.sample_index, "score": given}
        rows.append(row | {"judgements": sum(reward is not None for reward in sample.rewards)})
    return pa.Table.from_pylist(rows, SELF_SCORES)


# For `verify`


def shard_again(run: Counting, step: str, index: int) -> Facts:
    """Of a committed shard of rewards."""
    table = read_table(run.files.shard(step, index))
    samples = read_table(run.files.shard(f"{_folder(step)}/samples", index), columns=list(KEYS))
    if any(not table[key].equals(samples[key]) for key in KEYS):
        raise Damaged("its rows are not those of its samples, in their order")
    return rewarded_again(table)


def rewarded_again(table: pa.Table) -> Facts:
    """Of a file of rewards.

    Raises:
        Damaged: it tells of an answer both a reward and why there is none, or neither.
    """
    rewards, causes = table["reward"].to_pylist(), Counter(table["cause"].to_pylist())
    if any(
        (reward is None) == (cause is None) for reward, cause in zip(rewards, table["cause"].to_pylist(), strict=True)
    ):
        raise Damaged("some of its answers have both a reward and a cause why they have none, or neither")
    given = [reward for reward in rewards if reward is not None]
    facts = {"answers": table.num_rows, "rewarded": len(given)} | {cause: causes[cause] for cause in REWARD_CAUSES}
    facts["tokens"] = sum(table["num_tokens"].to_pylist())
    return facts | {"mean_reward": sum(given) / len(given) if given else None}


def rewards_again(run: Counting, step: str, *_: str | None) -> Facts:
    """Of all shards of rewards together, of which each shard of samples has one."""
    there = [sorted(run.state.shards.get(name, {})) for name in (step, f"{_folder(step)}/samples")]
    if there[0] != there[1]:
        raise Damaged(f"committed are the shards {there[0]}, and of its samples the shards {there[1]}")
    facts = reward_facts(run.files.shard_facts(step))
    return {key: facts[key] for key in (*_COUNTS, "mean_reward")}


def scores_again(run: Counting, step: str) -> Facts:
    """Of the scores, which must be those that the rewards give."""
    reward, folder = run.job.reward, step.rpartition("/")[0]
    if reward is None:
        raise Damaged("the job has no `reward`")
    files = [run.files.shards(f"{folder}/{phase}") for phase in ("samples", "verdicts", *reward.phases())]
    shards = [Shard(file, files[1][index], tuple(of[index] for of in files[2:])) for index, file in files[0].items()]
    tables, facts = scores_of(shards, scoring_rule(reward))
    for table, file in zip(tables, run.files.all(step), strict=True):
        found = read_table(file, columns=SELF_SCORES.names)
        if not _same(table.to_pylist(), found.to_pylist()):
            raise Damaged(f"{file.name}: its scores are not those that the job makes of the rewards")
    return facts


def _same(wanted: Sequence[dict[str, Any]], found: Sequence[dict[str, Any]]) -> bool:
    """Whether scores are the same; sums on another machine may be rounded otherwise."""
    if len(wanted) != len(found):
        return False
    for one, other in zip(wanted, found, strict=True):
        a, b = one.pop("score"), other.pop("score")
        if (
            one != other
            or (a is None) != (b is None)
            or (a is not None and not isclose(a, b, rel_tol=1e-9, abs_tol=1e-9))
        ):
            return False
    return True


def _folder(step: str) -> str:
    """That of the samples whose rewards a step has."""
    return re.sub(r"(/reward/\d+)?/rewards$", "", step)
