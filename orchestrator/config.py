"""The job file as frozen, typed data. Loading it from YAML, and the errors a user sees, are in jobfile.py.

Every field carries its meaning as a docstring, which is what the documentation is made of. Models
are frozen and refuse unknown keys. Nothing here reads a file or knows a library heavier than pydantic.
"""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal, TypeVar
from urllib.parse import urlsplit

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

T = TypeVar("T")


class Settings(BaseModel):
    """Base of every section: frozen, unknown keys refused, docstrings are the descriptions."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        allow_inf_nan=False,
        protected_namespaces=(),
    )


def _no_bool(value: Any) -> Any:
    # YAML reads `on` and `yes` as true, and Python takes true for 1: never what a number means here.
    if isinstance(value, bool):
        raise ValueError("a number is needed, not true or false")
    return value


def _day(value: Any) -> Any:
    # YAML reads 2026-11-27 as a date; one that is in quotes is text.
    if isinstance(value, datetime.date) and not isinstance(value, datetime.datetime):
        return value.isoformat()
    if isinstance(value, str):
        try:
            return datetime.date.fromisoformat(value).isoformat()
        except ValueError as error:
            raise ValueError("it is no date; write one such as 2026-11-27") from error
    return value


Day = Annotated[str, BeforeValidator(_day)]
Positive = Annotated[float, BeforeValidator(_no_bool), Field(gt=0)]
NonNegative = Annotated[float, BeforeValidator(_no_bool), Field(ge=0)]
Fraction = Annotated[float, BeforeValidator(_no_bool), Field(gt=0, le=1)]
NonEmpty = Annotated[str, Field(min_length=1)]
Number = Annotated[float, BeforeValidator(_no_bool)]
Count = Annotated[int, BeforeValidator(_no_bool), Field(ge=1)]
Momentum = Annotated[float, BeforeValidator(_no_bool), Field(ge=0, lt=1)]
CountOrZero = Annotated[int, BeforeValidator(_no_bool), Field(ge=0)]

Method = Literal["irpo", "sdpo", "step_dpo", "dpo", "sft", "star", "rft", "rest_em", "iterative_dpo", "self_rewarding"]

# A value for every round, or a list of one value a round; see `at_round`.
PositiveSchedule = Positive | Annotated[list[Positive], Field(min_length=1)]
NonNegativeSchedule = NonNegative | Annotated[list[NonNegative], Field(min_length=1)]
CountSchedule = Count | Annotated[list[Count], Field(min_length=1)]


def at_round(schedule: T | list[T], round_number: int) -> T:
    """The value of a schedule in a round (from 1): a longer list is cut, a shorter one repeats its last value."""
    if isinstance(schedule, list):
        return schedule[min(round_number, len(schedule)) - 1]
    return schedule


def _compiled(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise ValueError(f"{pattern!r} is no regular expression: {error}") from error


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


SourceOrPath = Annotated[Source, BeforeValidator(_as_source)]


class Example(Settings):
    """A worked example."""

    prompt: str
    """As the template would give it: it is not filled in."""
    completion: NonEmpty
    """What a model should answer to it."""


class Data(Settings):
    """The three disjoint problem sets, and how a row becomes a prompt."""

    train: SourceOrPath | None = None
    """Problems that prompts are drawn from; needed by every `source` but `dataset`."""
    gate: SourceOrPath | None = None
    """Held-out problems that decide promotion; needed but for `source: dataset` with `promotion.rule: always`."""
    test: SourceOrPath | None = None
    """Held-out problems that are only reported; they decide nothing. Needed by every `source` but `dataset`."""
    id: str | None = "id"
    """Field with a unique id; null numbers the rows."""
    answer: str = "answer"
    """Field with the gold answer, text or a number, or with a list of answers of which each is right."""
    choices: str | None = None
    """Field with the options of a multiple-choice problem: a list of texts (MMLU), or an object with the lists `label`
    and `text` (ARC). In `template` it stands for the options, one a line, as "(A) Paris". The gold answer, which may
    name its option by letter, number from 0 or text (the first of these that fits), becomes the letter. Grade it with
    `choice`."""
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
    allow_overlap: bool = False
    """Accept problems that stand, word for word or nearly, in more than one of train, gate and test."""

    @property
    def sources(self) -> dict[str, Source]:
        """The sets of problems that the job has, by name."""
        named = {"train": self.train, "gate": self.gate, "test": self.test}
        return {split: source for split, source in named.items() if source}

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
            _compiled(pattern)
        return value

    @model_validator(mode="after")
    def _check(self) -> Data:
        if self.solution is None and (self.solution_strip or self.solution_template is not None):
            raise ValueError("`solution_strip` and `solution_template` need `solution`, the field with the solution")
        if self.system is not None and not self.chat:
            raise ValueError("`system` needs `chat: true`")
        if self.prompts != "same" and self.prompts_per_round is None:
            raise ValueError(f"`prompts: {self.prompts}` needs `prompts_per_round`, how many fresh prompts a round has")
        return self


_ENGINE_KEYS = {
    "model": "model",
    "seed": "seed",
    "tensor_parallel_size": "generate.tensor_parallel",
    "max_num_seqs": "generate.max_num_seqs",
    "max_model_len": "generate.max_model_len",
}
"""vLLM's names of what the job has keys for."""


class Generate(Settings):
    """Sampling with a pool of vLLM engines."""

    samples: CountSchedule = 8
    """Samples a prompt (N), by round."""
    temperature: NonNegativeSchedule = 1.0
    """Sampling temperature, by round."""
    temperature_mix: list[NonNegative] | None = Field(default=None, min_length=1)
    """Temperatures that a prompt's samples take in turn, instead of `temperature`: `[1.0, 0.7]` draws half of them
    at each."""
    hint: bool = False
    """Sample once more, with `data.hint_template`, what no sample solved; what is correct then is paired with the
    prompt without the hint (STaR's rationalisation, arXiv 2203.14465)."""
    top_p: Fraction = 1.0
    """Nucleus sampling: keep the smallest set of tokens with this much probability."""
    top_k: CountOrZero = 0
    """Keep only the k likeliest tokens; 0 keeps all."""
    max_tokens: Count = 512
    """Longest completion, in tokens. A sample that reaches it is truncated and joins no pair."""
    stop: list[NonEmpty] = []
    """Texts that end a completion."""
    seeding: Literal["sample", "engine"] = "sample"
    """`sample`: each sample has a seed of its own, so that a fresh run repeats exactly.
    `engine`: one seed an engine, which is faster on GPU and repeats only by distribution."""
    engines: Count = 1
    """Number of vLLM engines."""
    tensor_parallel: Count = 1
    """Accelerators (or CPU ranks) an engine is spread over."""
    shard_prompts: Count = 32
    """Prompts that are generated, graded and committed together."""
    max_model_len: Count | None = None
    """Longest prompt and completion together, in tokens; null takes the model's."""
    max_num_seqs: Count = 128
    """Most sequences an engine works on at once."""
    engine: dict[str, Any] = {}
    """Further vLLM engine arguments, by their own names; those that have a key here are set there."""
    start_timeout: Positive = 1800.0
    """Seconds that an engine may take to load the model."""
    stall_timeout: Positive = 300.0
    """Seconds after which an engine that has work and makes no progress is taken for hung and replaced."""

    @field_validator("engine")
    @classmethod
    def _further(cls, value: dict[str, Any]) -> dict[str, Any]:
        for name, key in _ENGINE_KEYS.items():
            if name in value:
                raise ValueError(f"`{name}` is the job's `{key}`, which is where to set it")
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError) as error:  # what a run writes down would be something else
            raise ValueError(f"it must hold texts, numbers, true, false, null, lists and mappings ({error})") from error
        return value

    @model_validator(mode="after")
    def _fits(self) -> Generate:
        if self.max_model_len is not None and self.max_tokens >= self.max_model_len:
            raise ValueError(
                f"`max_tokens` ({self.max_tokens}) leaves no room for a prompt in `max_model_len` "
                f"({self.max_model_len})"
            )
        return self


GRADERS = ("exact", "number", "choice", "math", "regex", "python", "judge")
ANSWER_RULES = ("final_answer", "boxed", "hash", "answer_is", "whole")
THOUGHTS = (
    *("</think>", "</thinking>", "</thought>", "</thoughts>", "</reasoning>", "</seed:think>", "[/THINK]", "◁/think▷"),
    *("<|end_of_thought|>", "<|channel|>final<|message|>"),
)
"""Marks that reasoning models end their thoughts with."""
Grader = str | dict[str, list[Any]]
"""An entry of `grade.graders`: a name, `name:argument`, or {"all_of" or "any_of": entries}."""


def _checked_grader(grader: Any) -> None:
    """Raise ValueError for what is no grader, with what would be one."""
    if isinstance(grader, dict):
        if len(grader) != 1 or not (members := next(iter(grader.values()))) or not set(grader) <= {"all_of", "any_of"}:
            raise ValueError(f"{grader!r} must be {{all_of: [...]}} or {{any_of: [...]}}, with graders in the list")
        if "judge" in members:
            raise ValueError("`judge` is asked what no other grader settles: put it last, not into a combination")
        for member in members:
            _checked_grader(member)
        return
    name, colon, argument = str(grader).partition(":")
    if name not in GRADERS:
        raise ValueError(f"{grader!r} is no grader; use {', '.join(f'`{known}`' for known in GRADERS)}")
    if name == "regex":
        if (groups := _compiled(argument).groups) != 1:
            raise ValueError(
                f"{grader!r} has {groups} groups and needs one; write regex:PATTERN, (?:...) for the others"
            )
    elif name == "python":
        if not re.fullmatch(r"[^\W\d]\w*(?:\.[^\W\d]\w*)*:[^\W\d]\w*", argument):
            raise ValueError(f"{grader!r} must be `python:MODULE:FUNCTION`, such as `python:my_package.scores:same`")
    elif colon:
        raise ValueError(f"{grader!r}: {name} takes no argument; write `{name}`")


class Grade(Settings):
    """Scoring completions against gold answers in killable processes; see docs/grading.md."""

    graders: list[Grader] = Field(default=["exact", "number", "math"], min_length=1)
    """Asked in order until one settles it: `exact` (equal text after normalising), `number` (equal value), `choice`
    (the same option, by letter or text), `math` (equal as expressions, equations, sets, intervals and the like),
    `regex:PATTERN` (the pattern's one group is the same in both), `python:MODULE:FUNCTION` (a function of gold answer
    and answer that returns true, false or None), `judge` (a model's opinion, asked last, where no other grader settles
    it; see the section `judge`). An entry may also be `{all_of: [...]}`, which wants all of its graders to say correct,
    or `{any_of: [...]}`."""
    answer: list[str] = Field(default=["final_answer", "boxed", "hash"], min_length=1)
    """Where the answer is, tried in order: `final_answer` (what follows "Final answer:"), `boxed` (the last
    \\boxed{}), `hash` (what follows `####`), `answer_is` (what follows "answer is" or "Answer:"), `whole` (all of
    the text), or `pattern:REGEX` with one group. Where the default is left as it is, `answer_is` is tried last; a list
    of other rules is taken as it stands, since a job that names its rules wants that form."""
    strict: bool = True
    """False tries `answer_is` and then the last number of the text, a guess, where no rule of `answer` finds one."""
    thoughts: list[str] = list(THOUGHTS)
    """Marks that end a model's thoughts: the answer is looked for behind the last of them. Thoughts that are begun
    (`<think>` for `</think>`) and never ended have no answer behind them. `[]` reads all of the text."""
    unreadable: Literal["ungradable", "wrong"] = "ungradable"
    """What an answer is that was found and that no grader can read as the gold answer's kind, such as half a sentence
    for a number: `ungradable`, so that it joins no pair, or `wrong`, the binary reward of the papers. What is
    truncated, or a grader failed on, stays ungradable either way."""
    audit: bool = False
    """Ask every grader about every answer, also where an earlier one has settled it. The verdicts stay what they are;
    the run's report lists where the graders differ."""
    timeout: Positive = 5.0
    """Seconds after which a grader's process is killed."""
    memory: Positive = 1.0
    """GiB of memory that a grader's process may take beyond what it has after starting."""
    processes: Count | None = None
    """Number of grader processes; null takes one a core."""
    max_characters: Count = 20_000
    """Longest completion that is looked at; only its end is, when it is longer."""

    @field_validator("graders")
    @classmethod
    def _known_graders(cls, value: list[Grader]) -> list[Grader]:
        for grader in value:
            _checked_grader(grader)
        if "judge" in value[:-1]:
            raise ValueError("`judge` is asked what no other grader settles: put it last")
        return value

    @field_validator("thoughts", mode="before")
    @classmethod
    def _marks(cls, value: Any) -> Any:
        marks = [value] if isinstance(value, str) else value
        if isinstance(marks, list) and any(isinstance(mark, str) and not mark.strip() for mark in marks):
            raise ValueError(f"{value!r} has a mark without characters; write `[]` to read all of the text")
        return marks

    @field_validator("answer")
    @classmethod
    def _known_places(cls, value: list[str]) -> list[str]:
        for place in value:
            name, _, pattern = place.partition(":")
            if name == "pattern":
                if (groups := _compiled(pattern).groups) != 1:
                    raise ValueError(f"{place!r} has {groups} groups and needs one; write (?:...) for the others")
            elif place not in ANSWER_RULES:
                raise ValueError(f"{place!r} must be {', '.join(f'`{r}`' for r in ANSWER_RULES)} or `pattern:REGEX`")
        return value


class Regrade(Settings):
    """Another grading of the samples from some round on; `ratchet rescore` writes it. Evaluations stay with `grade`, so
    that rounds can be compared: to change these too, fork with another `grade`."""

    round: Count
    """The first round whose samples are graded so."""
    grade: Grade
    """As the section `grade`, all of it."""


class Pairs(Settings):
    """From scored samples to preference pairs (arXiv 2404.19733, section 2) or to completions that are imitated."""

    rule: Literal["zip", "best_worst", "margin", "longest_correct", "correct"] = "zip"
    """How a prompt's samples are paired. `zip`: walk the correct and the wrong ones together, wrapping, to
    `per_prompt` pairs. `best_worst`: the highest score against the lowest, one pair. `margin`: any two whose scores
    differ by `margin` or more. `longest_correct`: the longest correct one against a random wrong one. `correct`: no
    pairs, but correct samples alone, to be imitated (`loss.dpo` is 0). A score is 1 for correct and 0 for wrong, or
    what `source: judge` gives."""
    per_prompt: CountSchedule = 4
    """Pairs a prompt (K), by round; with `rule: correct`, samples a prompt."""
    margin: Positive = 1.0
    """Least difference of scores that `rule: margin` pairs."""
    gold_as_chosen: bool | Literal["only"] = False
    """Put the worked gold solution among the correct samples; `only` takes nothing but it (SPIN, arXiv 2401.01335)."""
    rejected: Literal["wrong", "any"] = "wrong"
    """Which samples may be rejected: `wrong` ones, or `any` (SPIN). `any` needs `gold_as_chosen: only`."""
    distinct: Literal["none", "text", "equations"] = "none"
    """Use only one of several samples of a prompt that have the same `text`, or the same list of `equations` (RFT,
    arXiv 2308.01825)."""
    max_pairs: Count | None = None
    """Keep a seeded random subset of so many pairs a round."""
    replay: Annotated[float, BeforeValidator(_no_bool), Field(ge=0, le=1)] = 0.0
    """Share of every earlier round's pairs that is trained on again, drawn at random; 0 is none, 1 all of them."""
    replay_rounds: Count | None = None
    """How many earlier rounds `replay` goes back; null is all of them."""
    append_eos: bool = True
    """Close the sides of preference data with the EOS token. Gold solutions always are; what was sampled has EOS
    exactly where it was sampled."""

    @model_validator(mode="after")
    def _fits(self) -> Pairs:
        if self.rejected == "any" and self.gold_as_chosen != "only":
            raise ValueError(
                "`rejected: any` may reject a correct sample, which only a gold solution is better than: set "
                "`gold_as_chosen: only`"
            )
        return self


class Stages(Settings):
    """Preference data, trained on chunk by chunk, one a round (sDPO, arXiv 2403.19270); for `source: dataset`."""

    sources: list[SourceOrPath] = Field(min_length=1)
    """Preference data, one chunk each: rows with `chosen`, `rejected` and `prompt`, as plain text or as lists of
    messages with `role` and `content`. The prompt may also be `question`, `query`, `problem`, `instruction` (followed
    by `input`, if there is one) or `input`, with the system message in `system`. Where the sides of every row repeat
    it, they are taken without it; where most but not all do, the data are refused. Where no column may be it, it is
    what both sides begin with (as in TRL). With `initial_reason_steps` (Step-DPO's data), the sides are single steps
    that follow these; that needs `pairs.append_eos: false`. A row that is none of these is refused; one with an empty
    or equal sides, or that is too long, is left out and counted. Messages need a model with a chat template; plain text
    becomes messages where `data.chat` is true."""
    template: str = "{prompt}"
    """Text of a prompt where the rows have plain text; `{prompt}` is the row's own, `{system}` its column `system`."""
    split: Count | None = None
    """Cut a single source into so many chunks, at random; rows with the same prompt stay together."""
    order: Literal["easy_first", "given", "random"] = "easy_first"
    """Order of the chunks: `easy_first` begins with the one of which the seed model ranks most pairs right, that is,
    finds the chosen side likelier than the rejected one."""
    drop_seen: bool = False
    """A stage's reference must not know the stage's data. Pairs with a completion that the reference has been trained
    on are refused, or, with this, left out and counted."""

    @field_validator("template")
    @classmethod
    def _has_the_prompt(cls, value: str) -> str:
        if "{prompt}" not in value:
            raise ValueError("it has no {prompt}, where the row's own prompt stands")
        return value

    @property
    def chunks(self) -> int:
        """Number of chunks, which is the number of stages."""
        return self.split or len(self.sources)

    @model_validator(mode="after")
    def _one_source(self) -> Stages:
        if self.split is not None and len(self.sources) > 1:
            raise ValueError("`split` cuts a single source; several sources are a chunk each")
        return self


class Judge(Settings):
    """A model behind an OpenAI-compatible endpoint that judges what others have written."""

    model: NonEmpty
    """Its name at the endpoint."""
    base_url: str | None = None
    """Address of the endpoint, such as `http://localhost:8000/v1`; null takes OPENAI_BASE_URL, else OpenAI's own."""
    api_key_env: str = "OPENAI_API_KEY"
    """Name of the environment variable that holds the key; the key itself is never written anywhere."""
    max_requests: Count | None = None
    """Most requests of a run, repeated ones included; null sets no limit. What is in the cache costs none."""
    concurrency: Count = 8
    """Requests under way at once."""
    timeout: Positive = 60.0
    """Seconds that one request may take."""
    retries: CountOrZero = 4
    """How often a request that failed is repeated, with growing pauses."""
    temperature: NonNegative = 0.0
    """Sampling temperature of the judge."""
    max_tokens: Count = 1024
    """Longest reply, in tokens."""

    @model_validator(mode="after")
    def _holds_no_secret(self) -> Judge:
        # Of the whole section: an error about a single key would show its value.
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", self.api_key_env):
            raise ValueError(
                "`api_key_env` must be the name of an environment variable, such as OPENAI_API_KEY, and not the key: "
                "what a job file holds is written into the run"
            )
        if self.base_url is not None:
            try:
                address = urlsplit(self.base_url)
                known = address.scheme in ("http", "https") and address.hostname and address.port != 0
            except ValueError:  # a port that is none, an open bracket
                known = None
            if not known:
                raise ValueError("`base_url` is no address; write one such as http://localhost:8000/v1")
            if address.username is not None:
                raise ValueError(
                    "`base_url` must hold no name or password: what a job file holds is written into the run"
                )
        return self


class Steps(Settings):
    """Pairs of single steps (Step-DPO, arXiv 2406.18629); for `source: steps`."""

    opening: str = "Let's think step by step.\nStep 1:"
    """Text that opens the answer, so that it comes in steps; the prompt ends in it."""
    split: str = "markers"
    """What begins a step: `markers` ("Step 2:" at the start of a line), `lines` (a line is a step), or
    `pattern:REGEX`."""
    localiser: Literal["rollouts", "judge", "file"] = "rollouts"
    """Who finds the first wrong step: `rollouts` (a prefix is right when enough continuations reach the gold answer;
    binary search over the steps), `judge` (see `judge`), or `file` (questions are written as JSONL, and people's
    verdicts read)."""
    rollouts: Count = 8
    """Continuations of a prefix."""
    threshold: Fraction = 0.25
    """Share of a prefix's rollouts that must reach the gold answer for the prefix to be right; at least one must."""
    rectifications: Count = 20
    """Continuations from the last right step, for a right step to be chosen from; the rollouts from there are among
    them."""
    filter: Literal["none", "judge"] = "none"
    """`judge` leaves out pairs whose right answer has a step that the judge does not call correct, or that it gives no
    verdict on."""
    verdicts: NonEmpty | None = None
    """JSONL file with the verdicts for `localiser: file`, in the run's folder unless it is absolute: one line an
    answer, with its `id` and `first_wrong`, a number or null. For jobs of one round; null is `verdicts/round-01.jsonl`,
    and so on by round."""
    open_evaluation: bool = False
    """Open the answers to gate and test in the same way."""

    @field_validator("split")
    @classmethod
    def _splits(cls, value: str) -> str:
        name, _, pattern = value.partition(":")
        if value in ("markers", "lines"):
            return value
        if name != "pattern":
            raise ValueError(f"{value!r} must be `markers`, `lines` or `pattern:REGEX`")
        if _compiled(pattern).match(""):
            raise ValueError(f"{value!r} matches no text at all, so every place in an answer would begin a step")
        return value


class SelfJudge(Settings):
    """The model's own judgement as score (Self-Rewarding, arXiv 2401.10020); for `source: judge`."""

    template: str = ""
    """Text of a prompt for a judgement: `{prompt}` is the prompt, `{response}` the completion to be judged. Sent as a
    user message where `data.chat` is true. Empty takes the paper's additive 5-point prompt."""
    pattern: str = r"(?i:score):\s*(\d+(?:\.\d+)?)"
    """Regular expression with one group, the score; the last match counts."""
    lowest: Number = 0.0
    """Lowest score; one outside the scale is no judgement."""
    highest: Number = 5.0
    """Highest score."""
    samples: Count = 3
    """Judgements a completion, which are averaged; those without a score are left out."""
    temperature: NonNegative = 1.0
    """Sampling temperature of a judgement."""
    max_tokens: Count = 512
    """Longest judgement, in tokens."""

    @field_validator("template")
    @classmethod
    def _shows_the_response(cls, value: str) -> str:
        if value and "{response}" not in value:
            raise ValueError("it has no {response}, where the completion to be judged stands")
        return value

    @model_validator(mode="after")
    def _has_a_scale(self) -> SelfJudge:
        if self.lowest >= self.highest:
            raise ValueError(f"`lowest` ({self.lowest:g}) must be below `highest` ({self.highest:g})")
        return self

    @field_validator("pattern")
    @classmethod
    def _one_group(cls, value: str) -> str:
        if (groups := _compiled(value).groups) != 1:
            raise ValueError(f"{value!r} has {groups} groups and needs one; write (?:...) for the others")
        return value


class Loss(Settings):
    """`dpo` * L_DPO(beta) + `nll` * L_NLL, the mean over pairs (arXiv 2404.19733, equation 1)."""

    form: Literal["sigmoid", "squared"] = "sigmoid"
    """The term that `dpo` weighs: `sigmoid` is DPO's (arXiv 2305.18290, equation 7); `squared` pulls the log-ratio of
    chosen and rejected to +1/(2 beta) and -1/(2 beta) (SPPO with hard wins, arXiv 2405.00675, equation 4.5, where
    beta is 1/eta)."""
    beta: PositiveSchedule = 0.1
    """Strength of the pull to the reference, by round."""
    dpo: NonNegativeSchedule = 1.0
    """Weight of the DPO term, by round."""
    nll: NonNegativeSchedule = 1.0
    """Weight of the negative log-likelihood of the chosen completion (the paper's alpha), by round."""
    nll_scope: Literal["response", "prompt+response"] = "response"
    """Tokens that the NLL covers; the paper's first version also covers the prompt."""
    nll_normalisation: Literal["sequence", "batch"] = "sequence"
    """`sequence`: each sequence's NLL is divided by its own length, as in the paper. `batch`: one
    mean over all tokens of the batch."""


class Train(Settings):
    """Training with a group of DeepSpeed ranks."""

    ranks: Count = 1
    """Number of training processes, one accelerator each."""
    zero: Annotated[int, BeforeValidator(_no_bool), Field(ge=0, le=3)] = 1
    """DeepSpeed ZeRO stage: 0 replicates, 1 shards optimizer state, 2 gradients too, 3 weights too."""
    offload_optimizer: bool = False
    """Keep the optimizer's state in CPU memory."""
    precision: Literal["fp32", "bf16"] = "bf16"
    """`bf16` computes in bfloat16 with float32 master weights; `fp32` does everything in float32."""
    learning_rate: NonNegativeSchedule = 7e-7
    """Peak learning rate, by round; 0 is a control run."""
    schedule: Literal["constant", "linear", "cosine"] = "linear"
    """Shape after the warm-up."""
    warmup_steps: CountOrZero = 0
    """Steps of linear warm-up from 0."""
    warmup_ratio: Annotated[float, BeforeValidator(_no_bool), Field(ge=0, lt=1)] = 0.0
    """Share of the round's steps that are warm-up, instead of `warmup_steps`."""
    final_ratio: Annotated[float, BeforeValidator(_no_bool), Field(ge=0, le=1)] = 0.0
    """Learning rate that the schedule ends at as a share of the peak; the step after the last would have it
    (linear and cosine)."""
    batch_pairs: Count = 16
    """Pairs a step, over all ranks."""
    epochs: Count = 1
    """Passes over the round's pairs."""
    token_budget: Count | None = None
    """Train on so many real tokens a round, however many passes over its pairs that takes, instead of `epochs`: what
    makes methods comparable. The step that reaches it is the last."""
    max_steps: Count | None = None
    """At most so many steps a round."""
    eval_every: Count | None = None
    """Answer the gate problems with the policy after every so many steps of a round too, not only at its end. Each
    such checkpoint is on disk until the choice between them is made."""
    select: Literal["last", "best"] = "last"
    """Which of a round's checkpoints is the candidate: the `last`, or the `best` on the gate problems (of equals
    the earliest). `best` needs `eval_every`."""
    retrain: bool = False
    """Once the best number of steps is known, train again from the start for so many steps, with pairs of the gate
    problems among the others (arXiv 2404.19733, section 3.1). Such a gate decides nothing: `promotion.rule` must be
    `always`."""
    order: Literal["pairs", "prompts"] = "pairs"
    """`pairs` shuffles pairs. `prompts` shuffles prompts and keeps a prompt's pairs together, so that
    a batch holds each prompt and each of its completions once."""
    weight_decay: NonNegative = 0.0
    """AdamW weight decay."""
    betas: tuple[Momentum, Momentum] = (0.9, 0.999)
    """AdamW betas."""
    epsilon: Positive = 1e-8
    """AdamW epsilon."""
    max_grad_norm: Positive | None = 1.0
    """Clip the gradient's norm; null does not clip."""
    tokens_per_microbatch: Count = 4096
    """Most real tokens that go through the model at once on a rank."""
    max_tokens: Count | None = None
    """Drop, and count, pairs with a side longer than this many tokens, prompt included."""
    activation_checkpointing: bool = False
    """Recompute activations in the backward pass to save memory."""
    attention: Literal["auto", "sdpa", "flex"] = "auto"
    """Attention over trees of completions: `sdpa` anywhere, `flex` (FlexAttention) on GPU; `auto` picks."""
    export_dtype: Literal["float32", "bfloat16"] | None = None
    """Number format of the checkpoint's weights; null takes the model's own."""
    save_every: Count | None = None
    """Save the training's state after every so many steps, besides every `save_minutes`."""
    save_minutes: NonNegative = 10.0
    """Save the training's state when so many minutes have passed since it was saved last: what a crash can cost."""
    stall_timeout: Positive = 1800.0
    """Seconds without any progress after which the ranks are taken for hung and started again."""

    @model_validator(mode="after")
    def _selects(self) -> Train:
        if self.warmup_steps and self.warmup_ratio:
            raise ValueError("give `warmup_steps` or `warmup_ratio`, not both")
        if self.select == "best" and self.eval_every is None:
            raise ValueError("`select: best` needs `eval_every`, the number of steps between the checkpoints")
        if self.retrain and self.select != "best":
            raise ValueError("`retrain` needs `select: best`, which finds the number of steps to train for")
        return self


class Promotion(Settings):
    """When a candidate becomes the next reference; decided on the gate problems alone."""

    rule: Literal["always", "not_worse", "better"] = "not_worse"
    """`not_worse` refuses a candidate that is significantly worse than the best reference so far,
    `better` accepts only one that is significantly better (one-sided exact McNemar test)."""
    alpha: Annotated[float, BeforeValidator(_no_bool), Field(gt=0, lt=1)] = 0.05
    """Significance level of the test."""


class Evaluate(Settings):
    """Greedy evaluation on gate and test, before round 1 and after each round."""

    max_tokens: Count | None = None
    """Longest answer in tokens; null takes `generate.max_tokens`."""
    probe_tolerance: Positive = 0.05
    """Largest mean difference of a token's log-probability between trainer and engine, in nats."""


class Keep(Settings):
    """What stays on the disk."""

    checkpoints: Count | None = None
    """Promoted checkpoints that are kept, the newest first; the reference and the best always are. Null keeps all."""
    training_states: CountOrZero = 1
    """Saved states of an unfinished training that are kept; 0 saves none, and a crash costs the round's training."""


class Cluster(Settings):
    """Which Ray cluster to use, and how much of it."""

    address: str | None = None
    """Ray address to join; null joins `RAY_ADDRESS` if that is set, and starts a local one otherwise."""
    cpus_per_engine: Count | None = None
    """CPU cores of an engine; null shares out the cores of a machine without accelerators."""
    cpus_per_rank: Count | None = None
    """CPU cores of a training rank; null shares out likewise."""
    accelerators: Literal["auto", "none"] = "auto"
    """`none` stays on CPU even where the cluster has accelerators."""
    timeout: Positive = 120.0
    """Seconds to wait for the cluster to answer and to have the resources free."""


class Tracking(Settings):
    """MLflow."""

    enabled: bool = True
    """Track the run in MLflow."""
    uri: str | None = None
    """Tracking address; null is `mlflow.db` (SQLite) in the folder of runs. It must hold no password, which would be
    written into the run: MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN, are read from
    the environment, and a database's client has a file of its own (`~/.pgpass`, `my.cnf`)."""
    experiment: str | None = None
    """Experiment's name; null takes the job's name."""


OWN_REFERENCES = ("previous", "base")
"""Values of `reference` that name no model outside the run."""


class Job(Settings):
    """One job: rounds of generate, score, pair, train, evaluate, promote."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)]
    """Name of the job and of its run folder `runs/<name>`."""
    method: Method = "irpo"
    """Which method's settings are the defaults; see below."""
    source: Literal["sample", "gold", "dataset", "steps", "judge"] = "sample"
    """What a round trains on: `sample` (its own samples, scored against gold answers), `gold` (the gold solutions),
    `dataset` (preference data, see `stages`), `steps` (single steps, see `steps`), or `judge` (its own samples, scored
    by the model itself, see `self_judge`)."""
    rounds: Count = 3
    """Number of rounds. A finished run goes on from where it is when this is raised."""
    seed: CountOrZero = 0
    """Seed of everything random; each part derives its own from it."""
    run_dir: str | None = None
    """Run folder; null is `runs/<name>` in RATCHET_HOME, else in the project's or the current folder."""
    model: str
    """The seed model: a Hugging Face folder (relative to the job file's folder, else the current one), or a model on
    the Hub, `ORG/NAME` or `ORG/NAME@REVISION` (branch, tag or commit), or a checkpoint of another run,
    `run:NAME@roundN`, or `run:NAME` for its current reference; NAME is the run's name or, with a `/`, its folder. A run
    keeps a model of the Hub or of another run as it was at its start."""
    init: Literal["previous", "base"] = "previous"
    """What a round's training starts from: the current reference, or the seed model."""
    reference: Literal["previous", "base"] | str = "previous"
    """The reference model of a round's loss: `previous` (the last promoted checkpoint), `base` (the seed model), or one
    and the same model for all rounds, named as `model` is; a folder of one of these two names is written `./base`. It
    must have the seed model's vocabulary. A run keeps it as it was at its start."""
    data: Data = Data()
    generate: Generate = Generate()
    grade: Grade = Grade()
    regrade: Regrade | None = None
    pairs: Pairs = Pairs()
    stages: Stages | None = None
    steps: Steps = Steps()
    judge: Judge | None = None
    self_judge: SelfJudge = SelfJudge()
    loss: Loss = Loss()
    train: Train = Train()
    evaluate: Evaluate = Evaluate()
    promotion: Promotion = Promotion()
    keep: Keep = Keep()
    cluster: Cluster = Cluster()
    tracking: Tracking = Tracking()

    @property
    def fixed_reference(self) -> str | None:
        """The model that `reference` names; None where it is one of the run's own."""
        return None if self.reference in OWN_REFERENCES else self.reference

    @model_validator(mode="after")
    def _makes_sense(self) -> Job:
        for problem in _contradictions(self):
            raise ValueError(problem)
        return self

    @model_validator(mode="after")
    def _untrained_gate(self) -> Job:
        if self.train.retrain and self.promotion.rule != "always":
            raise ValueError(
                "`train.retrain` trains on the gate problems, which can decide nothing after that: set "
                "`promotion.rule: always`, or leave `retrain` out"
            )
        return self

    @field_validator("seed")
    @classmethod
    def _seed_fits(cls, value: int) -> int:
        if value >= 2**31:
            raise ValueError("must be below 2147483648")
        return value


def _contradictions(job: Job) -> Iterator[str]:
    """Settings that make no sense together, each with the reason and the cure."""
    imitates = job.source == "gold" or job.pairs.rule == "correct"
    dpo, nll = (w if isinstance(w, list) else [w] for w in (job.loss.dpo, job.loss.nll))
    for number in range(1, max(len(dpo), len(nll)) + 1):
        if not at_round(job.loss.dpo, number) and not at_round(job.loss.nll, number):
            yield f"`loss.dpo` and `loss.nll` are both 0 in round {number}: there is nothing to learn from"
    if job.source == "dataset" and job.stages is None:
        yield "`source: dataset` needs `stages.sources`, the files or data sets with preference data"
    if job.source != "dataset" and job.stages is not None:
        yield f"`stages` is for `source: dataset` (method sdpo); with `source: {job.source}` nothing reads it"
    if job.source != "dataset" and job.data.train is None:
        yield f"`source: {job.source}` needs `data.train`, the problems that prompts are drawn from"
    yield from _missing_problems(job)
    if imitates and job.source in ("dataset", "steps", "judge"):
        yield f"`pairs.rule: correct` imitates correct samples; with `source: {job.source}` there are none"
    if imitates and any(dpo):
        yield (
            "`loss.dpo` compares with rejected completions, and there are none to imitate gold solutions or correct "
            "samples: set `loss.dpo: 0` and `loss.nll: 1`"
        )
    if not any(dpo) and job.fixed_reference is not None:
        yield (
            f"`reference: {job.fixed_reference}` names a model that nothing is compared with: `loss.dpo` is 0. Leave "
            "`reference` out, or set `loss.dpo`"
        )
    if not any(dpo) and job.source == "steps":
        yield "`source: steps` makes pairs of steps, which `loss.dpo: 0` would not use: the rejected ones are the point"
    if (job.source == "gold" or job.pairs.gold_as_chosen) and job.data.solution is None:
        key = "source: gold" if job.source == "gold" else "pairs.gold_as_chosen"
        yield f"`{key}` needs `data.solution`, the field with the worked gold solution"
    if (job.source == "gold" or job.pairs.gold_as_chosen) and not job.pairs.append_eos:
        yield "`pairs.append_eos: false` is for preference data: a model that imitates gold solutions must learn to end"
    if job.source == "judge" and job.pairs.rule not in ("best_worst", "margin"):
        yield "`source: judge` gives scores, no verdicts: set `pairs.rule: best_worst` or `margin`"
    if job.generate.hint and (job.source != "sample" or job.data.hint_template is None):
        yield "`generate.hint` needs `source: sample` and `data.hint_template`, the prompt that gives the answer away"
    if job.generate.hint and job.pairs.rule != "correct":
        yield "`generate.hint` gives further correct samples to imitate: set `pairs.rule: correct` and `loss.dpo: 0`"
    if job.generate.hint and job.pairs.gold_as_chosen:
        yield "`generate.hint` is for prompts without a solution to imitate, and `pairs.gold_as_chosen` gives all one"
    yield from _too_much_of_scores(job)
    yield from _no_better_and_worse(job)
    longest = job.generate.max_model_len
    if job.source == "judge" and longest is not None and job.self_judge.max_tokens >= longest:
        yield (
            f"`self_judge.max_tokens` ({job.self_judge.max_tokens}) leaves no room for a prompt in "
            f"`generate.max_model_len` ({longest})"
        )
    if job.source == "dataset" and job.reference == "previous" and job.pairs.replay:
        yield (
            "`pairs.replay` trains on earlier stages' data again, which the reference has seen by then: a reference "
            "must not know its stage's data. Set `pairs.replay: 0`, or `reference: base`"
        )
    if job.source == "dataset" and job.stages and job.rounds > job.stages.chunks:
        yield f"`rounds` is {job.rounds}, and `stages` gives {job.stages.chunks} chunks, one a round"
    if job.source == "steps" and "judge" in (job.steps.localiser, job.steps.filter) and job.judge is None:
        yield "`steps.localiser: judge` and `steps.filter: judge` need `judge.model`, the model that judges"
    if job.steps.localiser == "file" and job.steps.verdicts is not None and job.rounds > 1:
        yield (
            f"`steps.verdicts` is one file, and each of {job.rounds} rounds asks about other answers: leave it out, "
            "and write verdicts/round-01.jsonl and so on in the run's folder"
        )
    if job.source == "steps" and job.pairs.gold_as_chosen:
        yield (
            "`pairs.gold_as_chosen` puts whole gold solutions into pairs, and those of `source: steps` are of "
            "single steps: leave it out"
        )
    for key, grade in (("grade", job.grade), ("regrade.grade", job.regrade.grade if job.regrade else None)):
        if grade and "judge" in grade.graders and job.judge is None:
            yield f"`judge` among `{key}.graders` needs `judge.model`, the model that judges"
    if job.train.retrain and job.source != "sample":
        yield "`train.retrain` makes pairs of the gate problems as of the others, with `source: sample` only"


def _too_much_of_scores(job: Job) -> Iterator[str]:
    """Rules that ask more of the scores than they tell."""
    pairs = job.pairs
    lowest, highest = (job.self_judge.lowest, job.self_judge.highest) if job.source == "judge" else (0.0, 1.0)
    if job.source == "judge" and pairs.gold_as_chosen:
        yield "`pairs.gold_as_chosen` needs verdicts: with `source: judge` a gold solution has no score"
    if pairs.gold_as_chosen == "only" and pairs.rule in ("best_worst", "margin"):
        yield (
            f"`pairs.rule: {pairs.rule}` goes by scores alone, and would take other samples than the gold solution: "
            "with `gold_as_chosen: only` set `rule: zip`"
        )
    if pairs.rule == "margin" and pairs.margin > highest - lowest:
        yield f"`pairs.margin` is {pairs.margin:g}, and no two scores from {lowest:g} to {highest:g} are so far apart"


def _no_better_and_worse(job: Job) -> Iterator[str]:
    """Sampling that can give no pair, whatever the model says."""
    only_samples = job.pairs.rule != "correct" and not job.pairs.gold_as_chosen
    paired, generate = job.source == "judge" or (job.source == "sample" and only_samples), job.generate
    schedules = (s for s in (generate.samples, generate.temperature) if isinstance(s, list))
    for number in range(1, min(job.rounds, max(map(len, schedules), default=1)) + 1):
        if paired and at_round(generate.samples, number) == 1:
            yield f"`generate.samples` is 1 in round {number}, and a pair takes a better and a worse sample of a prompt"
        if (paired or job.source == "steps") and not any(
            generate.temperature_mix or [at_round(generate.temperature, number)]
        ):
            yield f"the temperature is 0 in round {number}: all samples of a prompt are then the same, and make no pair"


def _missing_problems(job: Job) -> Iterator[str]:
    """Held-out problems that only a job with nothing but preference data can do without."""
    if job.source != "dataset" and job.data.test is None:
        yield f"`source: {job.source}` needs `data.test`, held-out problems that are reported"
    if job.data.gate is not None:
        return
    if job.promotion.rule != "always":
        yield f"`promotion.rule: {job.promotion.rule}` needs `data.gate`, the held-out problems that decide"
    elif job.source != "dataset":
        yield f"`source: {job.source}` needs `data.gate`, held-out problems of the same kind"
    elif job.train.eval_every is not None:
        yield "`train.eval_every` answers the gate problems, and there is no `data.gate`"


HARMLESS = (
    "rounds",
    "run_dir",
    "keep",
    "cluster",
    "tracking",
    "generate.engines",
    "generate.max_num_seqs",
    "generate.start_timeout",
    "generate.stall_timeout",
    "train.save_every",
    "train.save_minutes",
    "train.stall_timeout",
    "grade.processes",
    "regrade.grade.processes",
    "train.tokens_per_microbatch",
    "train.activation_checkpointing",
    "train.offload_optimizer",
    "judge.base_url",
    "judge.api_key_env",
    "judge.max_requests",
    "judge.concurrency",
    "judge.timeout",
    "judge.retries",
)
"""Keys that may differ when a run is resumed, since they change no result, or only its rounding."""


def is_harmless(key: str) -> bool:
    """Whether a dotted key is among the `HARMLESS` ones, or in a section that is."""
    return any(key == harmless or key.startswith(harmless + ".") for harmless in HARMLESS)
