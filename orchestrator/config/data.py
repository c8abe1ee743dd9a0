"""Where problems come from, and how a row becomes a prompt."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from orchestrator.config.base import (
    Count,
    Day,
    NonEmpty,
    Settings,
    compiled,
    no_bool,
)

Share = Annotated[float, BeforeValidator(no_bool), Field(ge=0, le=1)]


class Source(Settings):
    """Where rows come from: a file, or a data set on the Hugging Face Hub. A plain string is short for `path`."""

    path: str = ""
    """A `.jsonl`, `.json` (an array of objects, or an object a line) or `.parquet` file; relative to the job file's
    folder, else to the current folder."""
    hub: str = ""
    """Id of a data set on the Hub, such as `openai/gsm8k`, instead of `path`."""
    config: str | None = None
    """Configuration (subset) of the Hub's data set, where it has several."""
    split: str | None = None
    """Split of the Hub's data set; it may be a slice, such as `train[:1000]`. Needed with `hub`."""
    revision: str | None = None
    """Branch, tag or commit of the Hub's data set; null is its main branch. A run keeps the rows it started with."""
    limit: Count | None = None
    """Use only the first so many rows."""

    @model_validator(mode="after")
    def _one_place(self) -> Source:
        if bool(self.path) == bool(self.hub):
            raise ValueError("give either `path`, a file, or `hub`, the id of a data set on the Hub")
        if self.hub and not self.split:
            raise ValueError("`hub` needs `split`, the part of the data set to read, such as `train`")
        if self.path and (self.config, self.split, self.revision) != (None, None, None):
            raise ValueError("`config`, `split` and `revision` belong to `hub`, not to `path`")
        return self


def _as_source(value: Any) -> Any:
    return {"path": value} if isinstance(value, str) else value


SourceOrPath = Annotated[Source, BeforeValidator(_as_source, json_schema_input_type=str | Source)]


TESTS = "tests"
"""Before the name of a further held-out set, wherever sets are named: `tests.math`."""
_OWN = {"id", "answer", "choices", "answer_marker", "template"}


class HeldOut(Source):
    """A further held-out set, with a name of its own. What it does not say of its rows is as `data` has it."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$", max_length=40)]
    """What the set is called: small letters, digits, `-` and `_`."""
    id: str | None = None
    """As `data.id`."""
    answer: str | None = None
    """As `data.answer`."""
    choices: str | None = None
    """As `data.choices`."""
    answer_marker: NonEmpty | None = None
    """As `data.answer_marker`."""
    template: str | None = None
    """As `data.template`."""


class Example(Settings):
    """A worked example."""

    prompt: str
    """As the template would give it: it is not filled in."""
    completion: NonEmpty
    """What a model should answer to it."""


class Curriculum(Settings):
    """Prompts drawn by their pass rates: the share of right ones among all samples that the last round which drew them
    has of them. From round 2 on a round draws, at random, those whose pass rate is within the bounds and those that no
    round has drawn yet; where these are too few, others fill up, which is told. Prompts of intermediate difficulty
    teach most (arXiv 2504.03380, 2510.01135); those that all samples solve, or none, make no pair (DAPO's dynamic
    sampling, arXiv 2503.14476)."""

    lowest: Share = 0.1
    """Lowest pass rate."""
    highest: Share = 0.9
    """Highest pass rate."""
    others: Annotated[float, BeforeValidator(no_bool), Field(ge=0, lt=1)] = 0.1
    """Share of a round's prompts that are drawn from outside of the bounds, those first that were drawn longest ago: so
    pass rates are renewed, and what the model has learned, or forgotten, is seen."""

    @model_validator(mode="after")
    def _bounds(self) -> Curriculum:
        if self.lowest > self.highest:
            raise ValueError(f"its `lowest` ({self.lowest:g}) must not be above its `highest` ({self.highest:g})")
        return self


class Data(Settings):
    """The disjoint sets of problems, and how a row becomes a prompt."""

    train: SourceOrPath | None = None
    """Problems that prompts are drawn from; needed by every `source` but `dataset`."""
    gate: SourceOrPath | None = None
    """Held-out problems that decide promotion; needed but for `source: dataset` with `promotion.rule: always`."""
    test: SourceOrPath | None = None
    """Held-out problems that are only reported; they decide nothing. Needed by every `source` but `dataset`."""
    tests: list[Annotated[HeldOut, Field()]] = []
    """Further held-out sets, such as `[{name: math, path: math.jsonl}]`: answered and reported as `test` is, each by
    its name. They decide nothing either."""
    id: str | None = "id"
    """Field with a unique id; null numbers the rows."""
    answer: str = "answer"
    """Field with the gold answer, text or a number, or with a list of answers of which each is right."""
    choices: str | None = None
    """Field with the options of a multiple-choice problem: a list of texts (MMLU), or an object with the lists `label`
    and `text` (ARC). In `template` it stands for the options, one a line, as "(A) Paris". The gold answer, which may
    name its option by letter, number from 0 or text, becomes the letter; a text by which two options could be meant,
    such as "1" where an option other than the second reads so, is refused. Grade it with `choice`."""
    answer_marker: NonEmpty | None = None
    """The gold answer is what follows the last such marker in the field (GSM8K: `####`)."""
    solution: str | None = None
    """Field with a worked gold solution, ending in the answer as a model should give it."""
    solution_strip: list[str] = []
    """Regular expressions: what they match is taken out of the solution. GSM8K's calculator marks and last
    line are `<<[^>]*>>` and `\\s*####.*`."""
    solution_template: str | None = None
    """Text of the solution a model should give: `{solution}` is the field's text after `solution_strip`,
    `{answer}` the gold answer. Null is the solution alone."""
    template: str = "{question}\n"
    """Text of a prompt; `{field}` is replaced by the row's field. `{{` and `}}` are plain braces."""
    hint_template: str | None = None
    """Text of a prompt that gives the gold answer away as a hint, for `generate.hint`: as `template`, and
    `{answer}` is the gold answer."""
    chat: bool = False
    """Send the templated text as a user message through the tokenizer's chat template."""
    system: str | None = None
    """System message, where `chat` is true."""
    date: Day | None = None
    """Day that a chat template is told which asks for today's, such as 2026-11-27, with or without quotes. Without it
    such a template is refused: prompts would differ from day to day."""
    examples: list[Example] = []
    """Worked examples that stand before each prompt (few-shot): as turns of the conversation where `chat` is
    true, else as text, each followed by `example_separator`."""
    example_separator: str = "\n\n"
    """Text after each example, where `chat` is false."""
    prompts: Literal["same", "split", "new"] = "same"
    """`same`: the same prompts every round. `split`: fresh prompts every round, wrapping at the end. `new`: fresh
    prompts every round, none of them twice: too few of them for all rounds are refused."""
    prompts_per_round: Count | None = None
    """How many training prompts a round uses; null uses them all. `split` and `new` need it."""
    curriculum: Curriculum | None = None
    """Draw each round's prompts by the share of right samples that they had in rounds before, instead of in turn; needs
    `prompts: split`. `{}` takes all defaults below. null draws whatever comes next."""
    allow_overlap: bool = False
    """Accept problems that stand, word for word or nearly, in more than one of train, gate, test and tests."""

    @property
    def sources(self) -> dict[str, Source]:
        """The sets of problems that the job has, by name."""
        named = {"train": self.train, "gate": self.gate, "test": self.test}
        named |= {f"{TESTS}.{held_out.name}": held_out for held_out in self.tests}
        return {split: source for split, source in named.items() if source}

    def of_set(self, split: str) -> Data:
        """How the rows of a set are read: as these settings say, but for what the set says itself."""
        source = self.sources[split]
        said = source.model_dump(include=_OWN) if isinstance(source, HeldOut) else {}
        return self.model_copy(update={key: value for key, value in said.items() if value is not None})

    def at(self, sources: Mapping[str, Source]) -> Data:
        """The same settings with other sources in the places of these, by the names of `sources`."""
        tests = [sources.get(f"{TESTS}.{one.name}", one) for one in self.tests]
        return self.model_copy(update={**{k: v for k, v in sources.items() if "." not in k}, "tests": tests})

    @property
    def from_hub(self) -> bool:
        """Whether any split is read from the Hub."""
        return any(source.hub for source in self.sources.values())

    @field_validator("hint_template")
    @classmethod
    def _gives_a_hint(cls, value: str | None) -> str | None:
        if value is not None and "{answer}" not in value:
            raise ValueError("it has no {answer}, where the gold answer stands: without that it is no hint")
        return value

    @field_validator("solution_template")
    @classmethod
    def _gives_a_solution(cls, value: str | None) -> str | None:
        if value is not None and "{" not in value:
            raise ValueError("it has neither {solution} nor {answer}: every solution would be the same")
        return value

    @field_validator("solution_strip")
    @classmethod
    def _compiles(cls, value: list[str]) -> list[str]:
        for pattern in value:
            compiled(pattern)
        return value

    @model_validator(mode="after")
    def _check(self) -> Data:
        if self.solution is None and (self.solution_strip or self.solution_template is not None):
            raise ValueError("`solution_strip` and `solution_template` need `solution`, the field with the solution")
        if self.system is not None and not self.chat:
            raise ValueError("`system` needs `chat: true`")
        names = [held_out.name for held_out in self.tests]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"`tests` has two sets of the name {twice!r}: each needs its own")
        if self.tests and self.test is None:
            raise ValueError("`tests` are sets beside `test`: name the first one there")
        if self.prompts != "same" and self.prompts_per_round is None:
            raise ValueError(f"`prompts: {self.prompts}` needs `prompts_per_round`, how many fresh prompts a round has")
        if self.curriculum is not None and self.prompts != "split":
            raise ValueError(
                f"`curriculum` draws other prompts each round, of which some come again, and `prompts: {self.prompts}` "
                "says otherwise: set `prompts: split`"
            )
        return self
