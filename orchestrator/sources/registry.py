"""What a round learns from, by the job's `source`: each of these ends in the round's committed pairs.

sample   its own samples, scored against gold answers
gold     the gold solutions
dataset  a chunk of preference data
steps    single steps of its own samples
judge    its own samples, scored by the model itself
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from orchestrator.ledger.ledger import Commit
from orchestrator.ledger.run import Facts
from orchestrator.rounds import pair_files
from orchestrator.rounds.context import Model, TooLong
from orchestrator.rounds.round import Graded, NoPairs, Round
from orchestrator.sources import self_rewarding, stages
from orchestrator.sources.steps import pairs as step_pairs


def pairs(this: Round, model: Model) -> Commit:
    """The pairs of a round, whose samples are drawn from `model`.

    Raises:
        NoPairs: there is nothing to learn from.
    """
    return _SOURCES[this.context.job.source.type](this, model)


def from_samples(this: Round, model: Model) -> Commit:
    """The model's own samples, right ones against wrong ones (arXiv 2404.19733), or the right ones alone."""
    graded = this.samples_and_verdicts(this.prompts(), model)
    hinted = _with_hints(this, graded, model) if this.context.job.generate.hint else None
    return this.pairs(graded, hinted)


def from_gold(this: Round, model: Model) -> Commit:
    """The gold solutions, to be imitated."""
    this.prompts()
    plan, path = this.pairing_plan(), this.context.run.path(f"{this.folder}/prompts/{this.split}.parquet")

    def work(folder: Path) -> Facts:
        folder.mkdir()
        return pair_files.write_gold(path, plan, folder / "00000.parquet")

    commit = this.make_pairs({"gold": True}, replace(plan, rule="correct"), work)
    if not commit.facts["pairs"]:
        raise NoPairs(f"round {this.number} has nothing to imitate: none of its prompts has a gold solution")
    return commit


def _with_hints(this: Round, graded: Graded, model: Model) -> Graded | None:
    """What no sample solved, sampled once more with the answer as a hint (arXiv 2203.14465, section 3.2)."""
    with this.context.run.using(graded.hashes):
        unsolved = set(pair_files.unsolved(graded.shards))
    problems = [replace(p, text=p.hint or "") for p in this.problems() if p.prompt_id in unsolved]
    if not problems:
        return None
    hinted = replace(this, part="hinted")
    try:
        prompts = this.context.tokenize(f"{hinted.folder}/prompts", {this.split: problems})
    except TooLong:  # a hint is a help, not a need
        hinted.say("prompts", f"with its hint, each of {len(problems)} unsolved prompts is too long for the context")
        return None
    return hinted.samples_and_verdicts(prompts, model, replace(hinted.sampling_plan(), samples=1))


_SOURCES = {
    "sample": from_samples,
    "gold": from_gold,
    "dataset": stages.pairs,
    "steps": step_pairs.collect,
    "judge": self_rewarding.pairs,
}
