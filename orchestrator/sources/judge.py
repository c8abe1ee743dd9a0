"""Samples scored by the model that drew them (Self-Rewarding Language Models, arXiv 2401.10020, section 2.2).

A judgement is a sample like any other, of a prompt that shows a response and asks for a score; the score is what the
graders find in it. A response's score is the mean of several judgements.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from orchestrator.config import Job, SelfRewarding, at_round
from orchestrator.inputs.problem_set import ProblemSet
from orchestrator.ledger.ledger import Commit, State
from orchestrator.ledger.run import Facts
from orchestrator.ledger.uses import files_of
from orchestrator.records.parquet import read_table
from orchestrator.records.rows import SELF_SCORES, Problem
from orchestrator.reports.columns import Reported
from orchestrator.reports.evidence import Evidence
from orchestrator.reports.lineage import Trail
from orchestrator.reports.sampled import SAMPLES
from orchestrator.reports.symptoms import Past, given_up
from orchestrator.rounds import pair_files, space
from orchestrator.rounds.context import Model, TooLong
from orchestrator.rounds.recount import Counting, Recounted
from orchestrator.rounds.round import GradedSamples, NoPairs, Round
from orchestrator.sources.lineage import SAMPLED, Sampled
from orchestrator.sources.source import Drawn, Prompts, Source, sampled
from orchestrator.text.counts import many

MIN_SCORED = 0.5
"""Share of the model's own judgements with a score."""
_OWN_TEMPLATE = 1000  # characters of the prompt for a judgement, where the job has none
_LOOKED_AT = 100  # problems, before a run; what is asked about each differs by its response alone

TEMPLATE = """\
Read a user's question and a response to it, and give the response points, one for each of these that holds:
- It is relevant, and gives some of the information that was asked for.
- It deals with a good part of the question, even if not with all of it.
- It answers the heart of the question in a useful way.
- It is written for the user: clear, complete and well ordered.
- It could not be better: correct in every detail, to the point, showing real knowledge.

Question: {prompt}

<response>{response}</response>

Say in at most 100 words why you give how many points, and close with a line "Score: " and the number of points, from 0
to 5.
"""


def pairs(round_: Round, model: Model) -> Commit:
    """The round's pairs: the samples that the model likes better against those that it likes less.

    Raises:
        NoPairs: every prompt's samples have the same score, or none.
    """
    graded = round_.samples_and_verdicts(round_.prompts(), model)
    judged = _self_judged(round_, graded, model)
    return round_.pairs(_scores(round_, graded, judged))


def _self_judged(round_: Round, graded: GradedSamples, model: Model) -> GradedSamples:
    """Judgements of every sample that ended by itself; a prompt of theirs is named PROMPT#SAMPLE."""
    settings, part = SelfRewarding.of(round_.context.job), replace(round_, part="judged")
    questions = {problem.prompt_id: problem.text for problem in round_.problems()}
    with round_.context.run.using(graded.files):
        problems = ProblemSet(_questions(graded.shards, questions, settings.template or TEMPLATE))
    if not problems:
        raise NoPairs(f"round {round_.number} has no sample to judge: all are empty or reach generate.max_tokens")
    try:
        prompts = round_.context.tokenize(
            f"{part.folder}/prompts",
            {part.split: problems},
            examples=(),
            system=None,
            max_tokens=settings.max_tokens,
        )
    except TooLong as error:
        raise TooLong(
            f"round {round_.number}: no sample can be judged: with self_judge.template around it and "
            "self_judge.max_tokens more tokens, each is too long for the model's context (generate.max_model_len)"
        ) from error
    plan = replace(
        part.sampling_plan(),
        samples=settings.samples,
        temperature=settings.temperature,
        temperature_mix=(),
        top_p=1.0,
        top_k=0,
        max_tokens=settings.max_tokens,
        stop=(),
    )
    # The score is found where an answer would be, in a process that can be killed: a judgement is untrusted text.
    places = {"answer": [f"pattern:{settings.pattern}"], "graders": ["exact"], "strict": True}
    grade = round_.context.job.grade.model_copy(update=places)
    return part.samples_and_verdicts(prompts, model, plan, grade)


def _questions(shards: Sequence[pair_files.Scored], questions: dict[str, str], template: str) -> Iterator[Problem]:
    for shard in shards:
        for row in read_table(shard.samples).to_pylist():
            if row["finish_reason"] == "stop" and row["text"].strip():
                question = questions[row["prompt_id"]].strip()
                text = fill(template, prompt=question, response=row["text"].strip())
                yield Problem(f"{row['prompt_id']}#{row['sample_index']}", text, "0", None)


def fill(template: str, prompt: str, response: str) -> str:
    """The template with its two fields filled in, in one pass: a response that looks like a field stays what it is."""
    parts = {"{prompt}": prompt, "{response}": response}
    return re.sub(r"\{prompt\}|\{response\}", lambda field: parts[field[0]], template)


def _scores(round_: Round, graded: GradedSamples, judged: GradedSamples) -> GradedSamples:
    """The samples with their mean scores in place of verdicts."""
    settings, run = SelfRewarding.of(round_.context.job), round_.context.run
    inputs = {"samples": graded.files, "judgements": judged.files, "settings": settings}

    def work(folder: Path) -> Facts:
        folder.mkdir()
        scores_by_sample = scores_found(judged.shards, settings)
        for number, shard in enumerate(graded.shards):
            rows = read_table(shard.samples, columns=["prompt_id", "sample_index"]).to_pylist()
            for row in rows:
                scores = scores_by_sample.get((row["prompt_id"], row["sample_index"]), [])
                row |= {"score": sum(scores) / len(scores) if scores else None, "judgements": len(scores)}
            pq.write_table(
                pa.Table.from_pylist(rows, SELF_SCORES), folder / f"{number:05d}.parquet", compression="zstd"
            )
        return score_facts(scores_by_sample)

    commit = run.step(f"{round_.folder}/scores", inputs, work)
    facts = commit.facts
    mean = f", {facts['mean_score']:.2f} on average" if facts["mean_score"] is not None else ""
    round_.say("scores", f"{many(facts['scored'], 'sample')} scored by {many(facts['judgements'], 'judgement')}{mean}")
    if not facts["scored"]:
        raise NoPairs(
            f"round {round_.number}: none of the model's judgements holds a score (self_judge.pattern is "
            f"{settings.pattern!r}): the model does not know how to judge. Teach it first (method sft, with judgements "
            "among the gold solutions), or ask in another way (self_judge.template)."
        )
    shards = [
        pair_files.Scored(shard.samples, run.path(f"{round_.folder}/scores/{number:05d}.parquet"))
        for number, shard in enumerate(graded.shards)
    ]
    return GradedSamples(graded.prompts, shards, [*graded.files, *files_of(commit)])


def score_facts(scores_by_sample: Mapping[tuple[str, int], Sequence[float]]) -> Facts:
    """How many judgements have a score, of how many samples, and the mean of all scores."""
    given_scores = [score for scores in scores_by_sample.values() for score in scores]
    mean = sum(given_scores) / len(given_scores) if given_scores else None
    return {"judgements": len(given_scores), "scored": len(scores_by_sample), "mean_score": mean}


def scores_found(shards: Sequence[pair_files.Scored], settings: SelfRewarding) -> dict[tuple[str, int], list[float]]:
    """The scores of each sample, by prompt and sample."""
    scores_by_sample: dict[tuple[str, int], list[float]] = defaultdict(list)
    for shard in shards:
        table = read_table(shard.scores, columns=["prompt_id", "extracted"])
        for name, extracted in zip(*(table[c].to_pylist() for c in ("prompt_id", "extracted")), strict=True):
            prompt_id, _, index = name.rpartition("#")
            try:
                score = float(extracted)
            except (TypeError, ValueError):
                continue
            if settings.lowest <= score <= settings.highest:
                scores_by_sample[prompt_id, int(index)].append(score)
    return scores_by_sample


def _follow(run_dir: Path, state: State, place: str) -> Iterator[str]:
    return Sampled(run_dir, state, place, scored=True).findings()


def _recount_scores(run: Counting, step: str) -> Facts:
    judged = run.files.scored(f"{step.removesuffix('scores')}judged")
    return score_facts(scores_found(judged, SelfRewarding.of(run.job)))


def _recount(run: Counting, step: str, number: str) -> Facts:
    folder = step.rpartition("/")[0]
    shards = zip(run.files.scored(folder), run.files.all(f"{folder}/scores"), strict=True)
    return run.chosen(step, int(number), [pair_files.Scored(shard.samples, scores) for shard, scores in shards])


def _rows(job: Job, number: int, problems: space.Sizes) -> tuple[int, int]:
    """With the prompts that show the samples to the model, and what it says about them."""
    settings, shown = SelfRewarding.of(job), job.generate.max_tokens * space.BYTES_A_TOKEN
    num_prompts, prompt = space.prompted(job, number, problems)
    asked = prompt + 3 * max(len(settings.template), _OWN_TEMPLATE) + shown
    said = settings.samples * (settings.max_tokens * space.BYTES_A_TOKEN + space.BYTES_A_VERDICT)
    pairs, written = space.sampled(job, number, problems)
    return pairs, written + num_prompts * at_round(job.generate.samples, number) * (asked + said)


def _drawn(job: Job, number: int, problems: space.Sizes) -> list[Drawn]:
    settings, [drawn] = SelfRewarding.of(job), sampled(job, number, problems)
    judged = Drawn("judged/samples", drawn.samples * settings.samples, settings.max_tokens, drawn.samples)
    return [drawn, judged]


def _judgements(job: Job, problems: Sequence[Problem]) -> Iterator[Prompts]:
    """With a response to be judged, in whose place the gold answer stands here."""
    settings = SelfRewarding.of(job)
    template = settings.template or TEMPLATE
    judged = [
        replace(problem, text=fill(template, problem.text.strip(), problem.solution or problem.gold), solution=None)
        for problem in problems[:_LOOKED_AT]
    ]
    if judged:
        yield Prompts(
            "self_judge.template",
            "judge",
            judged,
            {"examples": (), "system": None, "max_tokens": settings.max_tokens},
        )


def _no_scores(evidence: Evidence, past: Past) -> Iterator[str]:
    asked, scored = evidence.round.count("judged/samples", "samples"), evidence.round.count("scores", "judgements")
    if "scores" in evidence.round.facts and asked and scored < MIN_SCORED * asked:
        yield (
            f"only {100 * scored / asked:.0f} % of the model's judgements hold a score: it hardly knows how to judge. "
            "Look at them, at `self_judge.max_tokens` and at `self_judge.pattern`."
        )


def _given_up(evidence: Evidence, past: Past) -> Iterator[str]:
    return given_up(evidence, "judged/samples", "without the judgement that they ask for")


SOURCE = Source(
    pairs=pairs,
    trail=Trail(("pairs", "scores", *(f"judged/{step}" for step in SAMPLED[1:]), *SAMPLED[1:]), _follow),
    recounted=Recounted(
        {r"rounds/\d+/scores": _recount_scores, r"rounds/(\d+)/pairs": _recount},
        parts=["judged"],
    ),
    disk=space.Disk(_rows),
    reported=Reported([SAMPLES], symptoms=[_no_scores, _given_up]),
    derived=_judgements,
    drawn=_drawn,
)
