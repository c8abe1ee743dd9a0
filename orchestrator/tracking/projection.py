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

from orchestrator.config.addresses import without_password

MAX_KEY_CHARACTERS = 250
MAX_PARAM_CHARACTERS = 6000
MAX_TAG_CHARACTERS = 8000

PARENT_TRAINING = frozenset(
    {"loss", "margin", "reward_accuracy", "chosen_logprob", "rejected_logprob", "grad_norm", "learning_rate"}
)
"""Training metrics that the job's own run shows over all rounds; a round's run has all columns."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One point of a metric. Example: Figure("test/accuracy", 0.71, step=2, milliseconds=1700000000000)"""

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


_NO_FIGURES = {"graders_version", "judge_prompt", "step_prompt", "reading"}
"""Facts that are numbers and measure nothing."""


def step_figures(number: int, phase: str, facts: Mapping[str, Any], seconds: float) -> list[Figure]:
    """Figures of a finished step, by round (0 is the baseline).

    `seconds` is the record's time. Counts and shares are named <phase>/<fact>, accuracies
    gate/accuracy and test/accuracy, durations seconds/<phase>.
    """
    named = {}
    for key, value in _leaves(facts):
        if key in _NO_FIGURES or key.startswith("executed."):
            continue
        if not isinstance(value, (int, float)) or key.endswith("graders_version"):
            continue  # text, null, lists and names of versions are no metrics
        key = key.replace(".", "/")
        if key == "seconds":
            named[f"seconds/{phase}"] = value
        else:
            named[key if phase == "evaluation" else f"{phase}/{key}"] = value
    graded = sum(facts.get(verdict, 0) for verdict in ("correct", "wrong", "ungradable"))
    if phase == "verdicts" and graded:
        named["verdicts/correct_share"] = facts.get("correct", 0) / graded
    return _figures(named, number, seconds)


def promotion_figures(data: Mapping[str, Any], seconds: float) -> list[Figure]:
    """Figures of a promotion record, by round."""
    keys = ("promoted", "p_value", "won", "lost")
    named = {f"promotion/{key}": data[key] for key in keys if data.get(key) is not None}
    return _figures(named, int(data["round"]), seconds)


def _figures(named: Mapping[str, Any], step: int, seconds: float) -> list[Figure]:
    return [Figure(safe_name(key), float(value), step, round(1000 * seconds)) for key, value in named.items()]


def training_figures(columns: Mapping[str, Sequence[Any]], end: float, duration: float) -> list[Figure]:
    """Figures of a round's training, named step/<column>, by update.

    `columns` is the metrics table, `end` the time of the commit and `duration` the step's seconds. The
    table holds no clock, so its rows are spread evenly over the duration: a rebuild finds the same times.
    """
    steps = columns["step"]
    times = [round(1000 * (end - duration * (1 - (i + 1) / len(steps)))) for i in range(len(steps))]
    found = []
    for name, values in columns.items():
        if name == "step":
            continue
        key = safe_name(f"step/{name}")
        for step, value, milliseconds in zip(steps, values, times, strict=True):
            if isinstance(value, (int, float)):
                found.append(Figure(key, float(value), int(step), milliseconds))
    return found


def continued(figures: Sequence[Figure], offset: int) -> list[Figure]:
    """A round's training figures for the job's run: the main ones, with steps counted over all rounds."""
    keys = {f"step/{name}" for name in PARENT_TRAINING}
    return [Figure(f.key, f.value, f.step + offset, f.milliseconds) for f in figures if f.key in keys]
