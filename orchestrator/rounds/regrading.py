"""Stored answers graded once more, where models are compared whose answers different versions of the graders judged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from orchestrator.ledger.run import Facts
from orchestrator.ledger.uses import files_of
from orchestrator.records.abstentions import graders_version
from orchestrator.records.rows import GRADERS_VERSION
from orchestrator.rounds import evaluation
from orchestrator.rounds.context import Context, Model, executed, graded_by, grading


def comparable(context: Context, models: Sequence[Model], name: str) -> list[Model]:
    """The models with results on the gate problems that one version of the graders gave.

    Where they are by several, the stored answers of those that are not by the present one are graded again, as the
    step `name`. Their evaluations stay what they are.
    """
    run = context.run
    if len({model.graders_version for model in models if model.gate}) < 2:
        return list(models)
    done = run.committed(name)
    version = graders_version(done.facts) if done else GRADERS_VERSION
    others = {m.evaluation: m for m in models if m.gate and m.graders_version != version}
    files = {step: f"{number:02d}.parquet" for number, step in enumerate(others)}
    commits = run.ledger.state.commits
    inputs = {
        "evaluations": {step: files_of(commits[step]) for step in others},
        "prompts": files_of(commits["baseline/prompts"]),
        **grading(context.job.grade, context.job.judge),
        "executed": executed(**graded_by(context.job.grade, context.job.judge)),
    }

    def work(folder: Path) -> Facts:
        folder.mkdir()
        asked = run.path("baseline/prompts/gate.parquet")
        graders = context.workers.graders(context.job.grade)
        facts_by_evaluation = {
            step: evaluation.regrade(graders, run.path(f"{step}/gate.parquet"), asked, folder / file)
            for step, file in files.items()
        }
        return {"evaluations": facts_by_evaluation, "graders_version": version}

    commit = run.step(name, inputs, work)
    facts_by_evaluation = commit.facts["evaluations"]
    for step, model in others.items():
        counted = facts_by_evaluation[step]
        context.say(
            f"{name}: the gate answers of {step} are by version {model.graders_version} of the graders; by version "
            f"{version}, {counted['changed']} of {counted['problems']} count otherwise"
        )
    with run.using(files_of(commit)):
        again = {step: evaluation.solved(run.path(f"{name}/{file}")) for step, file in files.items()}
    return [
        replace(m, gate=again[m.evaluation], graders_version=version) if m.evaluation in others else m for m in models
    ]
