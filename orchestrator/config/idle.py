"""What a job sets and nothing reads. It is told, not refused: the arms of a comparison share settings that only some of
them read, and a fork has all of its run's."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from orchestrator.config import Job
from orchestrator.config.forms import FORMS
from orchestrator.config.load import changed_keys
from orchestrator.config.methods import filled_in
from orchestrator.config.own_methods import OwnMethod
from orchestrator.config.sources import KINDS, SourceSettings, listed, sections
from orchestrator.config.sources.base import Condition


@dataclass(frozen=True)
class _Rule:
    """Keys, or sections, that are read where `read` holds; `where` says so in the job's own words."""

    keys: tuple[str, ...]
    where: str
    read: Callable[[Job], bool]

    def covering(self, key: str) -> str | None:
        """The one of its keys that a dotted key is, or is below."""
        return next((known for known in self.keys if key == known or key.startswith(f"{known}.")), None)


def idle(job: Job, own: OwnMethod | None = None) -> list[str]:
    """One line for each condition that some keys of the job would need to have an effect. Only what differs from the
    defaults, and from the method's row, counts as set; `own` is that of a job whose method is the user's own."""
    found: dict[_Rule, dict[str, None]] = {}
    rules = list(_rules())
    for key in _set_keys(job, own):
        unread = ((rule, rule.covering(key)) for rule in rules if not rule.read(job))
        rule, known = next(((rule, known) for rule, known in unread if known), (None, None))
        if rule and known:
            found.setdefault(rule, {})[f"`{known}`"] = None
    return [f"{', '.join(keys)}: read only with {rule.where}" for rule, keys in found.items()]


def _set_keys(job: Job, own: OwnMethod | None) -> list[str]:
    defaults = Job.model_construct(name="", model="").model_dump(mode="json")
    row = own.settings if own else filled_in({"method": job.method})
    return [k for k, _, value in changed_keys(defaults, job.model_dump(mode="json")) if _at(row, k) != value]


def _at(settings: Mapping[str, Any], key: str) -> Any:
    found: Any = settings
    for part in key.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found


def _weighs(weight: float | list[float]) -> bool:
    return any(weight) if isinstance(weight, list) else bool(weight)


def _judges(job: Job) -> bool:
    grades = [job.grade, *([job.regrade.grade] if job.regrade else [])]
    return job.source.asks_judge() or any("judge" in grade.graders for grade in grades)


def _rules() -> Iterator[_Rule]:
    yield from _by_source()
    yield from _RULES
    yield from _by_form()
    asking = [f"`{kind.section}`" for kind in KINDS.values() if kind.asks_judge is not SourceSettings.asks_judge]
    yield _Rule(("judge",), f"`judge` among `grade.graders`, or in {' or '.join(asking)}", _judges)
    for rule in _UNLESS_THE_SOURCE:
        yield _unless_the_source(rule)


def _by_source() -> Iterator[_Rule]:
    """Sections and keys that not all sources read, as each says of itself."""
    readers: dict[tuple[str, ...], list[str]] = {}
    for key in sorted({key for kind in KINDS.values() for key in kind.reads}):
        names = [name for name, kind in KINDS.items() if key in kind.reads]
        readers.setdefault(tuple(names), []).append(key)
    readers |= {(kind.name(),): [*readers.get((kind.name(),), []), section] for section, kind in sections().items()}
    for readers_of, keys in readers.items():
        yield _Rule(tuple(keys), listed(readers_of), partial(_is_one_of, readers_of))
    for kind in KINDS.values():
        for condition in kind.conditions:
            yield _Rule(condition.keys, condition.where, partial(_holds, condition))


def _by_form() -> Iterator[_Rule]:
    """Keys of the loss that not all of its forms read."""
    for key in sorted({key for form in FORMS.values() for key in form.settings}):
        reading = [f"`{name}`" for name, form in FORMS.items() if key in form.settings]
        others = [f"`{name}`" for name, form in FORMS.items() if key not in form.settings]
        where = f"another `loss.form` than {' and '.join(others)}"
        if len(reading) <= len(others):
            where = f"`loss.form` {' or '.join(filter(None, (', '.join(reading[:-1]), reading[-1])))}"
        yield _Rule((f"loss.{key}",), where, partial(_reads, key))


def _reads(key: str, job: Job) -> bool:
    return key in FORMS[job.loss.form].settings


def _is_one_of(names: Sequence[str], job: Job) -> bool:
    return job.source.type in names


def _holds(condition: Condition, job: Job) -> bool:
    return condition not in job.source.conditions or condition.read(job.source)


def _unless_the_source(rule: _Rule) -> _Rule:
    """A rule that does not hold where the source reads the keys anyway."""
    reading = [name for name, kind in KINDS.items() if kind.reads_anyway.intersection(rule.keys)]
    where = f"{rule.where} or {listed(reading)}" if reading else rule.where
    return _Rule(rule.keys, where, lambda job: rule.read(job) or job.source.type in reading)


_UNLESS_THE_SOURCE: Sequence[_Rule] = (
    _Rule(("data.date",), "`data.chat: true`", lambda job: job.data.chat),
    _Rule(("reference",), "`loss.dpo` above 0", lambda job: _weighs(job.loss.dpo)),
    _Rule(("reference",), "a `loss.form` that reads a reference", lambda job: FORMS[job.loss.form].reads_reference),
)
_RULES: Sequence[_Rule] = (
    _Rule(
        ("data.example_separator",),
        "`data.examples` and `data.chat: false`",
        lambda job: bool(job.data.examples) and not job.data.chat,
    ),
    _Rule(("data.hint_template",), "`generate.hint: true`", lambda job: job.generate.hint),
    _Rule(
        ("generate.temperature",), "`generate.temperature_mix: null`", lambda job: job.generate.temperature_mix is None
    ),
    _Rule(
        ("pairs.per_prompt",),
        "another `pairs.rule` than `best_worst` and `best`",
        lambda job: "pairs.rule" not in job.source.reads or job.pairs.rule not in ("best_worst", "best"),
    ),
    _Rule(("pairs.margin",), "`pairs.rule: margin`", lambda job: job.pairs.rule == "margin"),
    _Rule(("pairs.replay_rounds",), "`pairs.replay` above 0", lambda job: job.pairs.replay > 0),
    _Rule(
        ("loss.beta", "loss.form", "loss.smoothing", "loss.penalty", "loss.target_margin", "loss.score_scale"),
        "`loss.dpo` above 0",
        lambda job: _weighs(job.loss.dpo),
    ),
    _Rule(("loss.nll_scope", "loss.nll_normalisation"), "`loss.nll` above 0", lambda job: _weighs(job.loss.nll)),
    _Rule(("train.epochs",), "`train.token_budget: null`", lambda job: job.train.token_budget is None),
    _Rule(("train.final_ratio",), "`train.schedule: linear` or `cosine`", lambda job: job.train.schedule != "constant"),
    _Rule(("evaluate.temperature",), "`evaluate.samples` above 0", lambda job: job.evaluate.samples > 0),
    _Rule(
        ("promotion.alpha", "promotion.stop_succeeds"),
        "`promotion.rule: not_worse` or `better`",
        lambda job: job.promotion.rule != "always",
    ),
)
