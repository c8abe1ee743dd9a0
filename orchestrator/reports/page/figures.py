"""What the page tells of a run as a whole: state and result in sentences, figures by round, training curves, seconds,
and the known ways such loops go wrong. JSON values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from orchestrator.config.sources import kind_of
from orchestrator.ledger.ledger import Ledger, State
from orchestrator.records.abstentions import WORDS, causes
from orchestrator.reports import harness
from orchestrator.reports.columns import Reporting
from orchestrator.reports.evidence import Evidence, base_of
from orchestrator.reports.gate_words import gate_said
from orchestrator.reports.health import health, words
from orchestrator.reports.inspection.views import Document, reference_before
from orchestrator.reports.report import evidence
from orchestrator.reports.rounds import rounds
from orchestrator.reports.seconds import idle, walls
from orchestrator.reports.status import reason, run_state
from orchestrator.reports.symptoms import symptoms
from orchestrator.text.counts import bracketed, many

POINTS = 400
"""Of a training curve, in a round; where there are more updates, each point is a mean of several."""
CURVES = ("loss", "chosen_logprob", "rejected_logprob", "reward_accuracy")
_SPLITS = ("gate", "test")
_EVALUATED = (
    *("problems", "correct", "accuracy", "low", "high", "mean_tokens"),
    *("truncated", "unreadable"),
)


def figures(run_dir: Path, sources: Mapping[str, Reporting], ledger: Ledger) -> Document:
    """`name`, `folder`, `state`, `records` and `time` (how far the ledger was read, and when its last record was
    written, in seconds since 1970), some `sentences`, `rounds` (0 is the base model), `harness`, `curves`
    by round and `warnings`."""
    state = ledger.state
    job: Mapping[str, Any] = state.configs[-1]["job"] if state.configs else {}
    base = base_of(state)
    done = [evidence(run_dir, state, round_) for round_ in rounds(state)]
    warnings = symptoms(base, done, sources[kind_of(job).name()].reported.symptoms)
    took, now = walls(ledger.records), run_state(run_dir, state)
    why = [f"Why: {said}"] if (said := reason(state, now)) else []
    return {
        "name": str(job.get("name", run_dir.absolute().name)),
        "folder": run_dir.absolute().name,
        "state": now,
        "records": len(ledger.records),
        "time": ledger.records[-1].time,
        "sentences": [
            _state(now, job, done),
            *why,
            *(f"The run was {rollback.line()}." for rollback in state.rollbacks),
            _result(base, done),
            _health(done, warnings),
        ],
        "rounds": [_round(each, state, took) for each in (base, *done)],
        "harness": _harness([base, *done]),
        "curves": [_curves(each) for each in done if each.metrics],
        "warnings": warnings,
    }


def _state(now: str, job: Mapping[str, Any], done: Sequence[Evidence]) -> str:
    decided = sum(1 for each in done if each.promotion)
    wanted = job.get("rounds", decided)
    counted = f"{decided} of {wanted} rounds are decided"
    if decided > wanted:  # a resume has said so
        counted = f"{many(decided, 'round')} are decided, and {wanted} wanted"
    what = f", {job['method']}" if job.get("method") else ""
    model = f" from the base model {job['model']}" if job.get("model") else ""
    return f"The run is {now}: {counted}{what}{model}."


def _result(base: Evidence, done: Sequence[Evidence]) -> str:
    start = base.figures("test")
    promoted = [each for each in done if each.promotion.get("promoted") and each.figures("test")]
    if not start:
        return "The base model is not evaluated yet."
    if not promoted:
        return f"Test accuracy of the base model is {_accuracy(start)}; no round is promoted so far."
    now = promoted[-1].figures("test") or start
    gain = 100 * (now["accuracy"] - start["accuracy"])
    return (
        f"Test accuracy went from {_accuracy(start)} for the base model to {_accuracy(now)} after round "
        f"{promoted[-1].round.number}: {gain:+.1f} points."
    )


def _health(done: Sequence[Evidence], warnings: Sequence[str]) -> str:
    decided = [each for each in done if each.promotion]
    refused = [str(each.round.number) for each in decided if not each.promotion["promoted"]]
    gate = (
        "The gate has decided nothing yet"
        if not decided
        else f"The gate refused round {', '.join(refused)}"
        if refused
        else "The gate promoted every round"
    )
    health = f"{len(warnings)} of the known ways such loops go wrong may show" if warnings else "no known symptom shows"
    return f"{gate}; {health}."


def _accuracy(told: Mapping[str, Any]) -> str:
    return f"{100 * told['accuracy']:.1f} % {bracketed(told['low'], told['high'])}"


def _round(each: Evidence, state: State, took: Mapping[int, float]) -> Document:
    """A round's figures; null where it has none. Lengths are means, in tokens; seconds are this run's own."""
    round_, number = each.round, each.round.number
    pairs, decision = round_.facts.get("pairs", {}), each.promotion
    wall = took.get(number)
    return {
        "round": number,
        "against": reference_before(state, number) if number else None,
        **{split: _evaluated(each.figures(split)) for split in _SPLITS},
        "verdicts": {key: round_.known("verdicts", key) for key in ("correct", "wrong", "ungradable")},
        "causes": causes({cause: round_.count("verdicts", cause) for cause in WORDS}),
        "samples": round_.known("samples", "samples"),
        "pairs": round_.known("pairs", "pairs"),
        "replayed": round_.known("replay", "pairs"),
        "pass_any": each.pass_any,
        "answers": health(each).get("distinct_answers"),
        "tokens": {
            "sample": each.sample_tokens,
            "chosen": pairs.get("chosen_tokens"),
            "rejected": pairs.get("rejected_tokens"),
        },
        "promoted": bool(decision["promoted"]) if decision else None,
        **{key: decision.get(key) for key in ("won", "lost")},
        "reason": gate_said(decision, round_.facts.get("evaluation")) if decision else None,
        "health": list(words(health(each))) if number else [],
        "seconds": {phase: own for phase in round_.facts if number and (own := round_.seconds(phase)) is not None},
        "taken_over": [phase for phase in round_.facts if phase in round_.taken_over],
        "wall": wall,
        "idle": idle(each, wall) if wall is not None and number else None,
    }


def _harness(every: Sequence[Evidence]) -> Document:
    """`models` that were asked tasks of lm-evaluation-harness, `rows` of a figure's name and its cells, and `notes`."""
    cells = [[name, *of_models] for name, of_models in harness.rows(every)]
    return {"models": harness.models(every), "rows": cells, "notes": harness.notes(every)}


def _evaluated(told: Mapping[str, Any] | None) -> Document | None:
    return {key: told.get(key) for key in _EVALUATED} if told else None


def _curves(each: Evidence) -> Document:
    """Some columns of a round's metrics, each with at most `POINTS` points; `updates` says at which, and `each` how
    many updates a point is the mean of."""
    metrics = each.metrics or {}
    width = -(-len(metrics["step"]) // POINTS)
    columns = {name: _means(metrics[name], width) for name in CURVES if name in metrics}
    return {"round": each.round.number, "each": width, "updates": _means(metrics["step"], width), **columns}


def _means(values: Sequence[Any], width: int) -> list[float | None]:
    parts = ([v for v in values[at : at + width] if v is not None] for at in range(0, len(values), width))
    return [float(f"{fmean(part):.6g}") if part else None for part in parts]
