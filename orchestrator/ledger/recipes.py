"""How the inputs of a step become its fingerprint. Pure.

A step names its inputs as they are: JSON values, sections of the job, plans of `records`, and the marks below. A recipe
says what of them counts. Each commit, shard and offer names the recipe of its fingerprint, and is compared by that one
for ever: what is already there stays resumable, whatever later versions add.

1   0.1.0, which named no recipe. Every field that a section or plan had then (`FIELDS_1`); a field that came later
    only where it is not at its default. What is `Unseen` it left out, and the versions of graders and prompts.
2   Fields that are not at their default, so that a new one changes no fingerprint; without those that only say how the
    work is executed, which were few then.
3   The same without all that only says how the work is executed, as marked at the fields (config/marks.py).
4   The same. What is committed by it tells more: prompts by their verdicts, and what became of a training's metrics.

A default that changes, or a field that stops deciding, takes a new recipe, which its mark names (`Executes.since`).
What an earlier recipe counted and that may change now, it counts as the run's `config` records have it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from orchestrator.config import Generate, Train
from orchestrator.config.marks import Executes, mark_of, marks_of
from orchestrator.files import durable

RECIPE = 4
"""The recipe of what is committed now."""


@dataclass(frozen=True)
class Fields:
    """A section of the job or a plan, with something beside its fields, or in place of some."""

    of: Any
    also: Mapping[str, Any] = field(default_factory=dict)
    without: tuple[str, ...] = ()


@dataclass(frozen=True)
class Setting:
    """One field of a section, as it decides."""

    of: BaseModel
    name: str


@dataclass(frozen=True)
class Executed:
    """Settings that only say how the work is executed, by their key in the job. They count for nothing; what is
    committed tells of them (the fact `executed`). They stand in the inputs under the name `executed`."""

    settings: Mapping[str, Any]


@dataclass(frozen=True)
class Unseen:
    """What decides a result and was left out by recipe 1: a step by that recipe is taken over by no fork."""

    value: Any


@dataclass(frozen=True)
class Later:
    """A value that came into a step's inputs after it was first committed; at `default` it counts for nothing."""

    value: Any
    default: Any = None


@dataclass(frozen=True)
class Version:
    """The version of code that decides a result, such as the graders'. What is committed keeps it as the fact `name`
    (absent: 1) and is compared by it on a resume; a fork takes over only what the present one has made. Recipe 1 knew
    no versions: what it committed is of the first."""

    name: str
    now: int


@dataclass(frozen=True)
class Digest:
    """The fingerprint of many rows, in place of them. `remembered` is told the number of a recipe and how to make the
    fingerprint by that, and may know it already."""

    rows: Iterable[Any]
    remembered: Callable[[str, Callable[[], str]], str] = lambda recipe, make: make()


@dataclass(frozen=True, slots=True)
class UsedFiles:
    """A name of files by what is in them, such as a sha256, which counts as `value`. Who names files uses them: they
    are checked before and after the work (see uses.py)."""

    value: str
    files: tuple[tuple[str, str], ...]
    """Path, relative to the run or absolute, and sha256 of each."""
    folder: str | None = None
    """That of a model, whose readers take whatever they find there: it must have no other files."""


Inputs = Mapping[str, Any] | Fields

FIELDS_1: dict[str, tuple[str, ...]] = {
    "Source": ("path", "hub", "config", "split", "revision", "limit"),
    "Example": ("prompt", "completion"),
    "Data": (
        *("train", "gate", "test", "id", "answer", "answer_marker", "solution", "solution_strip"),
        *("solution_template", "template", "hint_template", "chat", "system", "examples", "example_separator"),
        *("prompts", "prompts_per_round", "allow_overlap"),
    ),
    "Grade": ("graders", "answer", "strict", "audit", "timeout", "memory", "max_characters"),
    "Judge": ("model", "temperature"),
    "SelfRewarding": ("template", "pattern", "lowest", "highest", "samples", "temperature", "max_tokens"),
    "Train": (
        *("ranks", "zero", "offload_optimizer", "precision", "learning_rate", "schedule", "warmup_steps"),
        *("warmup_ratio", "final_ratio", "batch_pairs", "epochs", "token_budget", "max_steps", "eval_every", "select"),
        *("retrain", "order", "weight_decay", "betas", "epsilon", "max_grad_norm", "tokens_per_microbatch"),
        *("max_tokens", "activation_checkpointing", "attention", "export_dtype"),
    ),
    "Problem": ("prompt_id", "text", "gold", "solution", "hint"),
    "TokenizingPlan": (
        *("model", "chat", "system", "max_model_len", "max_tokens", "examples", "example_separator", "opening"),
    ),
    "PreferencePlan": ("model", "append_eos", "max_tokens"),
    "SamplingPlan": (
        *("samples", "temperature", "top_p", "top_k", "max_tokens", "stop", "seed", "seeding", "temperature_mix"),
    ),
    "PairingPlan": (*("per_prompt", "rule", "margin", "gold_as_chosen", "rejected", "distinct", "max_pairs", "seed"),),
    "RoundLoss": ("beta", "dpo", "nll", "nll_scope", "nll_normalisation", "form"),
}
"""What sections and plans had when recipe 1 was all there was, without what it left out. Never to be changed."""
_LEFT_OUT_1: dict[str, frozenset[str]] = {"Judge": frozenset({"max_tokens"})}
"""What decides, and recipe 1 left out."""
_NOTHING = object()
NO_DEFAULT = object()


@dataclass(frozen=True)
class _Recipe:
    number: int
    facts: Mapping[str, Any] | None
    """Of what is compared with, which say the versions of code; None takes those of now."""
    executed: Mapping[str, Any]
    """Settings that only execute now, and count as they were recorded."""

    def of(self, value: Any) -> Any:
        """The value as JSON; _NOTHING where it does not count."""
        if isinstance(value, Mapping):
            counted = {key: self.of(below) for key, below in value.items()}
            return {key: below for key, below in counted.items() if below is not _NOTHING}
        if isinstance(value, list | tuple):
            return [self.of(below) for below in value]
        if isinstance(value, Fields):
            return self._fields(value.of, value.without) | self.of(value.also)
        if isinstance(value, Executed):
            return _NOTHING
        if isinstance(value, Setting):
            mark = marks_of(type(value.of)).get(value.name)
            return self.of(self._decided(value.name, getattr(value.of, value.name), mark))
        if isinstance(value, Later):
            return _NOTHING if value.value == value.default else self.of(value.value)
        if isinstance(value, Unseen):
            return _NOTHING if self.number == 1 else self.of(value.value)
        if isinstance(value, Version):
            if self.number == 1:
                return _NOTHING
            return value.now if self.facts is None else self.facts.get(value.name, 1)
        if isinstance(value, UsedFiles):
            return value.value
        if isinstance(value, Digest):
            return value.remembered(str(self.number), lambda: durable.fingerprint_of_many(map(self.of, value.rows)))
        if isinstance(value, BaseModel) or (is_dataclass(value) and not isinstance(value, type)):
            return self._fields(value)
        return value

    def _fields(self, section: Any, without: Sequence[str] = ()) -> dict[str, Any]:
        known = _of_class(FIELDS_1, section, ()) if self.number == 1 else ()
        left_out = _of_class(_LEFT_OUT_1, section, frozenset()) if self.number == 1 else frozenset()
        counted, kind = {}, section.__class__
        marks = marks_of(kind) if issubclass(kind, BaseModel) else {}
        for name, default in defaults_of(kind):
            if name in left_out or name in without:
                continue
            mark = marks.get(name)
            decided = self._decided(name, getattr(section, name), mark)
            if decided is not _NOTHING and (name in known or decided != self._decided_default(default, mark)):
                counted[name] = self.of(decided)
        return counted

    def _decided(self, name: str, value: Any, mark: Executes | None) -> Any:
        """What counts of a field's value; _NOTHING where none of it does. An earlier recipe counts all of it: what was
        recorded, where that comes to the same result."""
        if mark is None:
            return value
        if self.number >= mark.since:
            return _NOTHING if mark.wholly else mark.decides(value)
        past, value = self.executed.get(name, value), mark.was if value is None else value
        past = mark.was if past is None else past
        return past if mark.decides(past) == mark.decides(value) else value

    def _decided_default(self, default: Any, mark: Executes | None) -> Any:
        if default is NO_DEFAULT or mark is None or self.number < mark.since:
            return default
        return mark.decides(default)


def fingerprint(inputs: Inputs, facts: Mapping[str, Any] | None = None) -> str:
    """The fingerprint of what is committed now; `facts` are those that it is committed with, which say the versions of
    code that made it."""
    return durable.fingerprint(_Recipe(RECIPE, facts, {}).of(inputs))


def of_recipe_1(rows: Digest) -> str:
    """The fingerprint of rows that is kept outside of any step: always by recipe 1, which no new field changes."""
    return str(_Recipe(1, None, {}).of(rows))


def fingerprints(
    inputs: Inputs, recipe: int, facts: Mapping[str, Any] | None, executed: Sequence[Mapping[str, Any]]
) -> set[str]:
    """What the same inputs have by a recipe. `facts` are those of the commit that is compared with, None for what a
    fork is offered; `executed` what `as_recorded` says, of which any will do."""
    past = executed if recipe < RECIPE and executed else [{}]
    return {durable.fingerprint(_Recipe(recipe, facts, settings).of(inputs)) for settings in past}


def seen_by(inputs: Inputs, recipe: int) -> bool:
    """Whether all that decides is in a fingerprint by this recipe, or is what it was when that was all there was."""
    return recipe > 1 or not any(isinstance(mark, Unseen) or mark.now > 1 for mark in _marks(inputs))


def versions(inputs: Inputs) -> dict[str, int]:
    """The facts that tell the present versions of code that decides."""
    return {mark.name: mark.now for mark in _marks(inputs) if isinstance(mark, Version)}


def as_recorded(configs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What a run's `config` records say of settings that some recipe counted and that may change now, by the names of
    their fields: in this run, and in those that it is a fork of."""
    found: list[dict[str, Any]] = []
    for config in configs:
        own: dict[str, Any] = {}
        for section, names in _RECORDED.items():
            said = config["job"].get(section, {})
            own |= {name: was if said[name] is None else said[name] for name, was in names.items() if name in said}
        found += [settings for settings in (own, *config.get("executed", ())) if settings not in found]
    return found


_RECORDED = {
    name: {field: mark.was for field, mark in marks_of(section).items() if mark.since > 1}
    for name, section in (("train", Train), ("generate", Generate))
}


def with_executed(inputs: Inputs, facts: Mapping[str, Any]) -> dict[str, Any]:
    """The facts of a step with how it was executed: as the job says, and as its workers made of that. Of shards that
    several starts have made, a step has what the last one's says; a shard's settings are of the `config` before it."""
    asked = (inputs.also if isinstance(inputs, Fields) else inputs).get("executed")
    said = (dict(asked.settings) if isinstance(asked, Executed) else {}) | facts.get("executed", {})
    return {**facts, **({"executed": said} if said else {})}


def used_in(value: Any) -> Iterator[UsedFiles]:
    """Every name of files in the inputs of a step, or in a part of them."""
    if isinstance(value, UsedFiles):
        yield value
    elif isinstance(value, Mapping):
        yield from used_in(list(value.values()))
    elif isinstance(value, list | tuple):
        for below in value:
            yield from used_in(below)
    elif isinstance(value, Fields):
        yield from used_in(value.also)
    elif isinstance(value, Unseen | Later):
        yield from used_in(value.value)


def _marks(value: Any) -> Iterator[Any]:
    """All marks in the inputs."""
    if isinstance(value, Mapping):
        for below in value.values():
            yield from _marks(below)
    elif isinstance(value, Fields):
        yield from _marks(value.also)
    elif isinstance(value, Unseen | Version):
        yield value
        yield from _marks(getattr(value, "value", None))


def _of_class(table: Mapping[str, Any], section: Any, otherwise: Any) -> Any:
    """The entry for a section or plan, also where it is one of a class that is derived."""
    return next((table[kind.__name__] for kind in type(section).__mro__ if kind.__name__ in table), otherwise)


@functools.cache
def defaults_of(kind: Any) -> tuple[tuple[str, Any], ...]:
    """The names and defaults of the fields of a section or plan, as the first recipe that counted them knew them;
    NO_DEFAULT for one that has none."""
    if issubclass(kind, BaseModel):
        known = kind.model_fields.items()
        defaults = (NO_DEFAULT if i.is_required() else _default_of(i) for _, i in known)
        return tuple(zip((name for name, _ in known), defaults, strict=True))
    made = ((own, NO_DEFAULT if own.default_factory is MISSING else own.default_factory()) for own in fields(kind))
    return tuple((own.name, value if own.default is MISSING else own.default) for own, value in made)


def _default_of(field: FieldInfo) -> Any:
    mark, default = mark_of(field), field.get_default(call_default_factory=True)
    return default if mark is None or mark.was is None else mark.was
