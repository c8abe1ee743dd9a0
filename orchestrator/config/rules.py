"""Settings that make no sense together, whatever the source; what a source needs and refuses is in sources/."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from orchestrator.config.base import at_round
from orchestrator.config.forms import FORMS
from orchestrator.config.learning import BY_SCORE, GROUPING
from orchestrator.config.lora import lora_contradictions
from orchestrator.config.reward import needs_golds, reward_contradictions
from orchestrator.config.sources import KINDS, listed
from orchestrator.config.sources.base import gold_solutions

if TYPE_CHECKING:
    from orchestrator.config.job import Job


def contradictions(job: Job) -> Iterator[str]:
    """Settings that make no sense together, each with the reason and the cure."""
    yield from _nothing_to_learn(job)
    yield from _of_another_source(job)
    yield from _missing_problems(job)
    yield from _imitation(job)
    yield from _forms(job)
    yield from lora_contradictions(job)
    yield from reward_contradictions(job)
    yield from job.source.contradictions(job)
    yield from _too_much_of_scores(job)
    for key, grade in (("grade", job.grade), ("regrade.grade", job.regrade.grade if job.regrade else None)):
        if grade and "judge" in grade.graders and job.judge is None:
            yield f"`judge` among `{key}.graders` needs `judge.model`, the model that judges"


def _weights(weight: float | list[float]) -> list[float]:
    return weight if isinstance(weight, list) else [weight]


def _forms(job: Job) -> Iterator[str]:
    """Of what the loss's form reads, and does not."""
    compared, form = any(_weights(job.loss.dpo)), job.loss.form
    named = f"`reference: {job.fixed_reference}` names a model that nothing is compared with"
    if job.fixed_reference is not None and not compared:
        yield f"{named}: `loss.dpo` is 0. Leave `reference` out, or set `loss.dpo`"
    elif job.fixed_reference is not None and not FORMS[form].reads_reference:
        yield f"{named}: `loss.form: {form}` reads none. Leave `reference` out, or take another form"
    if compared and form == "robust" and not job.loss.smoothing:
        yield "`loss.form: robust` needs `loss.smoothing`, the share of pairs that are the wrong way round"
    if compared and FORMS[form].rows == "group" and not _makes_groups(job):
        readers = listed([name for name, kind in KINDS.items() if "pairs.rule" in kind.reads])
        yield (
            f"`loss.form: {form}` compares a chosen completion with a group of rejected ones, which only `pairs.rule: "
            f"best_rest` makes, with {readers}; of single pairs `form: sigmoid` is the same loss"
        )
    if compared and FORMS[form].reads_scores and not job.source.has_scores(job):
        yield (
            f"`loss.form: {form}` goes by how far the scores of both sides are apart, and with `source: "
            f"{job.source.type}` samples have none, such as `source: judge` gives: take another form"
        )


def _makes_groups(job: Job) -> bool:
    return job.pairs.rule in GROUPING and "pairs.rule" in job.source.reads


def _nothing_to_learn(job: Job) -> Iterator[str]:
    for number in range(1, max(len(_weights(job.loss.dpo)), len(_weights(job.loss.nll))) + 1):
        if not at_round(job.loss.dpo, number) and not at_round(job.loss.nll, number):
            yield f"`loss.dpo` and `loss.nll` are both 0 in round {number}: there is nothing to learn from"


def _of_another_source(job: Job) -> Iterator[str]:
    """Settings that only another source takes."""
    for kind in KINDS.values():
        for key, words in kind.only.items():
            section, _, name = key.partition(".")
            is_set = getattr(getattr(job, section), name) if name else section in job.beside
            if is_set and key not in job.source.only:
                yield words.format(source=job.source.type)


def _missing_problems(job: Job) -> Iterator[str]:
    """Problems, which only a job with nothing but preference data can do without."""
    needed = job.source.needs_problems
    if needed and job.data.train is None:
        yield f"`source: {job.source.type}` needs `data.train`, the problems that prompts are drawn from"
    needed = needed and needs_golds(job)  # where scores alone decide, nothing needs to be held out
    if needed and job.data.test is None:
        yield f"`source: {job.source.type}` needs `data.test`, held-out problems that are reported"
    elif job.evaluate.samples and job.data.test is None:
        yield "`evaluate.samples` answers the test problems, and there is no `data.test`"
    if job.data.gate is not None:
        return
    if job.promotion.rule != "always":
        yield f"`promotion.rule: {job.promotion.rule}` needs `data.gate`, the held-out problems that decide"
    elif needed:
        yield f"`source: {job.source.type}` needs `data.gate`, held-out problems of the same kind"
    elif job.train.eval_every is not None:
        yield "`train.eval_every` answers the gate problems, and there is no `data.gate`"


def _imitation(job: Job) -> Iterator[str]:
    """Of jobs whose pairs have no rejected side, or gold solutions on the chosen one."""
    if (job.source.imitates or job.pairs.imitates) and any(_weights(job.loss.dpo)):
        yield (
            "`loss.dpo` compares with rejected completions, and there are none to imitate gold solutions or samples: "
            "set `loss.dpo: 0` and `loss.nll: 1`"
        )
    if job.pairs.gold_as_chosen:
        yield from gold_solutions(job, "pairs.gold_as_chosen")


def _too_much_of_scores(job: Job) -> Iterator[str]:
    """Rules that ask more of the scores than they tell."""
    pairs, (lowest, highest) = job.pairs, job.source.scores
    if pairs.gold_as_chosen == "only" and pairs.rule in BY_SCORE:
        yield (
            f"`pairs.rule: {pairs.rule}` goes by scores alone, and would take other samples than the gold solution: "
            "with `gold_as_chosen: only` set `rule: zip`"
        )
    if pairs.rule == "margin" and job.reward is None and pairs.margin > highest - lowest:
        yield f"`pairs.margin` is {pairs.margin:g}, and no two scores from {lowest:g} to {highest:g} are so far apart"
