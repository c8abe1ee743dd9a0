"""What the ledger's records mean as MLflow parameters, tags and metrics. Pure: no MLflow, no clock, no files.

Every figure carries the time of the record it comes from, so that saying it again says the same.
"""

from __future__ import annotations

import hashlib
import json
import posixpath
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.config import at_round
from orchestrator.config.addresses import without_password
from orchestrator.reports.harness import figures as harness_figures

MAX_KEY_CHARACTERS = 250
MAX_PARAM_CHARACTERS = 6000
MAX_TAG_CHARACTERS = 8000

PARENT_TRAINING = frozenset(
    {"loss", "margin", "reward_accuracy", "chosen_logprob", "rejected_logprob", "grad_norm", "learning_rate"}
)
"""Training metrics that the job's own run shows over all rounds; a round's run has all columns."""
_TRAINING_PLAN = frozenset({"step", "updates", "pairs", "tokens", "padded_tokens", "seconds"})
"""Columns of a training that measure nothing of it: how much an update was given."""

ACCURACY, GATE, HARNESS, HEALTH, LEARNING, ROUND = "accuracy", "gate", "harness", "health", "learning", "round"
SYSTEM, TIME = "system", "time"
"""The sections of metrics. MLflow shows them in the order of the alphabet, which is that of importance."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One point of a metric. Example: Figure("accuracy/test", 0.71, step=2, milliseconds=1700000000000)"""

    key: str
    value: float
    step: int
    milliseconds: int


def safe_name(name: str) -> str:
    """A name that MLflow accepts; names that differ stay different.

    MLflow takes letters, digits and `_ - . /` and blanks, no path that is not normal, 250 characters. What
    else there is becomes `_`, and a short hash of the original keeps two such names apart.
    """
    safe = re.sub(r"[^\w/.\- ]", "_", name, flags=re.ASCII)
    safe = posixpath.normpath(safe).lstrip("/.") or "_"
    if safe == name and len(name) <= MAX_KEY_CHARACTERS:
        return name
    mark = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"{safe[: MAX_KEY_CHARACTERS - 9]}-{mark}"


def parameters(job: Mapping[str, Any]) -> dict[str, str]:
    """A resolved job as flat parameters: {"train.learning_rate": "1e-05", "loss.beta": "[0.1, 0.2]", ...}."""
    return {safe_name(key): _shorten(_text(value), MAX_PARAM_CHARACTERS) for key, value in _leaves(job)}


def overrides(configs: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Tags for what resumed runs changed: MLflow refuses a parameter's second value.

    Every key that ever differed from the first config, with its newest value.
    """
    first, *later = [parameters(config["job"]) for config in configs]
    changed = {key for job in later for key in job.keys() | first.keys() if job.get(key) != first.get(key)}
    tags = {}
    for key in sorted(changed):
        tags[safe_name(f"override.{key}")] = _shorten(later[-1].get(key, "null"), MAX_TAG_CHARACTERS)
    return tags


def _leaves(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, inner in value.items():
        if isinstance(inner, Mapping) and inner:
            yield from _leaves(inner, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", inner


def _text(value: Any) -> str:
    if isinstance(value, str):
        return without_password(value)
    return json.dumps(value, ensure_ascii=False, sort_keys=True)


def _shorten(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 4] + " ..."


_UNTOLD = frozenset(
    {"graders_version", "judge_prompt", "step_prompt", "reading", "problems", "prompts", "before_cap", "correct"}
    | {
        "steps",
        "samples",
        "completion_tokens",
        "padded_tokens",
        "distinct_completions",
        "waited",
        "train",
        "gate",
        "test",
        "epochs",
    }
)
"""Facts that measure nothing: versions, and what is as large in every round, or told by another figure."""
_UNTOLD_GROUPS = ("executed.", "first_step.", "probe.", "rules.", "combined.")
_TROUBLES = frozenset(
    {
        "truncated",
        "unreadable",
        "failed",
        "gold",
        "ungradable",
        "too_long",
        "special_token",
        "not_finite",
        "dropped",
        "dropped_pairs",
        "pairs_lost",
    }
    | {"prompts_lost", "prompts_ungradable", "restarts", "resumed_from"}
)
"""Counts that are told where they are not 0: a row of charts of nothing hides the others."""
_INPUTS = ("prompts", "problems", "preferences", "model", "reference_model")
"""Steps that keep what the run is given: only their time is told."""
_TOLD_OTHERWISE = {f"{ROUND}/train_pairs", f"{ROUND}/train_loss", f"{ROUND}/verdicts_wrong"}
"""By `pairs`, by the curve of the updates, and by the share of samples that are correct."""
_SPLITS = ("gate", "test")
_INTERVAL = {"accuracy": "", "low": "_low", "high": "_high"}
_TIMES = ("seconds", "starting", "tokens_per_second")


def step_figures(number: int, phase: str, facts: Mapping[str, Any], seconds: float) -> list[Figure]:
    """Figures of a finished step, by round (0 is the base model). `seconds` is the record's time.

    Accuracies are named accuracy/test, accuracy/test_low, ...; durations time/<phase>; what `health` facts say
    health/<fact>; tasks of lm-evaluation-harness harness/<task>/<metric>; the counts and shares that a round was made
    of round/<phase>_<fact>, or round/<phase> where the fact has the phase's name.
    """
    named: dict[str, float] = {}
    if "/" in phase:  # one of many of its kind, such as the evaluation of one of several checkpoints
        return []
    if phase == HARNESS:
        named |= {f"{HARNESS}/{name.replace(' ', '/')}": told["value"] for name, told in harness_figures(facts).items()}
        facts = {key: facts[key] for key in _TIMES if key in facts}
    if phase in _INPUTS:
        facts = {key: facts[key] for key in ("seconds",) if key in facts}
    for key, value in _leaves(facts):
        last = key.rpartition(".")[2]
        told = isinstance(value, int | float) and last not in _UNTOLD and not key.startswith(_UNTOLD_GROUPS)
        if told and (value or last not in _TROUBLES):
            named[_key(phase, key)] = value
    named = {key: value for key, value in named.items() if key not in _TOLD_OTHERWISE}
    graded = sum(facts.get(verdict, 0) for verdict in ("correct", "wrong", "ungradable"))
    if phase == "verdicts" and graded:
        named[f"{ROUND}/samples_correct"] = facts.get("correct", 0) / graded
    return _figures(named, number, seconds)


def _key(phase: str, fact: str) -> str:
    """The metric of a fact, whose groups have dots between them."""
    group, _, name = fact.partition(".")
    if fact in _TIMES:
        return f"{TIME}/{phase}" + ("" if fact == "seconds" else f"_{fact}")
    if phase == "evaluation" and group in _SPLITS and name in _INTERVAL:
        return f"{ACCURACY}/{group}{_INTERVAL[name]}"
    if HEALTH in (group, phase):
        return f"{HEALTH}/{(name if group == HEALTH else fact).replace('.', '_')}"
    name = fact.replace(".", "_")
    parts = [] if phase == "evaluation" else [phase]
    return f"{ROUND}/{'_'.join(parts if name == phase else [*parts, name])}"


def promotion_figures(data: Mapping[str, Any], seconds: float) -> list[Figure]:
    """Figures of a promotion record, by round."""
    keys = ("won", "lost", "p_value")
    named = {f"{GATE}/{key}": data[key] for key in keys if data.get(key) is not None}
    return _figures(named, int(data["round"]), seconds)


def health_figures(health: Mapping[str, float], number: int, seconds: float) -> list[Figure]:
    """Figures of a round's health (reports/health.py), named health/<name>."""
    return _figures({f"{HEALTH}/{name}": value for name, value in health.items()}, number, seconds)


def _figures(named: Mapping[str, Any], step: int, seconds: float) -> list[Figure]:
    return [Figure(safe_name(key), float(value), step, round(1000 * seconds)) for key, value in named.items()]


def training_figures(
    columns: Mapping[str, Sequence[Any]], end: float, duration: float, known: Mapping[int, float] | None = None
) -> list[Figure]:
    """Figures of a round's training, named learning/<column>, by update.

    `columns` is the metrics table, `end` the time of the commit and `duration` the step's seconds. The table holds no
    clock: an update's time is the one that is `known` of it, and else it is spread evenly over the duration, so that a
    rebuild finds the same.
    """
    steps = columns["step"]
    known = known or {}
    found = []
    for place, step in enumerate(steps):
        at = known.get(int(step), end - duration * (1 - (place + 1) / len(steps)))
        found += update_figures(int(step), {name: values[place] for name, values in columns.items()}, at)
    return found


def update_figures(step: int, values: Mapping[str, Any], seconds: float) -> list[Figure]:
    """Figures of one update, named learning/<column>."""
    told = {name: value for name, value in values.items() if name not in _TRAINING_PLAN}
    named = {f"{LEARNING}/{name}": value for name, value in told.items() if isinstance(value, int | float)}
    return _figures(named, step, seconds)


def load_figures(node: str, values: Mapping[str, float], begin: float, seconds: float) -> list[Figure]:
    """How busy a node is, named system/<node>/<what>, by seconds since the run began at `begin`."""
    named = {f"{SYSTEM}/{node.replace('/', '_')}/{name}": value for name, value in values.items()}
    return _figures(named, max(0, round(seconds - begin)), seconds)


def continued(figures: Sequence[Figure], offset: int) -> list[Figure]:
    """A round's training figures for the job's run: the main ones, with steps counted over all rounds."""
    keys = {f"{LEARNING}/{name}" for name in PARENT_TRAINING}
    return [Figure(f.key, f.value, f.step + offset, f.milliseconds) for f in figures if f.key in keys]


def round_parameters(job: Mapping[str, Any], number: int) -> dict[str, str]:
    """What of a job may differ between its rounds, with the values of one: {"round": "2", "loss.beta": "0.1", ...}."""
    of_rounds: dict[str, Any] = {"loss": job.get("loss", {})}
    train = job.get("train", {})
    of_rounds["train"] = {key: train[key] for key in ("learning_rate",) if key in train}
    leaves = {key: at_round(value, number) for key, value in _leaves(of_rounds) if value not in ([], {})}
    return {"round": str(number)} | {
        safe_name(key): _shorten(_text(value), MAX_PARAM_CHARACTERS) for key, value in leaves.items()
    }
