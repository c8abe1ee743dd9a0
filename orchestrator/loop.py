"""The loop. Each round clicks the reference model forward, never back.

    for each round:
        pairs       what is learned from; of `source: sample` (sources/sample.py):
            prompts     the round's problems, templated and tokenised once
            samples     N completions a prompt, from the reference model
            verdicts    each completion against the gold answer
            pairs       correct against wrong, K a prompt
        candidate   the reference model, trained on the pairs (rounds/training.py)
        evaluation  the candidate on gate and test, greedily
        promote     the candidate is the next reference, if the gate says so

Everything a round does is a `step` of the run, so that the same lines serve a first start and a resume:
what is committed is returned, what is not is done. How a step is done stands in rounds/round.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from orchestrator.config import Job
from orchestrator.ledger.run import Run
from orchestrator.records.rows import Problem
from orchestrator.rounds import measured
from orchestrator.rounds.context import Context, Model, Say, Workers
from orchestrator.rounds.round import Round, better
from orchestrator.sources.registry import SOURCES
from orchestrator.sources.source import Sources


def improve(
    job: Job,
    run: Run,
    workers: Workers,
    problems: Mapping[str, Sequence[Problem]],
    model: str,
    say: Say,
    sources: Sources = SOURCES,
) -> Model:
    """Run the rounds of a job from the base model `model` (an absolute folder); returns the last reference.

    Raises:
        GateStopped: a candidate was not promoted.
        NoPairs: a round gives nothing to learn from.
    """
    context, source = Context(job, run, workers, problems, model, say), sources[job.source.type]
    reference = base = best = context.evaluate_base()
    measured.measure(context, base, "baseline")
    fixed = context.fixed_reference()
    for number in range(1, job.rounds + 1):
        round_ = Round(context, number)
        round_.require_space(source.disk)
        pairs = source.pairs(round_, reference)
        candidate = round_.train(
            pairs,
            round_.replay(),
            round_.held_out_pairs(sampled_from=reference),
            init=reference if job.init == "previous" else base,
            ref=fixed or (reference if job.reference == "previous" else base),
            scored=source.scores_policy,
        )
        best, candidate = round_.comparable(best, round_.evaluate(candidate))
        round_.promote(candidate, against=best)
        reference = candidate
        best = better(best, candidate)
    return reference
