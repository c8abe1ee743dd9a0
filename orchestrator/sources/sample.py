"""Pairs of whole samples, also of hinted ones: the source `sample`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from orchestrator.config import Job, at_round
from orchestrator.errors import Damaged
from orchestrator.inputs.problem_set import ProblemSet
from orchestrator.ledger.ledger import Commit, State
from orchestrator.ledger.run import Facts
from orchestrator.ledger.waves import PARTS
from orchestrator.records.rows import Problem
from orchestrator.reports.columns import Reported
from orchestrator.reports.evidence import Evidence
from orchestrator.reports.lineage import Trail
from orchestrator.reports.rewards import GAMED, REWARDS
from orchestrator.reports.sampled import CURRICULUM, SAMPLES, TEMPERATURE, WAVES
from orchestrator.reports.symptoms import Past, given_up
from orchestrator.rounds import curriculum, pair_files, redrawn, rewards, space, temperature, waves
from orchestrator.rounds.context import Model, TooLong
from orchestrator.rounds.recount import Counting, Recounted
from orchestrator.rounds.round import GradedSamples, Round
from orchestrator.sources.lineage import SAMPLED, Sampled
from orchestrator.sources.source import Drawn, Prompts, Source, sampled


def pairs(round_: Round, model: Model) -> Commit:
    """The model's own samples, right ones against wrong ones (arXiv 2404.19733), or the right ones alone; or by their
    scores, where reward models give some (arXiv 2405.07863)."""
    curriculum.decide(round_.context, round_.number)
    temperature.decide(round_.context, round_.number)
    graded = waves.samples_and_verdicts(round_, round_.prompts(), model)
    if round_.context.job.reward is not None:
        return round_.pairs(rewards.scored(round_, graded))
    hinted = _with_hints(round_, graded, model) if round_.context.job.generate.hint else None
    return round_.pairs(graded, hinted)


def _with_hints(round_: Round, graded: GradedSamples, model: Model) -> GradedSamples | None:
    """What no sample solved, sampled once more with the answer as a hint (arXiv 2203.14465, section 3.2)."""
    with round_.context.run.using(graded.files):
        unsolved = set(pair_files.unsolved(graded.shards))
    problems = ProblemSet(replace(p, text=p.hint or "") for p in round_.problems() if p.prompt_id in unsolved)
    if not problems:
        return None
    hinted = replace(round_, part="hinted")
    try:
        prompts = round_.context.tokenize(f"{hinted.folder}/prompts", {round_.split: problems})
    except TooLong:  # a hint is a help, not a need
        hinted.say("prompts", f"with its hint, each of {len(problems)} unsolved prompts is too long for the context")
        return None
    return hinted.samples_and_verdicts(prompts, model, replace(hinted.sampling_plan(), samples=1))


def _follow(run_dir: Path, state: State, place: str) -> Iterator[str]:
    by_rewards = bool(state.configs[-1]["job"].get("reward")) and not place.endswith("/held_out")
    return Sampled(run_dir, state, place, scored=by_rewards).findings()


def _recount(run: Counting, step: str, number: str) -> Facts:
    folder = step.rpartition("/")[0]
    if run.job.reward is not None:
        with_scores = zip(run.files.scored(folder), run.files.all(f"{folder}/scores"), strict=True)
        return run.chosen(step, int(number), [shard._replace(scores=scores) for shard, scores in with_scores])
    hinted = run.files.scored(f"{folder}/hinted") if f"{folder}/hinted/prompts" in run.state.commits else []
    return run.chosen(step, int(number), run.files.scored(folder), hinted)


def _temperature(run: Counting, step: str, number: str) -> Facts:
    rule = run.job.generate.adapt_temperature
    if rule is None:
        raise Damaged("the job has no `generate.adapt_temperature`")
    before = temperature.of_round(run.job, run.state, int(number) - 1)
    shards = run.files.scored(f"rounds/{int(number) - 1:02d}")
    return temperature.decided(before, [[wave.scores for wave in shard.waves] for shard in shards], rule)


def _rows(job: Job, number: int, problems: space.Sizes) -> tuple[int, int]:
    pairs, written = space.sampled(job, number, problems)
    if job.generate.hint:  # were no prompt solved
        _, more = space.paired(job, number, problems, samples=1, per_prompt=0)
        written += more
    if job.reward is not None:
        prompts, _ = space.prompted(job, number, problems)
        samples = prompts * at_round(job.generate.samples, number)
        written += samples * (len(job.reward.models) + 1) * space.BYTES_A_REWARD
    return pairs, written


def _drawn(job: Job, number: int, problems: space.Sizes) -> list[Drawn]:
    [drawn] = sampled(job, number, problems)
    hinted = Drawn("hinted/samples", drawn.prompts, drawn.max_tokens, drawn.prompts)  # were no prompt solved
    return [drawn, hinted] if job.generate.hint else [drawn]


def _hints(job: Job, problems: Sequence[Problem]) -> Iterator[Prompts]:
    if job.generate.hint:
        hinted = ProblemSet(replace(problem, text=problem.hint or "") for problem in problems)
        yield Prompts("data.hint_template", "hint", hinted)


def _given_up(evidence: Evidence, past: Past) -> Iterator[str]:
    yield from given_up(evidence, "hinted/samples", "have no sample with a hint")
    for phase in evidence.round.waves("samples")[1:]:
        yield from given_up(evidence, phase, "have no samples but those of earlier waves")


SOURCE = Source(
    pairs=pairs,
    trail=Trail(SAMPLED, _follow),
    recounted=Recounted(
        {
            r"rounds/(\d+)/pairs": _recount,
            r"rounds/(\d+)/temperature": _temperature,
            r"rounds/(\d+)/curriculum": redrawn.facts_again,
            r"(rounds/\d+)/wave/(\d+)/prompts": waves.facts_again,
            r"rounds/\d+/(?:reward/\d+/)?rewards": rewards.rewards_again,
            r"rounds/\d+/scores": rewards.scores_again,
        },
        parts=["hinted", PARTS],
        shards={"rewards": rewards.shard_again},
    ),
    disk=space.Disk(_rows),
    reported=Reported(
        [SAMPLES, REWARDS, WAVES, CURRICULUM, TEMPERATURE],
        [("reward models", "reward.models")],
        symptoms=[_given_up, *GAMED],
    ),
    derived=_hints,
    drawn=_drawn,
)
