"""The gate's decisions, made once more from the committed evaluations: the best model so far against each candidate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from orchestrator.commands.verify.differences import Difference, differences
from orchestrator.commands.verify.history import model_names
from orchestrator.ledger.ledger import State
from orchestrator.ledger.recipes import UsedFiles
from orchestrator.records.abstentions import graders_version
from orchestrator.rounds import evaluation, gate
from orchestrator.rounds.context import Model
from orchestrator.rounds.round import better, promotion_facts
from orchestrator.rounds.run_files import Gone, RunFiles

_BASE = ""


def decisions(files: RunFiles) -> list[tuple[int, list[Difference]]]:
    """By round, where its promotion is not what the gate says; up to the first one whose evaluations are not all there.
    A wording of the reason is part of it: `gate` may not change it without knowing the old one."""
    state, best = files.state, _evaluated(files, _BASE, "baseline/evaluation")
    differences_by_round = []
    for promotion in state.promotions:
        number = int(promotion["round"])
        folder = f"rounds/{number:02d}"
        if f"{folder}/evaluation" not in state.commits:
            break
        try:
            candidate = _evaluated(files, f"{folder}/checkpoint", f"{folder}/evaluation")
            best, candidate = (_regraded(files, model, f"{folder}/regraded") for model in (best, candidate))
        except Gone:
            break
        rule = {"rule": promotion["rule"], "alpha": promotion["alpha"]}
        decided = gate.decide(promotion["rule"], promotion["alpha"], best.gate, candidate.gate)
        decision = promotion_facts(decided, best, candidate)
        whole = state.commits[f"{folder}/evaluation"].recipe > 2  # and so by a version that tells all of it
        differing = differences(promotion, _named(decision, promotion, state), whole=whole)
        differences_by_round.append((number, [*_rule(rule, state), *differing]))
        best = better(best, candidate)
    return differences_by_round


def _evaluated(files: RunFiles, name: str, step: str) -> Model:
    """A model with its results on the gate problems; one that was not evaluated has none."""
    commit = files.state.commits.get(step)
    if commit is None or not commit.artifacts:
        return Model(
            "", name, UsedFiles("", ()), evaluation=step, graders_version=graders_version(commit.facts) if commit else 0
        )
    committed = any("gate.parquet" in artifact.files for artifact in commit.artifacts)
    solved = evaluation.solved(files.one(f"{step}/gate.parquet")) if committed else {}
    return Model(
        "", name, UsedFiles("", ()), gate=solved, evaluation=step, graders_version=graders_version(commit.facts)
    )


def _regraded(files: RunFiles, model: Model, step: str) -> Model:
    """The model with the results that it was compared with, where it was graded once more for that."""
    commit = files.state.commits.get(step)
    names = sorted(commit.facts["evaluations"]) if commit else []
    if commit is None or model.evaluation not in names:
        return model
    solved = evaluation.solved(files.all(step)[names.index(model.evaluation)])
    return replace(model, gate=solved, graders_version=graders_version(commit.facts))


def _rule(rule: dict[str, Any], state: State) -> list[Difference]:
    """Rule and level are those of the job."""
    promotions = [config["job"]["promotion"] for config in state.configs]
    if any(all(job.get(key) == value for key, value in rule.items()) for job in promotions):
        return []
    return list(differences(rule, {key: promotions[-1].get(key) for key in rule})) if promotions else []


def _named(decision: dict[str, Any], promotion: Mapping[str, Any], state: State) -> dict[str, Any]:
    """With the name of the base model, which may lie outside of the run, as the run calls it."""
    known = model_names(state)
    for key in ("reference", "best"):
        if decision[key] == _BASE:
            decision[key] = promotion.get(key) if promotion.get(key) in known else " or ".join(sorted(known))
    return decision
