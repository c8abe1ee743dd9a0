"""A run in words, for MLflow's overview of it: what came out, what the gate decided, and how to go on."""

from __future__ import annotations

import contextlib
import getpass
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

from orchestrator.ledger.ledger import State
from orchestrator.reports.gate_words import gate_said
from orchestrator.reports.rounds import accuracy
from orchestrator.reports.tables import round_step
from orchestrator.text import shown
from orchestrator.text.counts import many

NOTE = "mlflow.note.content"
"""The tag that MLflow shows as a run's description, in Markdown."""
_MOST_ROUNDS = 50


def tags(config: Mapping[str, Any]) -> dict[str, str]:
    """What runs are found and told apart by: method, model, and who started them from which file."""
    job = config["job"]
    model = str(job.get("model", ""))
    found = {"model": PurePath(model).name if model.startswith(("/", ".")) else model}
    if job.get("method"):
        found["method"] = str(job["method"])
    found |= {"mlflow.source.name": str(config["job_file"]), "mlflow.source.type": "LOCAL"}
    with contextlib.suppress(KeyError, OSError, ImportError):  # a container's user may have no name
        found["mlflow.user"] = getpass.getuser()
    return found


def described(run_dir: Path, state: State) -> str:
    """The description of a run, in Markdown."""
    return "\n\n".join(_described(run_dir, state)) + "\n"


def _described(run_dir: Path, state: State) -> Iterator[str]:
    yield f"**{shown.markdown(result(state))}**"
    if decisions := [f"- Round {int(p['round'])}: {shown.markdown(_gate(state, p))}" for p in state.promotions]:
        left = len(decisions) - _MOST_ROUNDS
        yield "\n".join(([f"- ... {many(left, 'round')} before"] if left > 0 else []) + decisions[-_MOST_ROUNDS:])
    if state.end is not None:
        reason = f": {shown.markdown(state.end['reason'])}" if state.end.get("reason") else ""
        yield f"The run is {shown.markdown(state.end['state'])}{reason}"
    run = shown.line(shlex.quote(str(run_dir.absolute())))
    more = len(state.promotions) + 2
    yield "To go on:"
    yield "\n".join(
        [
            f"    ratchet status {run}",
            f"    ratchet resume {run} rounds={more}",
            f"    ratchet fork {run} NEWRUN KEY=VALUE",
            f"    ratchet verify {run}",
        ]
    )


def described_round(
    promotion: Mapping[str, Any], evaluation: Mapping[str, Any] | None = None, warnings: Sequence[str] = ()
) -> str:
    """The description of a round, in Markdown: the gate's word, and what has turned in it."""
    lines = [f"- {shown.markdown(said)}" for said in warnings]
    return "\n".join([shown.markdown(gate_said(promotion, evaluation)), *(["", *lines] if lines else [])]) + "\n"


def _gate(state: State, promotion: Mapping[str, Any]) -> str:
    commit = state.commits.get(round_step(int(promotion["round"]), "evaluation"))
    return gate_said(promotion, commit.facts if commit else None)


def result(state: State) -> str:
    """What a run has come to, in a sentence."""
    promoted = [int(p["round"]) for p in state.promotions if p["promoted"]]
    last, base = promoted[-1] if promoted else 0, _figures(state, 0)
    if not base:
        return "The base model is not evaluated yet."
    if not state.promotions:
        return f"The base model has {_joined(base)}; no round is decided yet."
    if not promoted:
        return (
            f"None of {many(len(state.promotions), 'round')} was promoted: the base model, with {_joined(base)}, stays."
        )
    now = _figures(state, last)
    grown = {split: f"{base[split]} → {value}" for split, value in now.items() if split in base}
    told = f"{_joined(grown)}, base model → round {last}" if grown else f"round {last} is the reference"
    return f"{told}. {len(promoted)} of {many(len(state.promotions), 'round')} promoted."


def round_result(state: State, number: int) -> str:
    """What a round has come to, in a sentence or two."""
    decision = next((p for p in state.promotions if int(p["round"]) == number), None)
    found = _joined(_figures(state, number))
    return f"{found}. {_gate(state, decision)}" if decision else f"{found}. Not decided yet."


def _figures(state: State, number: int) -> dict[str, str]:
    """Accuracies of a round's model, in words, by split: test before gate, which was used to decide."""
    commit = state.commits.get(round_step(number, "evaluation") if number else "baseline/evaluation")
    found = {split: accuracy(commit.facts if commit else None, split) for split in ("test", "gate")}
    return {split: f"{100 * value:.1f} %" for split, value in found.items() if value is not None}


def _joined(figures: Mapping[str, str]) -> str:
    return ", ".join(f"{split} {value}" for split, value in figures.items()) or "no accuracy"
