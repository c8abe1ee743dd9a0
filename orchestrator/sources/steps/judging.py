"""A judge's word on reasoning steps: which is an answer's first wrong one; is a right answer right throughout."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from orchestrator.ledger.recipes import Fields, Unseen, Version
from orchestrator.ledger.run import Facts
from orchestrator.records.golds import shown
from orchestrator.records.reasoning_steps import STEP_PROMPT, StepItem
from orchestrator.records.rows import Problem
from orchestrator.rounds.round import Round
from orchestrator.sources.steps.pairing import Error, StepPair
from orchestrator.sources.steps.rollouts import Located


def settings(round_: Round) -> Fields | dict[str, Any]:
    """What can change a judgement, as an input of a step."""
    judge, prompt = round_.context.job.judge, Unseen(Version("step_prompt", STEP_PROMPT))
    return Fields(judge, {"prompt": prompt}) if judge else {}


def locate(round_: Round, errors: Sequence[Error]) -> Located:
    """The first step of each error that the judge does not call correct."""
    problems = {problem.prompt_id: problem for problem in round_.problems()}
    items = [_item(problems[error.prompt_id], error.answer.step_texts) for error in errors]
    judgements, facts = round_.context.workers.judge_steps(items)
    found = {
        error.error_id: None if judgement.first_wrong is None else judgement.first_wrong + 1
        for error, judgement in zip(errors, judgements, strict=True)
        if judgement.failed is None
    }
    return Located(found, {"judge": facts})


def without_wrong_steps(
    round_: Round, pairs: Sequence[StepPair], problems: Mapping[str, Problem], refused: Counter[str]
) -> tuple[list[StepPair], Facts]:
    """The pairs whose right answer the judge finds right throughout. The others are counted in `refused`: "lucky" ones
    have a wrong step, "unjudged" ones no judgement."""
    items = [_item(problems[pair.error.prompt_id], pair.corrected.step_texts) for pair in pairs]
    judgements, facts = round_.context.workers.judge_steps(items)
    kept = []
    for pair, judgement in zip(pairs, judgements, strict=True):
        if judgement.failed is not None:
            refused["unjudged"] += 1
        elif judgement.first_wrong is not None:
            refused["lucky"] += 1
        else:
            kept.append(pair)
    return kept, {"judge": facts}


def _item(problem: Problem, steps: tuple[str, ...]) -> StepItem:
    return StepItem(problem.text, problem.solution, shown(problem.gold), steps)
