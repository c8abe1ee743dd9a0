"""What a job sets and nothing reads. It is told, not refused: the arms of a comparison share settings that only some of
them read, and a fork has all of its run's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.config import Job
from orchestrator.config.load import changed_keys
from orchestrator.config.methods import filled_in


@dataclass(frozen=True)
class _Rule:
    """Keys, or sections, that are read where `read` holds; `where` says so in the job's own words."""

    keys: tuple[str, ...]
    where: str
    read: Callable[[Job], bool]

    def covering(self, key: str) -> str | None:
        """The one of its keys that a dotted key is, or is below."""
        return next((known for known in self.keys if key == known or key.startswith(f"{known}.")), None)


def idle(job: Job) -> list[str]:
    """One line for each condition that some keys of the job would need to have an effect. Only what differs from the
    defaults, and from the method's row, counts as set."""
    found: dict[_Rule, dict[str, None]] = {}
    for key in _set_keys(job):
        unread = ((rule, rule.covering(key)) for rule in _RULES if not rule.read(job))
        rule, known = next(((rule, known) for rule, known in unread if known), (None, None))
        if rule and known:
            found.setdefault(rule, {})[f"`{known}`"] = None
    return [f"{', '.join(keys)}: read only with {rule.where}" for rule, keys in found.items()]


def _set_keys(job: Job) -> list[str]:
    defaults = Job.model_construct(name="", model="").model_dump(mode="json")
    row = filled_in({"method": job.method})
    return [k for k, _, value in changed_keys(defaults, job.model_dump(mode="json")) if _at(row, k) != value]


def _at(settings: Mapping[str, Any], key: str) -> Any:
    found: Any = settings
    for part in key.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found


def _samples(job: Job) -> bool:
    return job.source in ("sample", "steps", "judge")


def _pairs_up(job: Job) -> bool:
    return job.source in ("sample", "judge")


def _weighs(weight: float | list[float]) -> bool:
    return any(weight) if isinstance(weight, list) else bool(weight)


def _judges(job: Job) -> bool:
    grades = [job.grade, *([job.regrade.grade] if job.regrade else [])]
    steps = job.source == "steps" and "judge" in (job.steps.localiser, job.steps.filter)
    return steps or any("judge" in grade.graders for grade in grades)


_RULES: Sequence[_Rule] = (
    _Rule(("steps",), "`source: steps`", lambda job: job.source == "steps"),
    _Rule(
        ("steps.rollouts", "steps.threshold"),
        "`steps.localiser: rollouts`",
        lambda job: job.steps.localiser == "rollouts",
    ),
    _Rule(("steps.verdicts",), "`steps.localiser: file`", lambda job: job.steps.localiser == "file"),
    _Rule(("self_judge",), "`source: judge`", lambda job: job.source == "judge"),
    _Rule(
        ("data.date",),
        "`data.chat: true`, or messages in `stages.sources`",
        lambda job: job.data.chat or job.source == "dataset",
    ),
    _Rule(
        ("data.example_separator",),
        "`data.examples` and `data.chat: false`",
        lambda job: bool(job.data.examples) and not job.data.chat,
    ),
    _Rule(("data.hint_template",), "`generate.hint: true`", lambda job: job.generate.hint),
    _Rule(("judge",), "`judge` among `grade.graders`, or in `steps`", _judges),
    _Rule(
        ("data.train", "data.prompts", "data.prompts_per_round", "pairs.max_pairs"),
        "another `source` than `dataset`",
        lambda job: job.source != "dataset",
    ),
    _Rule(
        ("generate.samples", "generate.temperature", "generate.temperature_mix", "generate.top_p", "generate.top_k"),
        "`source: sample`, `steps` or `judge`",
        _samples,
    ),
    _Rule(
        ("generate.temperature",), "`generate.temperature_mix: null`", lambda job: job.generate.temperature_mix is None
    ),
    _Rule(
        ("pairs.rule", "pairs.margin", "pairs.gold_as_chosen", "pairs.rejected", "pairs.distinct"),
        "`source: sample` or `judge`",
        _pairs_up,
    ),
    _Rule(
        ("pairs.per_prompt",),
        "`source: sample`, `steps` or `judge`, and another `pairs.rule` than `best_worst`",
        lambda job: job.source == "steps" or (_pairs_up(job) and job.pairs.rule != "best_worst"),
    ),
    _Rule(("pairs.margin",), "`pairs.rule: margin`", lambda job: job.pairs.rule == "margin"),
    _Rule(("pairs.replay_rounds",), "`pairs.replay` above 0", lambda job: job.pairs.replay > 0),
    _Rule(("pairs.append_eos",), "`source: dataset`", lambda job: job.source == "dataset"),
    _Rule(("loss.beta", "loss.form"), "`loss.dpo` above 0", lambda job: _weighs(job.loss.dpo)),
    _Rule(
        ("reference",),
        "`loss.dpo` above 0 or `source: dataset`",
        lambda job: _weighs(job.loss.dpo) or job.source == "dataset",
    ),
    _Rule(("loss.nll_scope", "loss.nll_normalisation"), "`loss.nll` above 0", lambda job: _weighs(job.loss.nll)),
    _Rule(("train.epochs",), "`train.token_budget: null`", lambda job: job.train.token_budget is None),
    _Rule(("train.final_ratio",), "`train.schedule: linear` or `cosine`", lambda job: job.train.schedule != "constant"),
    _Rule(("promotion.alpha",), "`promotion.rule: not_worse` or `better`", lambda job: job.promotion.rule != "always"),
)
