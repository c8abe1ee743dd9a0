"""Settings that make no sense together."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from orchestrator.config.base import (
    at_round,
)

if TYPE_CHECKING:
    from orchestrator.config.job import Job


def contradictions(job: Job) -> Iterator[str]:
    """Settings that make no sense together, each with the reason and the cure."""
    imitates = job.source == "gold" or job.pairs.rule == "correct"
    dpo, nll = (w if isinstance(w, list) else [w] for w in (job.loss.dpo, job.loss.nll))
    for number in range(1, max(len(dpo), len(nll)) + 1):
        if not at_round(job.loss.dpo, number) and not at_round(job.loss.nll, number):
            yield f"`loss.dpo` and `loss.nll` are both 0 in round {number}: there is nothing to learn from"
    if job.source == "dataset" and job.stages is None:
        yield "`source: dataset` needs `stages.sources`, the files or data sets with preference data"
    if job.source != "dataset" and job.stages is not None:
        yield f"`stages` is for `source: dataset` (method sdpo); with `source: {job.source}` nothing reads it"
    if job.source != "dataset" and job.data.train is None:
        yield f"`source: {job.source}` needs `data.train`, the problems that prompts are drawn from"
    yield from _missing_problems(job)
    if imitates and job.source in ("dataset", "steps", "judge"):
        yield f"`pairs.rule: correct` imitates correct samples; with `source: {job.source}` there are none"
    if imitates and any(dpo):
        yield (
            "`loss.dpo` compares with rejected completions, and there are none to imitate gold solutions or correct "
            "samples: set `loss.dpo: 0` and `loss.nll: 1`"
        )
    if not any(dpo) and job.fixed_reference is not None:
        yield (
            f"`reference: {job.fixed_reference}` names a model that nothing is compared with: `loss.dpo` is 0. Leave "
            "`reference` out, or set `loss.dpo`"
        )
    if not any(dpo) and job.source == "steps":
        yield "`source: steps` makes pairs of steps, which `loss.dpo: 0` would not use: the rejected ones are the point"
    if (job.source == "gold" or job.pairs.gold_as_chosen) and job.data.solution is None:
        key = "source: gold" if job.source == "gold" else "pairs.gold_as_chosen"
        yield f"`{key}` needs `data.solution`, the field with the worked gold solution"
    if (job.source == "gold" or job.pairs.gold_as_chosen) and not job.pairs.append_eos:
        yield "`pairs.append_eos: false` is for preference data: a model that imitates gold solutions must learn to end"
    if job.source == "judge" and job.pairs.rule not in ("best_worst", "margin"):
        yield "`source: judge` gives scores, no verdicts: set `pairs.rule: best_worst` or `margin`"
    if job.generate.hint and (job.source != "sample" or job.data.hint_template is None):
        yield "`generate.hint` needs `source: sample` and `data.hint_template`, the prompt that gives the answer away"
    if job.generate.hint and job.pairs.rule != "correct":
        yield "`generate.hint` gives further correct samples to imitate: set `pairs.rule: correct` and `loss.dpo: 0`"
    if job.generate.hint and job.pairs.gold_as_chosen:
        yield "`generate.hint` is for prompts without a solution to imitate, and `pairs.gold_as_chosen` gives all one"
    yield from _too_much_of_scores(job)
    yield from _no_better_and_worse(job)
    longest = job.generate.max_model_len
    if job.source == "judge" and longest is not None and job.self_judge.max_tokens >= longest:
        yield (
            f"`self_judge.max_tokens` ({job.self_judge.max_tokens}) leaves no room for a prompt in "
            f"`generate.max_model_len` ({longest})"
        )
    if job.source == "dataset" and job.reference == "previous" and job.pairs.replay:
        yield (
            "`pairs.replay` trains on earlier stages' data again, which the reference has seen by then: a reference "
            "must not know its stage's data. Set `pairs.replay: 0`, or `reference: base`"
        )
    if job.source == "dataset" and job.stages and job.rounds > job.stages.chunks:
        yield f"`rounds` is {job.rounds}, and `stages` gives {job.stages.chunks} chunks, one a round"
    if job.source == "steps" and "judge" in (job.steps.localiser, job.steps.filter) and job.judge is None:
        yield "`steps.localiser: judge` and `steps.filter: judge` need `judge.model`, the model that judges"
    if job.steps.localiser == "file" and job.steps.verdicts is not None and job.rounds > 1:
        yield (
            f"`steps.verdicts` is one file, and each of {job.rounds} rounds asks about other answers: leave it out, "
            "and write verdicts/round-01.jsonl and so on in the run's folder"
        )
    if job.source == "steps" and job.pairs.gold_as_chosen:
        yield (
            "`pairs.gold_as_chosen` puts whole gold solutions into pairs, and those of `source: steps` are of "
            "single steps: leave it out"
        )
    for key, grade in (("grade", job.grade), ("regrade.grade", job.regrade.grade if job.regrade else None)):
        if grade and "judge" in grade.graders and job.judge is None:
            yield f"`judge` among `{key}.graders` needs `judge.model`, the model that judges"
    if job.train.retrain and job.source != "sample":
        yield "`train.retrain` makes pairs of the gate problems as of the others, with `source: sample` only"


def _too_much_of_scores(job: Job) -> Iterator[str]:
    """Rules that ask more of the scores than they tell."""
    pairs = job.pairs
    lowest, highest = (job.self_judge.lowest, job.self_judge.highest) if job.source == "judge" else (0.0, 1.0)
    if job.source == "judge" and pairs.gold_as_chosen:
        yield "`pairs.gold_as_chosen` needs verdicts: with `source: judge` a gold solution has no score"
    if pairs.gold_as_chosen == "only" and pairs.rule in ("best_worst", "margin"):
        yield (
            f"`pairs.rule: {pairs.rule}` goes by scores alone, and would take other samples than the gold solution: "
            "with `gold_as_chosen: only` set `rule: zip`"
        )
    if pairs.rule == "margin" and pairs.margin > highest - lowest:
        yield f"`pairs.margin` is {pairs.margin:g}, and no two scores from {lowest:g} to {highest:g} are so far apart"


def _no_better_and_worse(job: Job) -> Iterator[str]:
    """Sampling that can give no pair, whatever the model says."""
    only_samples = job.pairs.rule != "correct" and not job.pairs.gold_as_chosen
    paired, generate = job.source == "judge" or (job.source == "sample" and only_samples), job.generate
    schedules = (s for s in (generate.samples, generate.temperature) if isinstance(s, list))
    for number in range(1, min(job.rounds, max(map(len, schedules), default=1)) + 1):
        if paired and at_round(generate.samples, number) == 1:
            yield f"`generate.samples` is 1 in round {number}, and a pair takes a better and a worse sample of a prompt"
        if (paired or job.source == "steps") and not any(
            generate.temperature_mix or [at_round(generate.temperature, number)]
        ):
            yield f"the temperature is 0 in round {number}: all samples of a prompt are then the same, and make no pair"


def _missing_problems(job: Job) -> Iterator[str]:
    """Held-out problems that only a job with nothing but preference data can do without."""
    if job.source != "dataset" and job.data.test is None:
        yield f"`source: {job.source}` needs `data.test`, held-out problems that are reported"
    if job.data.gate is not None:
        return
    if job.promotion.rule != "always":
        yield f"`promotion.rule: {job.promotion.rule}` needs `data.gate`, the held-out problems that decide"
    elif job.source != "dataset":
        yield f"`source: {job.source}` needs `data.gate`, held-out problems of the same kind"
    elif job.train.eval_every is not None:
        yield "`train.eval_every` answers the gate problems, and there is no `data.gate`"
